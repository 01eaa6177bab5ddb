"""The training loop, the same for every objective.

    loop = Loop(job, run, catalog, say=print)
    loop.go(stop)              # from the newest good checkpoint, or from the start

A step: draw the batch (a function of seed and step), prepare it, accumulate gradients over micro-batches, check that
all is finite, clip, update, constrain. A checkpoint is made between steps and holds all that the next step depends on.
"""

import functools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from mmalign.contract.batch import Batch
from mmalign.contract.capabilities import Capability
from mmalign.data.loader import Stream
from mmalign.display import Say, display_of
from mmalign.errors import CheckpointError, MmalignError, NonFiniteError, ShortageError
from mmalign.registry.catalog import Catalog
from mmalign.stop import Interrupted, StopRequest, interruptible
from mmalign.train import checkpoint, heldout, rng
from mmalign.train.baselines import measure_baselines
from mmalign.train.build import Guard, Job
from mmalign.train.fit import settle_micro_batch
from mmalign.train.optim import learning_rate, set_learning_rate
from mmalign.train.progress import Progress, describe
from mmalign.train.run_folder import Run
from mmalign.train.samples import write_samples
from mmalign.train.shortage import explained
from mmalign.train.snapshot import Moment
from mmalign.train.step import StepResult, accumulate, check_limits


