"""The micro-batch that memory decides: what is counted, that finding it changes nothing else, that a resume keeps it;
and what is said where memory does not suffice."""

import json
import os
import re
from pathlib import Path

import pytest
import torch

from mmalign.cli import run
from mmalign.contract.batch import Batch, Ragged
from mmalign.errors import ShortageError
from mmalign.train import fit, loop
from mmalign.train import run as launch
from mmalign.train.build import Job, assemble
from mmalign.train.distributed import Processes
from mmalign.train.layers import load_layers
from mmalign.train.live_bytes import LiveBytes
from mmalign.train.plan import make_plan
from mmalign.train.shortage import is_shortage
from tests.support.pictures import write_pairs
from tests.support.resume_cases import assert_same_run, measurements


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"))


def leave_room(monkeypatch: pytest.MonkeyPatch, room: float) -> None:
    """For forward and backward passes, in bytes."""
    monkeypatch.setattr(fit, "_limit", lambda job: fit._standing(job) + room)


# Counting -------------------------------------------------------------------------------------------------------------


def test_live_bytes_are_those_of_tensors_that_are_held() -> None:
    known = torch.ones(1000)
    with LiveBytes([known]) as count:
        a = known + 1  # 4,000 bytes
        view = a[::2]
        a.mul_(2)  # in place
        known.mul_(2)
        b = a * 2  # 8,000
        del a
        assert count.live == 8000  # the view holds it
        del view
        assert count.live == 4000
        c = b.double()  # 12,000
        assert (count.live, count.peak) == (12_000, 12_000)
        del b, c
    assert (count.live, count.peak) == (0, 12_000)


@pytest.mark.parametrize("size", [3, 6])
def test_what_autograd_keeps_is_counted(size: int) -> None:
    layer = torch.nn.Linear(10, 10)
    inputs = torch.randn(size, 10)
    with LiveBytes([*layer.parameters(), inputs]) as count:
        hidden = layer(inputs).exp().exp()  # two kept for the backward, and the linear layer's own result is freed
        row = size * 10 * 4
        assert count.live == 2 * row
        hidden.sum().backward()
    assert count.peak >= 4 * row


# The size -------------------------------------------------------------------------------------------------------------


def job_of(catalog, folder: Path, pairs: Path, *sets: str) -> tuple[Job, list]:
    names = {"objective": "contrastive", "backbone": str(folder), "dataset": str(pairs)}
    sets = ("train.batch_size=16", "data.num_workers=0", "dataset.holdout=0", *sets)
    job = assemble(make_plan(catalog, load_layers(sets=sets, names=names)), Processes("cpu"))
    job.models.train(freeze_batchnorm=False)
    _, batch = next(iter(job.stream(start_step=0)))
    return job, [batch]


def test_the_size_is_the_largest_that_has_room(catalog, tiny_bn_folder, pairs, monkeypatch) -> None:
    job, batches = job_of(catalog, tiny_bn_folder, pairs)
    with fit._unchanged(job):
        peaks = {n: fit._SLACK * fit._peak(job, batches[0].select(range(n))) for n in (4, 5, 8, 16)}
    leave_room(monkeypatch, peaks[16] * 1.3)
    assert fit.measure(job, batches).size == 0
    leave_room(monkeypatch, peaks[5])  # four passes of four
    found = fit.measure(job, batches)
    assert found.size == 4 and "more than the" in found.why
    assert peaks[4] <= peaks[5] < peaks[8]
    leave_room(monkeypatch, 0)
    assert fit.measure(job, batches).size == 1


def test_a_pass_that_cannot_be_counted_is_one_micro_batch(catalog, tiny_folder, pairs, monkeypatch) -> None:
    job, batches = job_of(catalog, tiny_folder, pairs)

    def refuse(*arguments):
        raise NotImplementedError("no such mode")

    monkeypatch.setattr(LiveBytes, "__torch_dispatch__", refuse)
    found = fit.measure(job, batches)
    assert found.size == 0 and "cannot be counted (NotImplementedError: no such mode)" in found.why
    monkeypatch.setattr(fit, "_peak", lambda *arguments: refuse_memory())
    assert fit.measure(job, batches).size == 1  # not even one example fits: the pass itself says so


