"""Conformance of sampling engines: the policy's log-probabilities, and the same answers again if the spec says so.

The checks sample from a tiny Llama on the CPU. An engine that cannot do this is skipped with its own error message.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from mmalign.contract.specs import Entry
from mmalign.errors import UsageError
from mmalign.language.sampling import Sampling
from mmalign.testing.bench import Check, Skip, Workbench

if TYPE_CHECKING:
    from torch import Tensor

    from mmalign.language.sampling import Generated
    from mmalign.rl.engines import Engine

TOLERANCE = 1e-3  # nats per token: float32 with other kernels
_EXACT = 1e-5  # nats per token, for an exact engine
_POLICY = "tiny-llama"
_SAMPLING = Sampling(max_tokens=8, temperature=0.7)


def checks(entry: Entry, bench: Workbench) -> list[Check]:
    return [
        Check(f"engine {entry.spec.name}: {title}", partial(function, entry, bench))
        for title, function in _CHECKS.items()
    ]


def leaves_the_name(entry: Entry, bench: Workbench) -> None:
    """`name` is the section's own key, so an option of this name would never reach the engine."""
    assert "name" not in bench.catalog.load_config(entry).model_fields, "an option called name belongs to the section"


def draws_what_it_says(entry: Entry, bench: Workbench) -> None:
    """Each answer's log-probabilities are the model's at the sampling temperature, before and after weights change."""
    import torch

    engine, policy = _opened(entry, bench)
    limit = _EXACT if entry.spec.exact else TOLERANCE
    for moved in (False, True):
        if moved:
            with torch.no_grad():
                for parameter in policy.module.parameters():
                    parameter.mul_(1.5)
        answers = _drawn(engine, policy)
        for row, (prompt, ids, logps) in enumerate(zip(_prompts(), answers.ids, answers.logps, strict=True)):
            gap = float((_logps(policy, prompt, ids) - logps).abs().max())
            when = "after the weights changed" if moved else "before any change of the weights"
            assert gap <= limit, f"answer {row}: log-probabilities differ from the model's by {gap:.1e}, {when}"


def repeats(entry: Entry, bench: Workbench) -> None:
    """The same seeds draw the same answers, and other seeds draw others."""
    import torch

    if not (entry.spec.reproducible or entry.spec.exact):
        raise Skip("the engine's spec says that it is not reproducible")
    engine, policy = _opened(entry, bench)
    first, again, other = (_drawn(engine, policy, start).ids for start in (0, 0, 100))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True)), "the same seeds draw other answers"
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True)), "other seeds draw the same answers"
    if entry.spec.exact:
        own = policy.generate(_prompts(), _SAMPLING, _seeds(0)).ids
        assert all(torch.equal(a, b) for a, b in zip(first, own, strict=True)), (
            "the policy's own `generate` draws other answers"
        )


def leaves_things_alone(entry: Entry, bench: Workbench) -> None:
    """Random state, module modes, weights and the model's outputs are unchanged."""
    import torch

    engine, policy = _opened(entry, bench)

    def state() -> list[Any]:
        modes = [module.training for module in policy.module.modules()]
        attention = policy.module.config._attn_implementation
        return [torch.get_rng_state().tolist(), modes, attention, _logps(policy, _prompts()[0], _prompts()[1]).tolist()]

    before = state()
    _drawn(engine, policy)
    names = ("random state", "modules' modes", "attention implementation", "the model's outputs")
    for name, old, new in zip(names, before, state(), strict=True):
        assert old == new, f"the engine changes the {name}"


_CHECKS: dict[str, Callable[[Entry, Workbench], None]] = {
    "its options leave name to the section": leaves_the_name,
    "draws from the model as it is": draws_what_it_says,
    "the same seeds, the same answers": repeats,
    "leaves model and random state alone": leaves_things_alone,
}


def _opened(entry: Entry, bench: Workbench) -> "tuple[Engine, Any]":
    from mmalign.models.references import find_source
    from mmalign.rl.engines import Engine
    from mmalign.testing.subjects import load

    policy = load(find_source(str(bench.model(_POLICY)), bench.catalog), bench)
    required = [name for name, f in bench.catalog.load_config(entry).model_fields.items() if f.is_required()]
    if required:
        raise Skip(f"no defaults for {', '.join(required)}")
    try:
        engine = Engine.build(bench.catalog, {"name": entry.qualified}, policy, lambda line: None)
    except UsageError as error:
        raise Skip(error.message) from error
    assert engine is not None
    return engine, policy


def _drawn(engine: "Engine", policy: Any, first: int = 0) -> "Generated":
    with engine.on(policy) as writer:
        return writer.generate(_prompts(), _SAMPLING, _seeds(first))


def _seeds(first: int) -> list[int]:
    return list(range(first, first + len(_prompts())))


def _prompts() -> "list[Tensor]":
    import torch

    return [torch.arange(5, 5 + length) for length in (3, 3, 7, 1, 12)]


def _logps(policy: Any, prompt: "Tensor", ids: "Tensor") -> "Tensor":
    """[T] log-probabilities of one answer, from one pass of the policy over that answer alone."""
    import torch

    from mmalign.language.sequences import Sequences

    one = Sequences.from_lists([prompt], [[ids]], [[torch.ones(len(ids), dtype=torch.bool)]])
    with torch.no_grad():
        return policy.token_logps(policy.hidden_states(one), temperature=_SAMPLING.temperature).logps
