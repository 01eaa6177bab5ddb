"""The work of `mmalign sample` and `mmalign rank`, as commands and as stages of a pipeline.

counts = sample_to(catalog, config, Path("answers.jsonl"), "auto", say)
counts = rank_to(catalog, config, Path("rankings.jsonl"), "auto", say)

A file is written at the end, as a whole.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mmalign.errors import DataError
from mmalign_pipeline.answers import write_rows
from mmalign_pipeline.rank import RankConfig, judge_scores, rank, to_rank
from mmalign_pipeline.sample import NEEDS, SampleConfig, asked, name_and_options, open_prompts, sample
from mmalign_pipeline.sheet import read_sheet, write_sheet

if TYPE_CHECKING:
    from mmalign.registry.catalog import Catalog

Say = Callable[[str], None]
_SAY_EVERY = 10.0  # seconds
_NOISE = "its answers are noise"  # said of a model with random weights


class WaitsForPeople(Exception):
    """A sheet was written, which people should fill in."""

    def __init__(self, sheet: Path) -> None:
        super().__init__(str(sheet))
        self.sheet = sheet


def sample_to(catalog: "Catalog", config: SampleConfig, path: Path, device: str, say: Say) -> dict[str, int]:
    """Sample, and write one line a prompt. Returns counts; raises UsageError, IncompatibleError, DataError."""
    from mmalign.contract.evaluation import Runtime
    from mmalign.models.folder import refuse_random_weights
    from mmalign.models.load import load_model, require_source

    name, values = name_and_options(config.backbone)
    source = require_source(catalog, name, NEEDS, "sample")
    refuse_random_weights(source, values, {}, _NOISE)
    data = open_prompts(catalog, config)
    prompts = asked(data.dataset, config.limit)
    say(f"{len(prompts):,} of {len(data.dataset):,} prompts of {data.entry.spec.name}, {data.split}")
    if config.k > 1 and not config.temperature:
        say(f"at temperature 0 all {config.k} answers to a prompt are the same, so there is nothing to rank")
    report = data.dataset.report()
    for reason, count in report["skipped"].items():
        say(f"{count:,} rows left out of the data: {reason}")
    for note in report.get("notes", ()):
        say(note)
    runtime = Runtime.choose(device)
    model = load_model(catalog, source, values, needs=NEEDS, device=runtime.device, if_random=_NOISE, say=say)
    with runtime.evaluating(model):
        samples = sample(model, prompts, config, config.k, _progress(len(prompts) * config.k, say))
    for reason, count in samples.lost.items():
        say(f"{count:,} prompts left out: {reason}")
    if not samples.records:
        raise DataError(
            f"none of {len(prompts):,} prompts can be answered: {'; '.join(samples.lost)}", hint="Lower max_tokens."
        )
    write_rows(path, (record.as_row() for record in samples.records))
    counts = samples.counts()
    say(count_line(counts))
    return counts


def rank_to(catalog: "Catalog", config: RankConfig, path: Path, device: str, say: Say) -> dict[str, int]:
    """Rank by the judge or by the sheet, and write one line for each prompt. Returns counts.

    Raises WaitsForPeople where the sheet was created now, DataError, UsageError, RewardError.
    """
    from mmalign.device import choose_device

    records = to_rank(config)
    sheet = Path(config.sheet).expanduser()
    if config.sheet and not sheet.exists():
        counts = write_sheet(sheet, records)
        say(f"{sheet}: {counts['answers']:,} answers to {counts['prompts']:,} prompts, for people to rank")
        raise WaitsForPeople(sheet)
    if config.sheet:
        ranked = read_sheet(sheet, records)
    else:
        scores = judge_scores(catalog, config.judge, records, choose_device(device), say)
        ranked = rank(records, scores, config.tie)
    say(count_line(ranked.counts))
    if not ranked.rows:
        raise DataError(
            f"{sheet}: no prompt has two answers with a rank", hint="Fill in `rank`, 1 for the best; then go on."
        )
    write_rows(path, ranked.rows)
    return dict(ranked.counts)


def count_line(counts: Mapping[str, int]) -> str:
    """ "600 prompts, 2,400 answers, 3 empty": the first two counts, and every other that is not zero."""
    kept = [(name, value) for index, (name, value) in enumerate(counts.items()) if value or index < 2]
    return ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in kept)


def _progress(total: int, say: Say) -> Callable[[int], None]:
    told = time.perf_counter()

    def step(drawn: int) -> None:
        nonlocal told
        if time.perf_counter() - told > _SAY_EVERY:
            told = time.perf_counter()
            say(f"{drawn:,} of {total:,} answers")

    return step
