"""An objective on a tiny model with the engine that trains it, for the checks of objectives.

trainer = build_trainer(entry, "tiny-gpt2", bench)
result, gradients = trainer.gradients(trainer.batches)
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mmalign.contract.specs import Entry, RewardSpec
from mmalign.testing.bench import Workbench

if TYPE_CHECKING:
    from torch import Tensor

    from mmalign.contract.batch import Batch
    from mmalign.contract.feed import Feed
    from mmalign.contract.objective import Context
    from mmalign.registry.compat import Verdict
    from mmalign.rl.rollout import Sampler

EXACT = 1e-10  # float64, different summation order
SINGLE = 1e-5  # for models that compute in float32 even with float64 weights (Llama's norms)
ANSWERS, ANSWER_TOKENS = 4, 4  # of online objectives: answers to each prompt, and tokens of the longest
_SEED = 0


@dataclass
class Trainer:
    """An objective on a fresh model with the engine that trains it, dropout off, and one batch of each stream.

    steps: number of steps so far. An online objective samples new answers in each step.
    """

    entry: Entry
    objective: Any
    models: Any
    engine: Any
    batches: "list[Batch]"
    catalog: Any
    feed: "Feed"
    steps: int = 0

    @property
    def passes(self) -> tuple[int, int]:
        return self.feed.passes

    def prepare(self, batches: "list[Batch]", micro_batch_size: int = 0, first_row: int = 0) -> "list[Batch]":
        """first_row: index of the batches' first row in the global batch."""
        import torch

        from mmalign.contract.objective import Context

        ctx = Context(
            _SEED,
            self.steps,
            self.engine.processes.sum,
            micro_batch_size or len(batches[0]),
            first_row=first_row,
        )
        with torch.no_grad():
            return [
                self.objective.prepare(self.models, self._completed(batch, ctx), ctx)
                if batch.stream == "main"
                else batch
                for batch in batches
            ]

    def outputs(self, batch: "Batch") -> dict[str, Any]:
        """The outputs of all phases of the batch's stream."""
        return {k: v for phase in self.engine.of(batch) for k, v in phase.forward(self.models, batch).items()}

    def _completed(self, batch: "Batch", ctx: "Context") -> "Batch":
        """The batch with the outputs of frozen roles and, if the objective samples, with answers."""
        batch = batch.with_columns(**self.objective.frozen(self.models, batch))
        return self.feed.complete(self.models["policy"], batch, ctx)

    @cached_property
    def limit(self) -> float:
        """The allowed difference between two ways of computing the same value: smaller differences are rounding."""
        import torch
        from torch.utils._python_dispatch import TorchDispatchMode

        single = []

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                result = func(*args, **(kwargs or {}))
                if isinstance(result, torch.Tensor) and result.dtype == torch.float32 and result.numel() > 1:
                    single.append(func)
                return result

        # Online objectives sample and score in float32, once, before batches are split.
        prepared = None if self.feed.comparable_loss else self.prepare(self.batches)
        with Watch(), torch.no_grad():
            for batch in prepared or self.prepare(self.batches):
                self.outputs(batch)
        return SINGLE if single else EXACT

    def gradients(self, batches: "list[Batch]", micro_batch_size: int = 0) -> "tuple[Any, dict[str, Tensor | None]]":
        """Prepare these batches, then return the result and the gradients of one update; gradients start at zero."""
        return self.gradients_of(self.prepare(batches, micro_batch_size), micro_batch_size)

    def gradients_of(
        self, prepared: "list[Batch]", micro_batch_size: int = 0
    ) -> "tuple[Any, dict[str, Tensor | None]]":
        from mmalign.train.step import accumulate

        for module in self.models.modules():
            module.zero_grad(set_to_none=True)
        result = accumulate(self.engine, prepared, micro_batch_size)
        trained = self.models.trainable()
        known = {id(p) for _, p in trained}
        every = ((f"{role}.{name}", p) for role, b in self.models.items() for name, p in b.module.named_parameters())
        named = [*trained, *((name, p) for name, p in every if id(p) not in known)]
        return result, {name: None if p.grad is None else p.grad.clone() for name, p in named}

    def train(self, steps: int, optimizer: Any) -> list[float]:
        """Losses of `steps` steps on the same batch; for an online objective, mean scores of the sampled answers."""
        from mmalign.train.step import updates

        history = []
        for _ in range(steps):
            main, *others = self.prepare(self.batches)
            beside = {batch.stream: batch for batch in others}
            loss = 0.0  # of the last update
            for batches in updates(self.passes, _SEED, self.steps, main, beside):
                optimizer.zero_grad(set_to_none=True)
                result, _ = self.gradients_of(batches)
                loss = float(result.loss)
                optimizer.step()
                self.objective.constrain(self.models)
            self.steps += 1
            history.append(loss if self.feed.comparable_loss else float(main["score"].mean()))
        return history

    def optimizer(self, learning_rate: float) -> Any:
        from mmalign.train.optim import build_optimizer

        builder = self.catalog.load(self.catalog.find("optimizers", "adamw"))
        config = builder.Config(weight_decay=0.0)
        return build_optimizer(builder, config, self.models.trainable(), learning_rate, self.models.peaks)


