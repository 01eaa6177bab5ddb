"""`mmalign sample`: writes several answers of a model to each prompt of a data set."""

from pathlib import Path
from typing import Any

import click

from mmalign.cli.app import App, json_option, pass_app, quiet_option

_EPILOG = """\b
Examples:
  mmalign sample --backbone runs/sft/model --dataset prompts.jsonl --out answers.jsonl
  mmalign sample --backbone gpt-mini --dataset movie-reviews --set dataset.lead=3 \\
    --k 4 --limit 200 --out answers.jsonl

\b
Any data with prompts will do. An answer depends only on --seed, the position of its
prompt and its own number. --split validation uses the part of a file that is held
out; --set dataset.holdout=0 holds out nothing.
JSON lines: {"key", "prompt", "completions": [...], "ended": [...]}; empty answers
are kept and counted. Next: mmalign rank answers.jsonl --judge vader --out ..."""


@click.command("sample", epilog=_EPILOG)
@click.option("--backbone", metavar="MODEL", required=True, help="prefix:reference or folder of a language model.")
@click.option("--dataset", metavar="DATA", required=True, help="A data set or a file with prompts.")
@click.option("--split", default="train", show_default=True, metavar="PART", help="train, validation or test.")
@click.option("--k", type=click.IntRange(min=1), default=4, show_default=True, help="Answers to each prompt.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="The first N prompts. Default: all.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=64, show_default=True, help="Longest answer.")
@click.option("--temperature", type=click.FloatRange(min=0), default=1.0, show_default=True, help="0: greedy.")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True, help="Nucleus.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the answers.")
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Answers at once.")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE", help="JSONL file to write.")
@click.option("--force", is_flag=True, help="Let --out replace a file.")
@click.option("--device", default="auto", show_default=True, metavar="DEVICE", help="auto, cpu, cuda or mps.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="backbone.key=value or dataset.key=value.")
@json_option
@quiet_option
@pass_app
def command(app: App, **options: Any) -> int:
    """Write K answers of a model to each prompt of a data set."""
    from mmalign_pipeline.sample_run import run_sample

    return run_sample(app, **options)
