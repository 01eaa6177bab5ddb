"""Build what a plan names: load weights, open data, make the optimiser and the engine.

job = assemble(plan, Processes("cpu"))
job.stream(start_step=0)       # iterates (step, Batch)
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from mmalign.contract.batch import Batch
from mmalign.contract.feed import Feed
from mmalign.contract.objective import Context, Objective
from mmalign.contract.specs import ObjectiveSpec
from mmalign.data.collate import Encoder
from mmalign.data.contents import first_pair, require_pairs
from mmalign.data.loader import Order, Stream
from mmalign.device import keep_freed_memory
from mmalign.display import Say
from mmalign.errors import DataError, IncompatibleError, UsageError, WrongKindError
from mmalign.hashing import stable_hash
from mmalign.models.load import load_model
from mmalign.registry.views import through
from mmalign.train import rng
from mmalign.train.compiling import check_compile, check_passes
from mmalign.train.config import TrainConfig
from mmalign.train.distributed import Processes
from mmalign.train.ema import MovingAverage
from mmalign.train.length import with_examples
from mmalign.train.next_steps import data_name
from mmalign.train.optim import OptimizerState, build_optimizer
from mmalign.train.plan import Plan
from mmalign.train.reference_cache import FrozenCache
from mmalign.train.roles import Models, build_models
from mmalign.train.shared_trunk import checkpoint_activations
from mmalign.train.step import Engine, StepModule, updates

Guard = Callable[[Callable[[], Any]], Any]


@dataclass
class Job:
    """Everything that a training loop works with. plan: with epochs converted to steps."""

    plan: Plan
    processes: Processes
    models: Models
    objective: Objective
    parameters: list[tuple[str, nn.Parameter]]
    optimizer: torch.optim.Optimizer
    optimizer_state: OptimizerState
    engine: Engine
    data: Any
    heldout: Any  # None: the data set has no validation examples
    encoder: Encoder
    feed: Feed
    others: Mapping[str, tuple[Any, Encoder]]  # data of streams besides the main one
    average: MovingAverage | None = None  # of the policy's weights
    frozen: FrozenCache | None = None  # outputs of frozen roles; None: they run at every step
    micro_batch_size: int = 0  # examples per forward pass and process; 0: this process's share of the batch
    measures_memory: bool = False  # the first update finds the micro-batch size that fits

    @property
    def train(self) -> TrainConfig:
        return self.plan.configs["train"]

    @property
    def device(self) -> torch.device:
        return self.engine.device

    @property
    def local_batch_size(self) -> int:
        return self.train.batch_size // self.processes.world_size

    @property
    def num_heldout(self) -> int:
        return len(self.heldout) if self.heldout is not None else 0

    @property
    def freezes_batchnorm(self) -> bool:
        """Whether the batch is split, so that running statistics would depend on the split; or passes in evaluation
        mode, as those of a reference or of sampling, are compared with those that learn."""
        return self._is_split or self.plan.verdict.view is not None

    @property
    def _is_split(self) -> bool:
        return self.processes.world_size > 1 or self.micro_batch < self.local_batch_size

    def batchnorm_note(self, num_frozen: int) -> str:
        """A line on layers that keep their running statistics."""
        why = "batch is split" if self._is_split else "answers are compared with those of evaluation mode"
        return f"{why}: running statistics of {num_frozen} BatchNorm layers are frozen"

    @property
    def micro_batch(self) -> int:
        """Examples per forward pass and process, never 0."""
        return self.micro_batch_size or -(-self.local_batch_size // self.engine.passes)

    def stream(self, start_step: int, bad: Mapping[str, str] | None = None) -> Stream:
        """This process's share of each batch from `start_step` on. bad: samples found unreadable before."""
        return self._stream(self.data, self.encoder, self.train.seed, self.train.batch_size, start_step, bad)

    def other_streams(self, start_step: int, bad: Mapping[str, str] | None = None) -> dict[str, Stream]:
        """`stream` for every other stream, each with its own order."""
        streams = {}
        for name, (data, encoder) in self.others.items():
            seed, size = stable_hash("stream", name, self.train.seed) >> 1, self.plan.streams[name].batch_size
            streams[name] = self._stream(data, encoder, seed, size, start_step, bad)
        return streams

    def _stream(
        self, data: Any, encoder: Encoder, seed: int, size: int, start_step: int, bad: Mapping[str, str] | None
    ) -> Stream:
        return Stream(
            data,
            encoder,
            Order(len(data), seed),
            batch_size=size,
            rank=self.processes.rank,
            world_size=self.processes.world_size,
            num_workers=self.plan.data.num_workers,
            start_step=start_step,
            max_bad=self.plan.data.max_bad,
            bad=bad,
        )

    def fingerprint(self) -> Any:
        """Fingerprint of all data; a resumed run compares it with the checkpoint's."""
        if not self.others:
            return self.data.fingerprint()
        return {"main": self.data.fingerprint()} | {name: data.fingerprint() for name, (data, _) in self.others.items()}

    def prepare(
        self,
        index: int,
        batch: Batch,
        guard: Guard = lambda work: work(),
        stage: Callable[[str], None] = lambda name: None,
    ) -> Batch:
        """Add what updates need: outputs of frozen roles, the feed's columns, then those of `Objective.prepare`.

        Without gradient or dropout; running statistics do not change. guard: see `Context`. stage: called with the name
        of a long stage.
        """
        train, objective = self.train, self.objective
        batch = batch.to(self.device)
        prepares = type(objective).prepare is not Objective.prepare or self.feed.long_steps
        if not prepares and type(objective).frozen is Objective.frozen:
            return batch
        self.models.eval()
        try:
            with torch.no_grad():
                batch = self.with_frozen(batch)
                if not prepares:
                    return batch
                stage(self.feed.stage)
                ctx = Context(
                    train.seed,
                    index,
                    self.processes.sum,
                    train.micro_batch_size or self.local_batch_size,
                    first_row=self.processes.rank * self.local_batch_size,
                    guard=guard,
                )
                with self.engine.autocast():  # rounded as in `forward`, whose results are compared with these
                    batch = self.feed.complete(self.models["policy"], batch, ctx)
                    batch = objective.prepare(self.models, batch, ctx)
                stage("training")
                return batch
        finally:
            self.models.train(freeze_batchnorm=self.freezes_batchnorm)
            self.engine.release()

    def updates(self, index: int, batch: Batch, others: Mapping[str, Batch]) -> Iterator[list[Batch]]:
        """The batches of each optimiser update of a step, one per stream; see `mmalign.train.step`."""
        return updates(self.feed.passes, self.train.seed, index, batch, others)

    def with_frozen(self, batch: Batch) -> Batch:
        """Add the outputs of frozen roles to a batch on the device. Call it in evaluation mode, without gradient."""
        if self.frozen is not None:
            return batch.with_columns(**self.frozen.columns(batch))
        with self.engine.autocast():
            return batch.with_columns(**self.objective.frozen(self.models, batch))


