"""`mmalign evaluate`: measure a model on held-out data."""

from pathlib import Path
from typing import Any

import click

from mmalign.cli.app import App, CatalogName, json_option, pass_app, quiet_option

_EPILOG = """\b
Examples:
  mmalign evaluate --backbone runs/sft/model
  mmalign evaluate perplexity --backbone ./model --dataset held_out.txt
  mmalign evaluate zero-shot retrieval --backbone clip-lite --html report.html
  mmalign evaluate perplexity --backbone ./model --split test --json

\b
Without NAME: all that fit the model; the others are named with the reason.
Without --dataset: what the model's own run held out (and answers are compared
as that run did), else the default data of an evaluation's kind of example.
Without --split: of a data set what it holds out, of a file everything in it.
Options of an evaluation: mmalign show NAME --options
Exit codes: 0 ok, 1 failed, 2 wrong usage, 3 no usable data, 4 NaN or infinite."""


@click.command("evaluate", epilog=_EPILOG)
@click.argument("names", nargs=-1, metavar="[NAME]...", type=CatalogName("evaluations"))
@click.option("--backbone", metavar="MODEL", required=True, help="A name, prefix:reference or folder.")
@click.option("--dataset", metavar="DATA", help="What to measure on: a name, file, glob or folder.")
@click.option("--split", default="", metavar="PART", help="validation, test or train.")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Examples at once.")
@click.option("--device", default="auto", show_default=True, metavar="DEVICE", help="auto, cpu, cuda or mps.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write the results as .json or .csv.")
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write a report, in one file.")
@click.option("--force", is_flag=True, help="Let --out and --html replace files.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="As evaluation.max_examples=500; repeatable.")
@json_option
@quiet_option
@pass_app
def command(app: App, **options: Any) -> int:
    """Measure a model with the evaluations NAME on held-out data."""
    from mmalign.cli.evaluate_run import Options, run_evaluate

    return run_evaluate(app, Options(**options))
