"""Sampling engines: the policy itself, or a plugin's engine, whose answers are checked.

    engine = Engine.build(catalog, {"name": "continuous-batching"}, policy, say)     # None for {}: the policy itself
    with engine.on(policy) as writer:                # has the policy's current weights
        writer.generate(prompts, Sampling(), seeds)  # in place of `policy.generate`

Any error in an engine stops the run with `EngineError`, which names the engine and its plugin.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypeVar

from pydantic import BaseModel, ConfigDict

from mmalign.contract.specs import Entry
from mmalign.errors import EngineError, MmalignError, raised_at
from mmalign.language.sampling import Generated
from mmalign.rl.named import find_named

if TYPE_CHECKING:
    from torch import Tensor

    from mmalign.language.protocols import AnswersProcessor
    from mmalign.language.sampling import Sampling
    from mmalign.registry.catalog import Catalog
    from mmalign.rl.episodes import Policy

_Result = TypeVar("_Result")


class SamplingEngine(Protocol):
    """Samples answers instead of the policy's own `generate`. Its `EngineSpec` says how far draws can be repeated."""

    Config: ClassVar[type[BaseModel]]

    def __init__(self, config: Any) -> None: ...

    def open(self, policy: "Policy") -> None:
        """Called once, before sampling. Raises UsageError if it cannot sample from this model or on its device."""
        ...

    def refresh(self, policy: "Policy") -> None:
        """Called before each batch of prompts: the policy's weights may have changed."""
        ...

    def generate(
        self, policy: "Policy", prompts: "Sequence[Tensor]", sampling: "Sampling", seeds: Sequence[int]
    ) -> Generated:
        """Sample an answer to each prompt [T] of ids, in order, with the log-probabilities it was sampled by, after
        temperature and top-p. Called for every turn of a batch. seeds: one per prompt."""
        ...

    def rest(self) -> None:
        """Called after each batch, failed or not: free memory for training."""
        ...


class OwnGeneration:
    """The engine `policy`: the policy's own `generate`."""

    class Config(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, config: Any) -> None:
        self.config = config

    def open(self, policy: "Policy") -> None:
        return None

    def refresh(self, policy: "Policy") -> None:
        return None

    def generate(
        self, policy: "Policy", prompts: "Sequence[Tensor]", sampling: "Sampling", seeds: Sequence[int]
    ) -> Generated:
        return policy.generate(prompts, sampling, seeds)

    def rest(self) -> None:
        return None


def find(catalog: "Catalog", options: Mapping[str, Any]) -> "tuple[Entry, BaseModel]":
    """The engine that `rollout.engine` names, and its validated options; raises UsageError, PluginError."""
    return find_named(catalog, "engine", options, such="rollout.engine.name=continuous-batching")


class Engine:
    """An opened engine. exact: see `EngineSpec`."""

    def __init__(self, entry: Entry, engine: SamplingEngine) -> None:
        self._entry, self._engine = entry, engine
        self.exact: bool = entry.spec.exact

    @classmethod
    def build(
        cls, catalog: "Catalog", options: Mapping[str, Any], policy: "Policy", say: Callable[[str], None]
    ) -> Self | None:
        """Open the engine; None without options. say: gets notes for the user. Raises as `find` and `open`."""
        if not options:
            return None
        entry, config = find(catalog, options)
        engine = cls(entry, catalog.load(entry)(config))
        engine._call("opening", lambda: engine._engine.open(policy))
        if not (entry.spec.exact or entry.spec.reproducible):
            say(f"engine {entry.spec.name}: its draws cannot be repeated, so neither can this run")
        return engine

    @contextmanager
    def on(self, policy: "Policy") -> "Iterator[Writer]":
        """A writer with the policy's current weights; raises EngineError."""
        try:
            self._call("taking the policy's weights", lambda: self._engine.refresh(policy))
            yield Writer(self, policy, policy.processor)
        finally:
            self._call("resting", self._engine.rest)

    def generate(
        self, policy: "Policy", prompts: "Sequence[Tensor]", sampling: "Sampling", seeds: Sequence[int]
    ) -> Generated:
        """Sample answers and check them; raises EngineError."""
        generated = self._call("generate", lambda: self._engine.generate(policy, prompts, sampling, seeds))
        problem = _problem(generated, len(prompts), sampling.max_tokens, policy.processor)
        if problem:
            raise self._failure(f"generate gave {problem}")
        return generated

    def _call(self, doing: str, work: "Callable[[], _Result]") -> "_Result":
        try:
            return work()
        except MmalignError:
            raise
        except Exception as error:  # a plugin's code, which may raise anything
            raise self._failure(
                f"{doing} raised {type(error).__name__}: {error}{raised_at(error, self._entry.spec.target)}"
            ) from error

    def _failure(self, problem: str) -> EngineError:
        hint = f"Without it: --set rollout.engine={{}}. Try: mmalign plugins check {self._entry.plugin}"
        return EngineError(f"engine {self._entry.spec.name} (plugin {self._entry.plugin}): {problem}", hint=hint)


@dataclass
class Writer:
    """Generates with an engine instead of the policy."""

    engine: Engine
    policy: "Policy"
    processor: "AnswersProcessor"

    def generate(
        self,
        prompts: "Sequence[Tensor]",
        sampling: "Sampling",
        seeds: Sequence[int],
        on_token: Callable[[int, int], None] | None = None,
    ) -> Generated:
        """on_token: called for every token once all are sampled."""
        generated = self.engine.generate(self.policy, prompts, sampling, seeds)
        if on_token is not None:
            for row, ids in enumerate(generated.ids):
                for token in ids.tolist():
                    on_token(row, token)
        return generated


def _problem(generated: Any, num_answers: int, most: int, processor: "AnswersProcessor") -> str:
    """What is wrong with generated answers, or an empty text."""
    if not isinstance(generated, Generated) or {len(field) for field in generated} != {num_answers}:
        return f"no `mmalign.language.sampling.Generated` of {num_answers} answers"
    for row, (ids, logps, ended) in enumerate(zip(*generated, strict=True)):
        if ids.ndim != 1 or ids.shape != logps.shape or not 1 <= len(ids) <= most:
            return f"ids {list(ids.shape)} and logps {list(logps.shape)} in row {row}, where {most} tokens are allowed"
        if int(ids.min()) < 0 or int(ids.max()) >= processor.num_tokens:
            return f"an id outside of the vocabulary of {processor.num_tokens:,} in row {row}"
        if not bool(logps.isfinite().all()) or float(logps.max()) > 1e-3:
            return f"numbers that are no log-probabilities in row {row}"
        ends = [index for index, token in enumerate(ids.tolist()) if token in processor.end_ids]
        if ends != ([len(ids) - 1] if ended else []):
            return f"end tokens at {ends} of {len(ids)} tokens in row {row}, although its `ended` is {ended}"
    return ""