def refuse_memory():
    raise MemoryError


def test_measuring_leaves_everything_as_it_was(catalog, tiny_bn_folder, pairs, monkeypatch) -> None:
    job, batches = job_of(catalog, tiny_bn_folder, pairs)
    state = {name: tensor.clone() for name, tensor in job.models.state().items()}
    modes = [layer.training for module in job.models.modules() for layer in module.modules()]
    before = torch.get_rng_state()
    leave_room(monkeypatch, 0)
    fit.measure(job, batches)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(tensor, state[name]) for name, tensor in job.models.state().items())
    assert [layer.training for module in job.models.modules() for layer in module.modules()] == modes
    assert all(parameter.grad is None for _, parameter in job.parameters) and not job.optimizer.state


def test_by_default_a_cpu_run_takes_half_of_the_memory_and_three_gigabytes_at_most(catalog, tiny_folder, pairs) -> None:
    job, _ = job_of(catalog, tiny_folder, pairs)
    assert fit._limit(job) <= 3e9
    assert fit._limit(job) <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2
    weights = sum(tensor.nbytes for tensor in job.models.state().values())
    trained = sum(parameter.nbytes for _, parameter in job.parameters)
    assert fit._standing(job) == pytest.approx(fit._PROGRAM + weights + 3 * trained, rel=1e-3)