class Loop:
    """One run of one job. `step` counts finished optimiser steps."""

    def __init__(self, job: Job, run: Run, catalog: Catalog, say: Say) -> None:
        self.job, self.run, self.catalog, self.say = job, run, catalog, display_of(say)
        self.step, self._saved = 0, -1  # _saved: step of the newest checkpoint
        self._mid_step, self.skipped_updates = False, 0  # _mid_step: the current step has changed weights
        self.bad_samples: dict[str, str] = {}
        self.truncated_texts = self.tokens = 0  # of this process: texts cut to the context; tokens read
        self._counts_tokens = Capability.TOKEN_LOGPS in job.plan.source.family.provides
        self.best: dict[str, Any] | None = None
        self._seconds_before, self._trained_before, self._started = 0.0, 0.0, time.perf_counter()
        self.progress = Progress(job, run, catalog, self.say)

    # The run ----------------------------------------------------------------------------------------------------------

    def go(self, stop: StopRequest, resumed: Callable[[], None] = lambda: None) -> None:
        """Train to the last step; a signal saves the state and raises Interrupted. resumed: called once the newest
        checkpoint is loaded, or if there is none."""
        train = self.job.train
        self.resume()
        resumed()
        if self._evaluation_is_due():
            signum = self.evaluate(stop)
            if signum is not None:
                raise Interrupted(signum)  # no step was made since the checkpoint, so a resume evaluates again
            if self._improved():
                self.save()  # again: this step's checkpoint does not yet say that it is the best
        num_frozen = self.job.models.train(freeze_batchnorm=self.job.freezes_batchnorm)
        if num_frozen and self.job.freezes_batchnorm:
            self.say(self.job.batchnorm_note(num_frozen))
        stream = self.job.stream(start_step=self.step, bad=self.bad_samples)
        others = self.job.other_streams(start_step=self.step, bad=self.bad_samples)
        sources = (stream, *others.values())
        self.progress.restart()
        try:
            while self.step < train.steps:
                self._update_or_save(stream, others, stop)
                self.step += 1
                last = self.step == train.steps
                stopping = self._stopping(stop)
                if stopping is None and self._evaluation_is_due():
                    stopping = self.evaluate(stop)
                due = train.save_every and self.step % train.save_every == 0
                if last or stopping is not None or due or self._improved():
                    self.save()
                if stopping is not None:
                    raise Interrupted(stopping)
        finally:
            for source in sources:
                source.close()

    def update(
        self, index: int, batch: Batch, others: Mapping[str, Batch] | None = None, guard: Guard = lambda work: work()
    ) -> None:
        """One step: prepare the batch, then make its optimiser updates. others: batches of other streams.

        Raises NonFiniteError before an update whose loss or gradient is not finite.
        """
        began = time.perf_counter()
        prepared = self.job.prepare(index, batch, guard, self.say.stage)
        before = time.perf_counter()
        beside = {name: other.to(self.job.device) for name, other in (others or {}).items()}
        updates = (self._learn(index, batches, guard) for batches in self.job.updates(index, prepared, beside))
        results, norms = zip(*updates, strict=True)
        seconds = {"preparing": before - began, "learning": time.perf_counter() - before}
        for drawn in (prepared, *beside.values()):
            self.truncated_texts += int((drawn["num_lost"] > 0).sum()) if "num_lost" in drawn else 0
            self.tokens += drawn.cost() if self._counts_tokens else 0
        self.progress.step(index, results, norms, prepared, seconds)

    def _update_or_save(self, stream: Stream, others: Mapping[str, Stream], stop: StopRequest) -> None:
        """Draw a batch and `update`. A signal or error before the first update saves the state before the step."""
        job, before, skipped = self.job, Moment(self.job), self.skipped_updates
        self._mid_step = False
        try:
            with stop.interrupts_alone(job.processes.world_size):  # the wait for data
                index, batch = next(stream)
                beside = {name: other.next_batch(name) for name, other in others.items()}
            for source in (stream, *others.values()):
                self.bad_samples |= source.bad
            with explained(job.plan, lambda: job.micro_batch, f"in step {index + 1}"):
                self.update(index, batch, beside, functools.partial(interruptible, stop, job.processes.gather_objects))
        except (Interrupted, MmalignError) as error:
            if isinstance(error, NonFiniteError | ShortageError):  # keep only earlier checkpoints
                error.hint = f"{error.hint}\n{self.run.way_back(self._saved)}"
                raise
            failed = isinstance(error, MmalignError)
            only_this_process_failed = job.processes.world_size > 1 and not stop.failed_together
            statistics_may_have_changed = not job.feed.long_steps
            if self._mid_step or (failed and (only_this_process_failed or statistics_may_have_changed)):
                raise
            before.restore()
            self.skipped_updates = skipped
            if self._saved != self.step:
                self.save()
            if isinstance(error, MmalignError):
                error.hint = f"{error.hint}\n{self.run.way_on(self.step + 1)}".lstrip()
            raise

    def _learn(self, index: int, batches: list[Batch], guard: Guard) -> tuple[StepResult, float]:
        """One optimiser update from a prepared batch. Returns its result and the gradient norm."""
        job, train = self.job, self.job.train
        set_learning_rate(job.optimizer, learning_rate(train, index))
        job.optimizer.zero_grad(set_to_none=True)
        if job.measures_memory:
            settle_micro_batch(job, batches, self.say, self.run)
        before = [b.clone() for b in job.models.buffers()] if train.on_nonfinite == "skip" else ()
        work = functools.partial(accumulate, job.engine, batches, job.micro_batch_size)
        # A signal may end these passes if no weight has changed, no other process waits and no statistics change.
        may_be_cut = not self._mid_step and job.processes.world_size == 1 and job.feed.long_steps
        result = guard(work) if may_be_cut else work()
        norm = float(torch.nn.utils.clip_grad_norm_([p for _, p in job.parameters], train.clip_norm or math.inf))
        loss = float(result.loss)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._non_finite(index, batches[0], loss, norm)
            for buffer, value in zip(job.models.buffers(), before, strict=True):
                buffer.copy_(value)  # a skipped batch must not change running statistics either
        elif result.empty:
            self.skipped_updates += 1
            self.say(f"step {index + 1} has nothing to learn from: {job.feed.why_empty(result.metrics)}")
        else:
            check_limits(job.feed.limits, result, f"step {index + 1}")
            self._mid_step = True
            job.optimizer.step()
            job.objective.constrain(job.models)
            if job.average is not None:
                job.average.update()
        return result, norm

    def evaluate(self, stop: StopRequest) -> int | None:
        """Measure held-out data on the main process; returns the signal that cut it short, if one did."""
        signum = None
        if self.job.processes.is_main:
            self.say.stage("evaluating")
            try:
                with stop.interrupts():
                    results = heldout.measure(self.job, self.catalog, parts := {})
                    self.say.stage("sampling")
                    written = write_samples(self.job)
                    baselines = measure_baselines(self.job, self.catalog, self.say) if not self.step else []
                more = {"samples": written, "baselines": baselines, "parts": {} if self.step else parts}
                self.run.log({"step": self.step, "evaluation": results, **{n: v for n, v in more.items() if v}})
                figures = describe(heldout.main_figures(self.job, results))
                self.say(f"step {self.step}: {figures or 'nothing is held out'}")
                if self.step:
                    self.best = heldout.best(self.job.plan.objective.spec, self.best, self.step, results)
            except Interrupted as interruption:
                signum = interruption.signum
        outcomes = self.job.processes.gather_objects((signum, self.best))
        self.best = outcomes[0][1]  # all processes must agree whether to save
        self.progress.restart()
        return next((s for s, _ in outcomes if s is not None), None)

    # Saving and resuming ----------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Commit a checkpoint, then delete those no longer kept."""
        job = self.job
        self.say.stage("saving")
        own = (rng.capture(job.device), rng.capture_host(), self.bad_samples, self.truncated_texts, self.tokens)
        torch_states, host_states, bad_samples, truncated, tokens = zip(*job.processes.gather_objects(own), strict=True)
        if job.processes.is_main:
            tensors, optimizer = job.optimizer_state.capture()
            generators = {f"{rank}/{name}": s for rank, states in enumerate(torch_states) for name, s in states.items()}
            folder = checkpoint.save(
                self.run.checkpoints,
                checkpoint.Checkpoint(
                    self.step,
                    job.models.state() | (job.average.state() if job.average is not None else {}),
                    tensors,
                    generators,
                    {
                        "host_rng": host_states,
                        "truncated_texts": truncated,
                        "tokens": tokens,
                        "objective": job.objective.state,
                        "optimizer": optimizer,
                        "data": job.fingerprint(),
                        "bad_samples": bad_samples,
                        "skipped_updates": self.skipped_updates,
                        "best": self.best,
                        "seconds": self.seconds,
                        "training_seconds": self.training_seconds,
                    },
                ),
            )
            self.run.write_skipped(sorted({key: why for bad in bad_samples for key, why in bad.items()}.items()))
            best = self.best["step"] if self.best else None
            checkpoint.rotate(self.run.checkpoints, job.train.keep, best, newest=self.step)
            self.run.announce({"step": self.step, "checkpoint": str(folder)})
        self._saved = self.step
        job.processes.barrier()
        self.progress.restart()

    def resume(self) -> None:
        """Continue from the newest good checkpoint; raises CheckpointError for one of other data or processes."""
        job = self.job
        saved = checkpoint.newest(self.run.checkpoints, self.say)
        if job.processes.is_main:
            self.run.rewind(saved.step if saved else -1)
        if saved is None:
            return
        state = saved.state
        checkpoint.require_same(state, job.fingerprint(), job.processes.world_size)
        try:
            job.models.load_state(saved.model)
        except KeyError as error:
            raise CheckpointError(
                f"the checkpoint of step {saved.step} lacks {error.args[0]}: the run had other models",
                hint="Resume without these changes, or start a new run.",
            ) from error
        if job.average is not None:
            job.average.load_state(saved.model)
        job.optimizer_state.restore(saved.optimizer, state.get("optimizer", {}))
        job.objective.state = dict(state["objective"])
        rank = f"{job.processes.rank}/"
        generators = {name.removeprefix(rank): t for name, t in saved.rng.items() if name.startswith(rank)}
        rng.restore(generators, job.device)
        rng.restore_host(state["host_rng"][job.processes.rank])
        self.step = self._saved = saved.step
        self.best, self.skipped_updates = state["best"], state["skipped_updates"]
        self.bad_samples = dict(state["bad_samples"][job.processes.rank])
        self.truncated_texts, self.tokens = (state[n][job.processes.rank] for n in ("truncated_texts", "tokens"))
        self._seconds_before = state["seconds"]
        self._trained_before = state.get("training_seconds", state["seconds"])  # earlier versions kept only `seconds`
        self.say(f"resuming at step {self.step} of {job.train.steps}")

    @property
    def seconds(self) -> float:
        """Duration of the run so far, measurements and earlier sessions included."""
        return self._seconds_before + time.perf_counter() - self._started

    @property
    def training_seconds(self) -> float:
        return self._trained_before + self.progress.seconds

    # Bookkeeping ------------------------------------------------------------------------------------------------------

    def _evaluation_is_due(self) -> bool:
        """At the start, and every `eval_every` steps but the last, unless it was measured before an interruption."""
        every, total = self.job.train.eval_every, self.job.train.steps
        if self.step and not (every and self.step % every == 0 and self.step < total):
            return False
        measured = any("evaluation" in record and record["step"] == self.step for record in self.run.metrics())
        return not self.job.processes.gather_objects(measured)[0]  # the main process decides for all

    def _stopping(self, stop: StopRequest) -> int | None:
        """The signal that any process received; all must agree on the step to stop at."""
        if self.job.processes.world_size == 1:
            return stop.signal
        code = self.job.processes.sum(torch.tensor(stop.signal or 0, device=self.job.device))
        return None if not int(code) else stop.signal or 15

    def _non_finite(self, index: int, batch: Batch, loss: float, norm: float) -> None:
        keys = ", ".join(map(str, batch["key"][:8])) if "key" in batch else "?"
        values = f"loss {loss:g}, gradient norm {norm:g} at step {index + 1}; the batch holds {keys}, …"
        if self.job.train.on_nonfinite == "stop":
            hint = "The weights were not updated. Try a lower --set train.learning_rate, or train.on_nonfinite=skip."
            raise NonFiniteError(f"not finite: {values}", hint=hint)
        self.skipped_updates += 1
        self.say(f"update skipped: {values}")

    def _improved(self) -> bool:
        return self.best is not None and self.best["step"] == self.step