def build_trainer(
    entry: Entry,
    reference: str,
    bench: Workbench,
    *,
    size: int = 8,
    exact: bool = True,
    options: Mapping[str, Any] = MappingProxyType({}),
    backbone: Mapping[str, Any] = MappingProxyType({}),
) -> Trainer:
    """A trainer in float64 (`exact`) or float32; skips if the objective does not run on that model.

    options, backbone: options of the objective and of the model that differ from the defaults.
    """
    from mmalign.testing.subjects import CLASSES, load, require_compatible, resolve_or_skip, through_view
    from mmalign.train.build import wire
    from mmalign.train.config import TrainConfig
    from mmalign.train.distributed import Processes

    source = resolve_or_skip(reference, bench)
    verdict = require_compatible(entry.spec, source, bench)
    policy = through_view(load(source, bench, **backbone), verdict)
    target = bench.catalog.load(entry)
    objective = target(target.Config(**options))
    models, engine = wire(entry.spec, objective, policy, TrainConfig(), Processes("cpu"), classes=CLASSES)
    if exact:
        for module in models.modules():
            module.double()
    models.eval()
    batches = _batches(entry, objective, policy.processor, size, exact, bench, verdict)
    feed = _feed(entry, objective, policy.processor)
    return Trainer(entry, objective, models, engine, batches, bench.catalog, feed)


def _batches(
    entry: Entry, objective: Any, processor: Any, size: int, exact: bool, bench: Workbench, verdict: "Verdict"
) -> "list[Batch]":
    from mmalign.testing.subjects import make_batch

    batches = []
    for stream in ("main", *entry.spec.streams(objective.config)):
        kind = (verdict.kinds if stream == "main" else entry.spec.examples[stream])[0]
        room = ANSWER_TOKENS if entry.spec.online and stream == "main" else 0
        batch = make_batch(kind, processor, size, bench, answer_tokens=room, pairs=verdict.pairs)
        columns = {name: _cast(column) if exact else column for name, column in batch.columns.items()}
        batches.append(type(batch)(columns, stream=stream, size=len(batch)))
    return batches


def _feed(entry: Entry, objective: Any, processor: Any) -> "Feed":
    from mmalign.data.feed import FixedExamples
    from mmalign.rl.config import RolloutConfig
    from mmalign.rl.feed import SampledAnswers

    if not entry.spec.online:
        return FixedExamples()
    config = RolloutConfig(samples=ANSWERS, max_tokens=ANSWER_TOKENS)
    return SampledAnswers(_sampler(config, processor), objective, entry.spec.fewest_answers, processor)


def _sampler(config: Any, processor: Any) -> "Sampler":
    from mmalign.rl.rewards import Chosen, RewardList
    from mmalign.rl.rollout import Sampler
    from mmalign.testing.even_tokens import EvenTokens

    target = f"{EvenTokens.__module__}:{EvenTokens.__name__}"
    spec = RewardSpec(name="even-tokens", summary="The share of even ids", target=target, examples=())
    chosen = Chosen(spec.name, 1.0, Entry("rewards", "mmalign.testing", spec), None)
    return Sampler(config, processor, RewardList([(chosen, EvenTokens(None))]))


def _cast(column: Any) -> Any:
    import torch

    from mmalign.language.sequences import Sequences

    if isinstance(column, Sequences) and column.pictures is not None:
        return replace(column, pictures=column.pictures.double())
    return column.double() if isinstance(column, torch.Tensor) and column.is_floating_point() else column
