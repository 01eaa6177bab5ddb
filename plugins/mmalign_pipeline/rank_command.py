"""`mmalign rank`: ranks answers, by a judge or by people."""

from pathlib import Path
from typing import Any

import click

from mmalign.cli.app import App, json_option, pass_app, quiet_option

_EPILOG = """\b
Examples:
  mmalign rank answers.jsonl --judge vader --out rankings.jsonl
  mmalign rank answers.jsonl --tie 0.1 --out rankings.jsonl \\
    --judge '{"name": "reward-model", "path": "runs/reward/model"}'
  mmalign rank answers.jsonl --export sheet.csv
  mmalign rank answers.jsonl --import sheet.csv --out rankings.jsonl

\b
ANSWERS is a file from mmalign sample. A judge is any reward (mmalign list rewards);
scores of several are summed by their weights. A judge that counts tokens counts
bytes here. A sheet shows the answers in shuffled order and does not tell where they
are from; people write 1 for the best, and the same number for ties.
Equal answers to a prompt are ranked once; empty ones are left out.
JSON lines: {"key", "prompt", "completions", "ranks"}, as --dataset takes them:
  mmalign train --objective reward --dataset rankings.jsonl"""


@click.command("rank", epilog=_EPILOG)
@click.argument("answers", type=click.Path(path_type=Path), metavar="ANSWERS")
@click.option(
    "--judge", "judges", multiple=True, metavar="REWARD", help="NAME[=WEIGHT], or JSON with options; repeatable."
)
@click.option("--tie", type=click.FloatRange(min=0), default=0.0, show_default=True, help="Scores this close tie.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="JSONL file of rankings to write.")
@click.option("--export", type=click.Path(path_type=Path), metavar="SHEET", help="Write a .csv or .jsonl for people.")
@click.option("--import", "read", type=click.Path(path_type=Path), metavar="SHEET", help="Read what people wrote.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the order in the sheet."
)
@click.option("--force", is_flag=True, help="Let --out or --export replace a file.")
@click.option("--device", default="auto", show_default=True, metavar="DEVICE", help="auto, cpu, cuda or mps.")
@json_option
@quiet_option
@pass_app
def command(app: App, **options: Any) -> int:
    """Rank the answers in ANSWERS by a judge, or by people through a sheet."""
    from mmalign_pipeline.sample_run import run_rank

    return run_rank(app, **options)
