"""What draws answers: the policy itself, or an engine that a plugin brings, whose answers are checked.

    engine = Engine.build(catalog, {"name": "continuous-batching"}, policy, say)     # None for {}: the policy itself
    with engine.on(policy) as writer:                # it has the policy's weights as they are
        writer.generate(prompts, Sampling(), seeds)  # as `policy.generate`: episodes are played with it

Whatever goes wrong in an engine stops the run with `EngineError`, which names it and its plugin.
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

_Found = TypeVar("_Found")


class SamplingEngine(Protocol):
    """What draws answers in place of the policy's own `generate`. Its spec says how far it can be repeated."""

    Config: ClassVar[type[BaseModel]]

    def __init__(self, config: Any) -> None: ...

    def open(self, policy: "Policy") -> None:
        """Once, before anything is drawn. Raises UsageError where it cannot draw from this model, or on its device."""
        ...

    def refresh(self, policy: "Policy") -> None:
        """Before each batch of prompts: the policy's weights may be others than before."""
        ...

    def generate(
        self, policy: "Policy", prompts: "Sequence[Tensor]", sampling: "Sampling", seeds: Sequence[int]
    ) -> Generated:
        """An answer to each prompt [T] of ids, in order, with the log-probabilities by which it was drawn, temperature
        and top-p included. Called for every turn of a batch. seeds: one a row, of this step and place."""
        ...

    def rest(self) -> None:
        """The batch is drawn, or has failed: give back what memory training can use."""
        ...


class OwnGeneration:
    """The engine `policy`: what is drawn where none is named."""

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
    """An engine, opened. exact: see `EngineSpec`."""

    def __init__(self, entry: Entry, engine: SamplingEngine) -> None:
        self._entry, self._engine = entry, engine
        self.exact: bool = entry.spec.exact

    @classmethod
    def build(
        cls, catalog: "Catalog", options: Mapping[str, Any], policy: "Policy", say: Callable[[str], None]
    ) -> Self | None:
        """None where no options are given. say: what a user is to know about it. Raises as `find` and `open`."""
        if not options:
            return None
        entry, config = find(catalog, options)
        found = cls(entry, catalog.load(entry)(config))
        found._call("opening", lambda: found._engine.open(policy))
        if not (entry.spec.exact or entry.spec.reproducible):
            say(f"engine {entry.spec.name}: its draws cannot be repeated, so neither can this run")
        return found

    @contextmanager
    def on(self, policy: "Policy") -> "Iterator[Writer]":
        """Within, what the policy with its present weights would write; raises EngineError."""
        try:
            self._call("taking the policy's weights", lambda: self._engine.refresh(policy))
            yield Writer(self, policy, policy.processor)
        finally:
            self._call("resting", self._engine.rest)

    def generate(
        self, policy: "Policy", prompts: "Sequence[Tensor]", sampling: "Sampling", seeds: Sequence[int]
    ) -> Generated:
        """Checked; raises EngineError."""
        found = self._call("generate", lambda: self._engine.generate(policy, prompts, sampling, seeds))
        wrong = _wrong(found, len(prompts), sampling.max_tokens, policy.processor)
        if wrong:
            raise self._failure(f"generate gave {wrong}")
        return found

    def _call(self, doing: str, work: "Callable[[], _Found]") -> "_Found":
        try:
            return work()
        except MmalignError:
            raise
        except Exception as error:  # a plugin's code, which may raise anything
            raise self._failure(
                f"{doing} raised {type(error).__name__}: {error}{raised_at(error, self._entry.spec.target)}"
            ) from error

    def _failure(self, what: str) -> EngineError:
        hint = f"Without it: --set rollout.engine={{}}. Try: mmalign plugins check {self._entry.plugin}"
        return EngineError(f"engine {self._entry.spec.name} (plugin {self._entry.plugin}): {what}", hint=hint)


@dataclass
class Writer:
    """What writes in the policy's place."""

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
        """on_token hears of the tokens when all are drawn."""
        found = self.engine.generate(self.policy, prompts, sampling, seeds)
        if on_token is not None:
            for row, ids in enumerate(found.ids):
                for token in ids.tolist():
                    on_token(row, token)
        return found


def _wrong(found: Any, rows: int, most: int, processor: "AnswersProcessor") -> str:
    """What is wrong with generated answers; empty where nothing is."""
    if not isinstance(found, Generated) or {len(part) for part in found} != {rows}:
        return f"no `mmalign.language.sampling.Generated` of {rows} answers"
    for row, (ids, logps, ended) in enumerate(zip(*found, strict=True)):
        if ids.ndim != 1 or ids.shape != logps.shape or not 1 <= len(ids) <= most:
            return f"ids {list(ids.shape)} and logps {list(logps.shape)} in row {row}, where {most} tokens are allowed"
        if int(ids.min()) < 0 or int(ids.max()) >= processor.num_tokens:
            return f"an id outside of the vocabulary of {processor.num_tokens:,} in row {row}"
        if not bool(logps.isfinite().all()) or float(logps.max()) > 1e-3:
            return f"numbers that are no log-probabilities in row {row}"
        ends = [place for place, token in enumerate(ids.tolist()) if token in processor.end_ids]
        if ends != ([len(ids) - 1] if ended else []):
            return f"end tokens at {ends} of {len(ids)} places in row {row}, which is said to have ended: {ended}"
    return ""