def test_a_model_that_fills_three_gigabytes_leaves_a_pass_its_room(catalog, tiny_folder, pairs, monkeypatch) -> None:
    """Within half of the machine's memory: passes of single examples would take many times as long."""
    job, _ = job_of(catalog, tiny_folder, pairs)
    monkeypatch.setattr(fit, "_standing", lambda job: 3.5e9)
    monkeypatch.setattr(fit.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 16e9 // 4096}.__getitem__)
    monkeypatch.setattr(fit, "_CONTAINER", Path("none"))
    assert fit._limit(job) == 4.5e9
    monkeypatch.setattr(fit.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 8e9 // 4096}.__getitem__)
    assert fit._limit(job) == pytest.approx(4e9)


def test_costs_by_halves_are_those_of_each_row() -> None:
    rows = [torch.arange(n) for n in (3, 1, 4, 1, 5, 9, 2)]
    assert fit._costs(Batch({"ids": Ragged.from_list(rows)})) == [3, 1, 4, 1, 5, 9, 2]
    assert fit._costs(Batch({}, size=0)) == []


@pytest.mark.parametrize("objective", ["contrastive", "dpo", "ppo"])
def test_a_run_of_the_size_found_is_the_run_of_that_size(lab, objective, monkeypatch) -> None:
    """Coupled, with a reference, and with answers, turns and a second stream. Dropout is on where it is replayed."""
    leave_room(monkeypatch, 0)
    still = () if objective == "contrastive" else ("backbone.dropout=0", "backbone.neftune_alpha=0")
    options = ("train.steps=2", "train.eval_every=0", "evaluation.samples=0", *still)
    found = lab.begin(lab.plan(objective, "whole", *options)).folder
    assert json.loads((found / "run.json").read_text())["micro_batch_size"]["size"] == 1
    monkeypatch.undo()
    whole = lab.begin(lab.plan(objective, "whole", *options)).folder
    assert json.loads((whole / "run.json").read_text())["micro_batch_size"]["size"] == 0
    losses = [[r["loss"] for r in measurements(folder) if "loss" in r] for folder in (found, whole)]
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-4, abs=1e-5)
    if objective == "ppo":  # a given size decides how frozen roles are asked too
        return
    told = lab.begin(lab.plan(objective, "whole", *options, "train.micro_batch_size=1")).folder
    assert_same_run(found, told)


def test_a_resume_keeps_the_size_and_does_not_look_for_it(lab, monkeypatch) -> None:
    leave_room(monkeypatch, 0)
    whole = lab.whole("contrastive", "whole")
    stopped = lab.copy(whole.moments["3/6"])
    monkeypatch.setattr(fit, "measure", lambda *arguments: pytest.fail("it was found already"))
    monkeypatch.setattr(fit, "_limit", lambda job: 1e18)
    lab.resume(stopped)
    assert_same_run(stopped, whole.folder)


def test_a_run_of_a_version_without_these_options_goes_on_at_once(lab, monkeypatch) -> None:
    """Its config.yaml lacks epochs and warmup_share, its run.json the size: a step's examples were one micro-batch."""
    whole = lab.begin(lab.plan("contrastive", "whole"))
    stopped = lab.copy(whole.moments["3/6"])
    config = (stopped / "config.yaml").read_text()
    stripped = re.sub(r"^  (epochs|warmup_share): .*\n|^# .*\n", "", config, flags=re.MULTILINE)
    assert len(stripped) < len(config)
    (stopped / "config.yaml").write_text(stripped)
    info = json.loads((stopped / "run.json").read_text())
    del info["micro_batch_size"]
    (stopped / "run.json").write_text(json.dumps(info))
    leave_room(monkeypatch, 0)
    lab.resume(stopped)
    assert_same_run(stopped, whole.folder)


# Too little memory ----------------------------------------------------------------------------------------------------

ERRORS = (
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
)


def test_errors_of_memory_are_told_from_others() -> None:
    assert all(map(is_shortage, ERRORS))
    assert not is_shortage(RuntimeError("shape mismatch")) and not is_shortage(ValueError("out of memory"))


@pytest.mark.parametrize("error", ERRORS, ids=["python", "cuda", "cpu"])
def test_a_step_without_memory_ends_the_run_with_ways_out(lab, error, monkeypatch, tmp_path, capsys) -> None:
    calls = []

    def scarce(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise error
        return accumulate(*arguments)

    accumulate = loop.accumulate
    monkeypatch.setattr(loop, "accumulate", scarce)
    plan = lab.plan("dpo", "whole", "train.micro_batch_size=4", "train.save_every=1")
    with pytest.raises(ShortageError) as caught:
        launch.start(plan, lab.catalog, folder=tmp_path / "run", device="cpu", say=lambda line: None)
    told = f"{caught.value.message}\n{caught.value.hint}"
    assert caught.value.exit_code == 1 and "in step 4" in told
    assert "train.micro_batch_size=2 (now 4" in told
    assert "train.gradient_checkpointing=true" in told and "backbone.lora.rank=16" in told
    assert "the last checkpoint is of step 3" in told and "--allow-change" in told
    monkeypatch.setattr(loop, "accumulate", accumulate)
    lab.resume(tmp_path / "run", lambda line: None, "train.micro_batch_size=2")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "finished"


def test_a_dry_run_without_memory_says_so(tiny_folder, pairs, monkeypatch, capsys) -> None:
    from mmalign.train import estimate

    def scarce(*arguments):
        raise ERRORS[2]

    monkeypatch.setattr(estimate, "accumulate", scarce)
    names = ["--objective", "contrastive", "--backbone", str(tiny_folder), "--dataset", str(pairs)]
    assert run(["train", *names, "--dry-run", "--set", "train.batch_size=8", "--set", "data.num_workers=0"]) == 1
    err = capsys.readouterr().err
    assert "too little memory in the first 2 steps" in err and "train.micro_batch_size=4 (now 8" in err
    assert "Traceback" not in err and "fault of mmalign" not in err


def test_the_plan_says_the_micro_batch_and_the_passes(tiny_folder, pairs, monkeypatch, capsys) -> None:
    leave_room(monkeypatch, 0)
    names = ["--objective", "contrastive", "--backbone", str(tiny_folder), "--dataset", str(pairs)]
    assert run(["train", *names, "--dry-run", "--set", "train.batch_size=8", "--set", "data.num_workers=0"]) == 0
    out = capsys.readouterr().out
    assert "micro-batches of 1: a step's examples at once may take up to" in out
    assert re.search(r"200 steps of 8 are [\d.]+ passes over \d+ examples", out)
    assert re.search(r"train.learning_rate [\de.-]+: CLIP from random weights", out)
