"""Before the first step: cache the outputs of frozen roles, while the policy still equals them.

prefill(job, folder, say)
"""

import time
from collections.abc import Iterable
from pathlib import Path

import torch

from mmalign.contract.batch import Batch, Column
from mmalign.data.loader import Draws, Order, Sweep
from mmalign.display import Display
from mmalign.hashing import stable_hash
from mmalign.train.build import Job
from mmalign.train.reference_cache import FrozenCache


@torch.no_grad()
def prefill(job: Job, folder: Path, starting_weights: str | None, say: Display) -> None:
    """If the plan caches, run frozen roles on every example that the run will read and that no earlier session cached.

    Then drop the frozen roles.
    """
    plan = job.plan
    if not plan.caches_frozen:
        return
    began = time.perf_counter()
    options = (plan.configs[section].model_dump_json() for section in ("objective", "backbone"))
    key = f"{stable_hash(starting_weights, plan.train.seed, plan.names(), *options):016x}"
    cache = FrozenCache.open(folder / f"frozen-{job.processes.rank}", key)
    job.models.eval()
    say.stage("reference pass")
    positions = _positions(job)
    total = len({index for _, index in positions}) + min(job.num_heldout, plan.evaluation.max_examples)
    done = 0

    def compute(batch: Batch) -> dict[str, Column]:
        nonlocal done
        say.stage("reference pass", done, max(total, done))
        done += len(batch)
        with job.engine.autocast():
            return dict(job.objective.frozen(job.models, batch))

    new = sum(cache.fill((batch.to(job.device) for batch in batches), compute) for batches in _sources(job, positions))
    job.models.end_stand_ins()
    job.frozen = cache
    named = {name: source.reference for name, source in plan.role_sources.items()}
    frozen = [role.name for role in plan.objective.spec.roles if not role.trains]
    whose = "; ".join(f"{name}: {named.get(name, 'the starting policy')}" for name in frozen)
    say(
        f"{whose}; outputs cached for {len(cache):,} examples ({new:,} of them now, in "
        f"{time.perf_counter() - began:.1f} s); no second model stays in memory"
    )


def _positions(job: Job) -> list[tuple[int, int]]:
    """(epoch, index) of every example that this process reads in training."""
    train, order, share = job.plan.train, Order(len(job.data), job.plan.train.seed), job.local_batch_size
    if job.processes.world_size == 1:
        return order.indices(0, train.steps * train.batch_size)  # one call instead of one per step
    positions: list[tuple[int, int]] = []
    for step in range(train.steps):
        start = step * train.batch_size + job.processes.rank * share
        positions += order.indices(start, start + share)
    return positions


def _sources(job: Job, positions: list[tuple[int, int]]) -> Iterable[Iterable[Batch]]:
    """The examples that this process reads in training and, on the main process, the held-out ones."""
    # Rounding depends on which examples share a forward pass. With a step's examples per pass, a run that is extended
    # later has the same first outputs as a run that was as long from the start.
    size, seed = job.local_batch_size, job.plan.train.seed
    once = Draws(
        job.data, job.encoder, list({index: (epoch, index) for epoch, index in positions}.values()), size, seed
    )
    yield once
    if once.bad:  # each epoch replaces a bad example by another
        yield Draws(job.data, job.encoder, positions, size, seed)
    if job.num_heldout and job.processes.is_main:
        config = job.plan.evaluation
        yield Sweep(job.heldout, job.encoder, config.batch_size, limit=config.max_examples, max_bad=1.0)
