"""Optimisers of plugins: options of their own, and a state of any dtype that a resumed run has again to the bit."""

import sys

import pytest
import torch
from mmalign_optimizers.adamw import AdamW

from mmalign.contract.optimizer import ParameterGroup
from mmalign.errors import CheckpointError, PluginError, UsageError
from mmalign.testing import conformance
from mmalign.train import checkpoint
from mmalign.train.optim import OptimizerState, build_optimizer
from tests.support.project import EXAMPLES
from tests.support.resume_cases import assert_same_run, lab_with_plugin, newest

sys.path.append(str(EXAMPLES / "mmalign-momentum8" / "src"))

test_example = conformance("mmalign_momentum8")


@pytest.fixture(scope="module")
def own_lab(tmp_path_factory):
    """A lab whose catalog has the example's optimiser."""
    with lab_with_plugin(
        tmp_path_factory.mktemp("own"), "momentum8", "from mmalign_momentum8 import register_optimizers\n"
    ) as lab:
        yield lab


@pytest.mark.parametrize("objective", ["sft", "contrastive"])
def test_a_state_of_8_bits_and_integers_resumes_to_the_bit(own_lab, objective) -> None:
    options = ("optimizer.name=momentum8", "optimizer.beta=0.8")
    whole = own_lab.begin(own_lab.plan(objective, "micro-batches", *options))
    saved = checkpoint.load(newest(whole.folder))
    momenta = {name: tensor for name, tensor in saved.optimizer.items() if name.endswith("/momentum")}
    assert momenta and all(tensor.dtype == torch.uint8 for tensor in momenta.values())
    kept = saved.state["optimizer"]
    assert {value for name, value in kept["values"].items() if name.endswith("/num_updates")} == {6}
    assert kept["groups"] == [{"num_calls": 6}] * len(kept["groups"]), "what it changes itself, and no option"
    for moment in ("1/6", "3/6", "5/6"):
        run = own_lab.copy(whole.moments[moment])
        own_lab.resume(run)
        assert_same_run(run, whole.folder)


def test_its_rate_is_a_multiple_of_adamws_where_none_is_given(own_lab) -> None:
    rates = {}
    for name in ("adamw", "momentum8"):
        plan = own_lab.plan("sft", "whole", f"optimizer.name={name}", "train.learning_rate=0")
        rates[name] = plan.train.learning_rate
    assert rates["momentum8"] == pytest.approx(0.3 * rates["adamw"])
    assert "0.3 times AdamW's" in plan.reasons["learning_rate"]


def test_options_are_checked_and_old_ones_say_where_they_are(own_lab) -> None:
    for option, words in (
        ("optimizer.betta=1", r"optimizer\.betta: unknown key"),
        ("optimizer.name=adam", "adamw"),
        ("train.weight_decay=0.1", "train.weight_decay: unknown key. It is optimizer.weight_decay now"),
    ):
        with pytest.raises(UsageError, match=words):
            own_lab.plan("sft", "whole", option)


def test_a_run_of_the_first_format_goes_on(lab) -> None:
    """Options of AdamW in `train`, and a checkpoint whose optimiser is tensors alone."""
    import json

    import yaml

    whole = lab.begin(lab.plan("sft", "micro-batches", "optimizer.weight_decay=0.3"))
    run = lab.copy(whole.moments["3/6"])
    config = yaml.safe_load((run / "config.yaml").read_text())
    options = config.pop("optimizer")
    assert options.pop("name") == "adamw"
    config["train"] |= options
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    folder = newest(run)
    state = json.loads((folder / "state.json").read_text())
    del state["optimizer"]
    (folder / "state.json").write_text(json.dumps(state))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["format"] = 1
    manifest["files"]["state.json"] = checkpoint._digest(folder / "state.json")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    lab.resume(run)
    assert_same_run(run, whole.folder)


class _Odd:
    """Builders that break the contract, by name."""

    @staticmethod
    def leaves_out(groups, config):
        return torch.optim.SGD([groups[0].parameters[0][1]], lr=1.0)

    @staticmethod
    def mixes(groups, config):
        return torch.optim.SGD([p for group in groups for _, p in group.parameters], lr=1.0)


@pytest.mark.parametrize(
    ("build", "words"), [("leaves_out", "exactly the 2 parameters"), ("mixes", "several learning rates")]
)
def test_a_builder_that_breaks_the_contract_is_named(build, words) -> None:
    named = [(name, torch.nn.Parameter(torch.ones(2))) for name in ("policy.a", "critic.b")]
    builder = type("Builder", (), {"build": staticmethod(getattr(_Odd, build))})
    with pytest.raises(PluginError, match=words):
        build_optimizer(builder, None, named, 1e-3, {"critic": 2e-3})


def test_nested_states_lists_and_tuples_come_back(monkeypatch) -> None:
    """Whatever a state is made of; and a value that no file can hold is named."""

    class Nested(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                group["span"] = (group["span"][0] + 1, 2)
                for p in group["params"]:
                    state = self.state[p]
                    inner = state.setdefault("inner", {"count": 0, "parts": [torch.zeros(2, dtype=torch.int16), None]})
                    inner["count"] += 1
                    inner["parts"][0] += 3

    def start():
        named = [("policy.a", torch.nn.Parameter(torch.ones(2)))]
        optimizer = Nested([named[0][1]], lr=1.0)
        optimizer.param_groups[0] |= {"span": (0, 2)}
        return named[0][1], optimizer, OptimizerState(optimizer, named)

    p, optimizer, state = start()
    optimizer.step()
    optimizer.step()
    q, other, restored = start()
    restored.restore(*state.capture())
    assert other.param_groups[0]["span"] == (2, 2) and other.state[q]["inner"]["count"] == 2
    parts = other.state[q]["inner"]["parts"]
    assert parts[0].dtype == torch.int16 and parts[0].tolist() == [6, 6] and parts[1] is None
    optimizer.state[p]["inner"]["odd"] = object()
    with pytest.raises(CheckpointError, match=r"inner/odd of policy\.a is object, which a checkpoint cannot hold"):
        state.capture()


def test_adamw_decays_matrices_alone_and_is_torchs_own() -> None:
    matrix, bias = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    group = ParameterGroup((("policy.w", matrix), ("policy.b", bias)), 1e-3)
    optimizer = AdamW.build([group], AdamW.Config(weight_decay=0.3))
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decays == {id(matrix): 0.3, id(bias): 0.0} and type(optimizer) is torch.optim.AdamW