def assemble(plan: Plan, processes: Processes, say: Say = lambda line: None) -> Job:
    """Load and wire a plan; raises the errors of its parts. say: gets their notes for the user."""
    train = plan.train
    if train.batch_size % processes.world_size:
        nearest = max(1, train.batch_size // processes.world_size) * processes.world_size
        raise UsageError(
            f"train.batch_size={train.batch_size} cannot be divided evenly over {processes.world_size} processes",
            hint=f"Try: --set train.batch_size={nearest}",
        )
    check_compile(train, processes.device.type)
    if train.deterministic:
        rng.make_deterministic()
    if processes.device.type == "cpu":
        keep_freed_memory()
    data = _training_data(plan)
    if data is None or not len(data):
        raise DataError(f"{plan.dataset.spec.name} has no training examples", hint="Check its path and its columns.")
    plan = replace(plan, configs={**plan.configs, "train": (train := with_examples(train, len(data)))})
    rng.seed_everything(train.seed, rank=0)  # the same starting weights in every process
    heldout = plan.dataset_class.build(plan.configs["dataset"], "validation")
    _require_pairs(plan, data)
    view = functools.partial(_through_view, plan, (data, heldout), say)
    policy = view(load_model(plan.catalog, plan.source, plan.configs["backbone"]))
    objective = plan.objective_class(plan.configs["objective"])
    needs_classes = any(role.head == "classes" for role in plan.objective.spec.roles)
    models, engine = wire(
        plan.objective.spec,
        objective,
        policy,
        train,
        processes,
        classes=tuple(data.classes) if needs_classes else (),
        copies=not plan.caches_frozen,
        loaded={role: view(load_model(plan.catalog, source, say=say)) for role, source in plan.role_sources.items()},
    )
    parameters = models.trainable()
    pair, _ = first_pair(data) or (("", ""), "")
    columns = tuple(data[0].columns) if "columns" in {field.name for field in fields(plan.example_class)} else ()
    feed = plan.feed_class.open(
        plan.catalog,
        plan.rollout,
        plan.objective.spec,
        objective,
        models,
        share=train.batch_size // processes.world_size,
        columns=columns,
        pair=pair,
        device=processes.device,
        say=say,
    )
    builder = plan.catalog.load(plan.optimizer)
    optimizer = build_optimizer(builder, plan.configs["optimizer"], parameters, train.learning_rate, models.peaks)
    averaged = [(name, parameter) for name, parameter in parameters if name.startswith(("policy.", "policy_head."))]
    engine.release()  # memory that building used
    rng.seed_everything(train.seed, processes.rank)  # dropout differs between processes
    return Job(
        plan,
        processes,
        models,
        objective,
        parameters,
        optimizer,
        OptimizerState(optimizer, parameters),
        engine,
        data,
        heldout,
        Encoder(policy.processor, plan.example_class, train.seed, answer_tokens=feed.answer_tokens),
        feed,
        _others(plan, policy.processor, math.prod(feed.passes), processes),
        MovingAverage(averaged, train.ema_decay) if train.ema_decay else None,
        micro_batch_size=train.micro_batch_size,
        measures_memory=not train.micro_batch_size and not (train.compile and objective.coupled),
    )


def wire(
    spec: ObjectiveSpec,
    objective: Objective,
    policy: Any,
    train: TrainConfig,
    processes: Processes,
    *,
    classes: tuple[str, ...] = (),
    copies: bool = True,
    loaded: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[Models, Engine]:
    """Build an objective's roles as models on the processes' device, and the engine that trains them.

    classes: the data set's class names, for heads with a row per class. copies: give each frozen role a model of its
    own; else the trained role stands in for it. loaded: role -> model, for roles with a source of their own. Raises
    IncompatibleError if nothing trains.
    """
    roles = tuple(role for role in spec.roles if role.used(objective.config))
    critic = objective.config.critic if "critic" in type(objective.config).model_fields else None
    models = build_models(roles, policy, copies=copies, classes=classes, critic=critic, loaded=loaded)
    models.to(processes.device)
    if train.gradient_checkpointing:
        checkpoint_activations(models.trained_modules())
    phases = objective.phases(models)
    if not models.trainable():
        raise IncompatibleError("nothing to train: every parameter is locked", hint="Unlock a part: --set backbone.…")
    forward = StepModule(phases, models)
    if train.compile:
        check_passes(train, objective.coupled, processes.world_size)
        forward.compile()
    engine = Engine(
        objective,
        phases,
        forward,
        processes,
        processes.device,
        objective.weights,
        bf16=train.precision == "bf16",
        passes=1 if objective.coupled else models.passes,
        mixed=spec.online,
    )
    return models, engine


def _require_pairs(plan: Plan, data: Any) -> None:
    """Before weights are loaded: raises IncompatibleError for data whose prompts or answers the model does not read."""
    if plan.example.spec.pairs:
        name = plan.objective.spec.name
        who = f"{name} on {plan.source.reference} learns from"
        hint = f"Try other data, or another backbone: mmalign matrix {name}"
        require_pairs(who, data, plan.verdict.pairs, data_name(plan), hint)


def _through_view(plan: Plan, parts: tuple[Any, ...], say: Say, model: Any) -> Any:
    """The model as the plan's view of it, where the objective runs through one."""
    if plan.verdict.view is None:
        return model
    samples = plan.objective.spec.online
    return through(plan.verdict.view, model, plan.configs["backbone"], data=parts, samples=samples, say=say)


def _training_data(plan: Plan) -> Any:
    """Raises DataError; for data of another kind, its hint names the objectives that learn from them."""
    try:
        return plan.dataset_class.build(plan.configs["dataset"], "train")
    except WrongKindError as error:
        learn = [e for e in plan.catalog.entries("objectives") if error.looks_like in e.spec.examples["main"]]
        names = [plan.catalog.display_name(entry) for entry in learn]
        if not names:
            raise
        name = names[0] if len(names) == 1 else "NAME"
        hint = f"Objectives for {error.looks_like} data: {', '.join(names)}. Try: --objective {name}"
        raise DataError(error.message, hint=f"{hint}\n{error.hint}") from error


def _others(plan: Plan, processor: Any, updates: int, processes: Processes) -> dict[str, tuple[Any, Encoder]]:
    """(data, encoder) of every stream besides main. updates: number in a step; each gets a share of every stream."""
    others = {}
    for name, stream in plan.streams.items():
        if stream.batch_size % processes.world_size or stream.batch_size // processes.world_size < updates:
            raise UsageError(
                f"stream {name}: {stream.batch_size} examples per step cannot be divided evenly over "
                f"{processes.world_size} processes with at least one for each of {updates} updates",
                hint=f"Try {updates * processes.world_size} or a multiple.",
            )
        data = stream.dataset_class.build(stream.config, "train")
        if data is None or not len(data):
            raise DataError(f"{stream.dataset.spec.name} has no training examples for the stream {name}")
        others[name] = (data, Encoder(processor, stream.example_class, plan.train.seed))
    return others
