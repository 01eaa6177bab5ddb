"""The engine's promises on CUDA: replayed randomness, exact resume. Run with: python -m pytest -m gpu"""

import hashlib
import os
import signal

import pytest
import torch

from mmalign.stop import Interrupted
from mmalign.testing.bench import Workbench
from mmalign.train import run as launch
from mmalign.train.distributed import Processes
from mmalign.train.layers import load_layers
from mmalign.train.plan import make_plan
from mmalign.train.roles import Models
from mmalign.train.step import Engine, StepModule, accumulate
from tests.support.clip_batches import make_batch
from tests.support.pictures import write_pairs
from tests.support.resume_cases import Lab, assert_same_run

pytestmark = pytest.mark.gpu


def test_two_pass_with_dropout_equals_one_graph(load, tiny_folder) -> None:
    from mmalign_objectives.contrastive import Contrastive

    backbone = load(tiny_folder, patch_dropout=0.4)
    models = Models({"policy": backbone}, {"policy"})
    models.to("cuda")
    models.train(freeze_batchnorm=True)
    objective = Contrastive(Contrastive.Config())
    phases = {"main": (objective,)}
    forward = StepModule(phases, models)
    engine = Engine(objective, phases, forward, Processes("cuda"), torch.device("cuda"), objective.weights)
    batch = make_batch(backbone).to("cuda")
    torch.manual_seed(5)
    accumulate(engine, [batch], 2)
    got = {name: parameter.grad.clone() for name, parameter in models.trainable()}
    backbone.module.zero_grad()
    torch.manual_seed(5)
    parts = [engine.run(part) for part in batch.split(2)]
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    sums, _ = objective.loss(joined, batch)
    (sums["contrastive"] / len(batch)).backward()
    for name, parameter in models.trainable():
        torch.testing.assert_close(got[name], parameter.grad, rtol=1e-9, atol=1e-10, msg=name)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resume_is_exact(catalog, tiny_folder, tmp_path, precision) -> None:
    options = [
        "train.steps=8", "train.batch_size=8", "train.micro_batch_size=4", "train.save_every=2", "train.log_every=1",
        "train.deterministic=true", f"train.precision={precision}", "data.num_workers=0", "backbone.patch_dropout=0.3",
    ]  # fmt: skip
    names = {"objective": "contrastive", "backbone": str(tiny_folder), "dataset": str(write_pairs(tmp_path / "pairs"))}
    plan = make_plan(catalog, load_layers(sets=options, names=names))

    def interrupt(line: str) -> None:
        if line.startswith("step 5/"):
            os.kill(os.getpid(), signal.SIGINT)

    def digest(folder) -> str:
        return hashlib.sha256((folder / "model" / "open_clip_model.safetensors").read_bytes()).hexdigest()

    whole = launch.start(plan, catalog, folder=tmp_path / "whole", device="cuda", say=lambda line: None)
    with pytest.raises(Interrupted):
        launch.start(plan, catalog, folder=tmp_path / "cut", device="cuda", say=interrupt)
    resumed = launch.resume(
        tmp_path / "cut", catalog, sets=[], allow_change=False, device="cuda", say=lambda line: None
    )
    assert digest(resumed.folder) == digest(whole.folder)


@pytest.mark.parametrize("variant", ["micro-batches", "bf16"])
def test_every_objective_resumes_exactly(catalog, tmp_path, variant) -> None:
    lab = Lab(Workbench({}, {}), tmp_path, "cuda")
    for entry in catalog.entries("objectives"):
        whole = lab.begin(lab.plan(entry.qualified, variant, "train.deterministic=true"))
        run = lab.copy(whole.moments["5/6"])
        lab.resume_until(run, "step 5/6")
        lab.resume(run)
        assert_same_run(run, whole.folder)
