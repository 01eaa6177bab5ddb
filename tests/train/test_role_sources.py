"""Roles that say where their model comes from: the start, a model that an option names, another role."""

import json
import shutil

import pytest
import torch

from mmalign import ObjectiveSpec, Role
from mmalign.errors import IncompatibleError, PluginError, UsageError
from mmalign.language.derive import sequence_logps
from mmalign.models.load import load_model
from mmalign.models.references import find_source
from mmalign.train.build import assemble
from mmalign.train.distributed import Processes
from tests.support.resume_cases import assert_same_run, lab_with_plugin

SOURCE = '''
from mmalign import Objective, ObjectiveSpec, Role, hookimpl
from mmalign.contract.batch import Ragged
from mmalign.contract.objective import ObjectiveConfig
from mmalign.language.derive import sequence_logps
from mmalign.language.protocols import CausalLM

NEEDS = ("hidden_states", "token_logps")


@hookimpl
def register_objectives():
    roles = (
        Role(name="policy", needs=NEEDS),
        Role(name="teacher", needs=NEEDS, trains=False, source="objective.teacher"),
        Role(name="now", needs=NEEDS, trains=False, source="policy"),
    )
    spec = dict(roles=roles, examples={"main": ("completion",)})
    odd = (roles[0], Role(name="teacher", needs=NEEDS, trains=False, source="objective.tutor"))
    return [
        ObjectiveSpec(name="imitation", summary="Match a teacher", target="plug_imitation:Imitation", **spec),
        ObjectiveSpec(name="odd", summary="x", target="plug_imitation:Imitation", **{**spec, "roles": odd}),
    ]


class Imitation(Objective):
    """mean (log pi - log teacher)^2 of each answer."""

    class Config(ObjectiveConfig):
        teacher: str = ""

    def frozen(self, models, batch):
        sequences = batch["sequences"]
        logps = sequence_logps(models.role("teacher", CausalLM), sequences)
        return {"teacher": Ragged.of_lengths(logps, sequences.counts)}

    def forward(self, models, batch):
        assert models.role("now", CausalLM) is models.role("policy", CausalLM)
        return {"logps": sequence_logps(models.role("policy", CausalLM), batch["sequences"])}

    def loss(self, outputs, batch):
        return {"gap": (outputs["logps"] - batch["teacher"].values).square().sum()}, {}

    def count(self, batch):
        return {"gap": float(len(batch))}
'''


@pytest.fixture(scope="module")
def own_lab(tmp_path_factory):
    with lab_with_plugin(tmp_path_factory.mktemp("own"), "imitation", SOURCE) as lab:
        yield lab


@pytest.fixture(scope="module")
def teacher(own_lab):
    """A model of the same shape and tokenizer as the lab's, with other weights."""
    plan = own_lab.plan("sft", "whole")
    return str(own_lab.begin(plan).folder / "model")


@pytest.mark.parametrize("frozen", ["auto", "copy"])
def test_a_teacher_is_the_model_that_the_option_names(own_lab, teacher, frozen) -> None:
    options = (f"objective.teacher={teacher}", f"train.frozen_roles={frozen}", "backbone.dropout=0")
    plan = own_lab.plan("imitation", "whole", *options)
    job = assemble(plan, Processes("cpu"))
    batch = next(iter(job.stream(0)))[1]
    sequences = batch["sequences"]
    models = [
        load_model(own_lab.catalog, find_source(name, own_lab.catalog)) for name in (teacher, plan.source.reference)
    ]
    with torch.no_grad():
        of_teacher, at_start = (sequence_logps(model, sequences) for model in models)
    assert not torch.allclose(of_teacher, at_start)
    prepared = job.prepare(0, batch)
    torch.testing.assert_close(prepared["teacher"].values, of_teacher)
    without = own_lab.plan("imitation", "whole", f"train.frozen_roles={frozen}", "backbone.dropout=0")
    prepared = assemble(without, Processes("cpu")).prepare(0, batch)
    torch.testing.assert_close(prepared["teacher"].values, at_start)


def test_a_run_with_a_teacher_resumes_to_the_bit_and_notices_another(own_lab, teacher, tmp_path) -> None:
    moved = shutil.copytree(teacher, tmp_path / "teacher")
    whole = own_lab.begin(own_lab.plan("imitation", "micro-batches", f"objective.teacher={moved}"))
    losses = [json.loads(line) for line in (whole.folder / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1]["evaluation"]["heldout/loss"] < losses[0]["evaluation"]["heldout/loss"]
    run = own_lab.copy(whole.moments["3/6"])
    own_lab.resume(run)
    assert_same_run(run, whole.folder)
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps({**config, "note": "another"}))
    with pytest.raises(Exception, match="changed since the run started"):
        own_lab.resume(own_lab.copy(whole.moments["3/6"]))


def test_wrong_sources_are_refused_before_a_weight_is_loaded(own_lab) -> None:
    clip = str(own_lab.bench.model("tiny-open-clip"))
    for options, kind, words in (
        ((f"objective.teacher={clip}",), IncompatibleError, r"role teacher of imitation \(objective.teacher\)"),
        (("objective.teacher=/no/such/model",), UsageError, "/no/such/model"),
    ):
        with pytest.raises(kind, match=words):
            own_lab.plan("imitation", "whole", *options)
    with pytest.raises(PluginError, match="comes from the option 'tutor', which its Config lacks"):
        own_lab.plan("odd", "whole")


@pytest.mark.parametrize(
    ("roles", "words"),
    [
        ((Role(name="student", needs=()),), 'needs a role "policy"'),
        ((Role(name="policy", needs=(), trains=False),), 'needs a role "policy"'),
        ((Role(name="policy", needs=()), Role(name="policy", needs=())), "two roles have one name"),
        ((Role(name="policy", needs=()), Role(name="a", needs=(), source="b")), "one of the roles policy"),
        ((Role(name="policy", needs=()), Role(name="a", needs=(), source="a")), "one of the roles policy"),
    ],
)
def test_a_spec_with_roles_that_cannot_be_is_refused(roles, words) -> None:
    with pytest.raises(ValueError, match=words):
        ObjectiveSpec(name="x", summary="x", target="a:B", roles=roles, examples={"main": ("text",)})
