"""`mmalign pipeline`: several stages in one command."""

from pathlib import Path
from typing import Any

import click

from mmalign.cli.app import App, json_option, pass_app, quiet_option

_EPILOG = """\b
Examples:
  mmalign pipeline instructgpt --dry-run
  mmalign pipeline configs/instructgpt.yaml --out runs/mine
  mmalign pipeline instructgpt --out runs/mine --until reward
  mmalign pipeline instructgpt --out runs/mine --from ppo --set ppo.objective.kl_coef=0.1

\b
CONFIG is a YAML file, or the name of a packaged one. Its stages run in order; each
names a command, that command's options, and outputs of earlier stages:
  name: two-steps
  stages:
    sft:
      run: train                 # then sections, as in mmalign train -c
      objective: sft
      dataset: answers.jsonl
    samples:
      run: sample                # or rank; then the options of that command
      backbone: ${sft.model}     # also .run; sample has .answers, rank .rankings
      dataset: prompts.jsonl
  report: {models: {SFT: "${sft.model}"}, dataset: held_out.jsonl, judges: [{name: vader}]}
With a `sheet` in place of a `judge`, a stage that ranks waits for people.
The same command continues in a folder: it skips finished stages, and resumes the one
that was interrupted. --from moves what it replaces to replaced/."""


@click.command("pipeline", epilog=_EPILOG)
@click.argument("config", metavar="CONFIG")
@click.option("--out", type=click.Path(path_type=Path), metavar="FOLDER", help="Default runs/<name>-<time>.")
@click.option("--until", default="", metavar="STAGE", help="Stop after this stage.")
@click.option("--from", "start", default="", metavar="STAGE", help="Run this stage and those after it again.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="For example ppo.train.steps=20; repeatable.")
@click.option("--device", default="auto", show_default=True, metavar="DEVICE", help="auto, cpu, cuda or mps.")
@click.option("--dry-run", is_flag=True, help="Check all stages and show them; run nothing.")
@json_option
@quiet_option
@pass_app
def command(app: App, **options: Any) -> int:
    """Run the stages of CONFIG in order, each on the results of the ones before."""
    from mmalign_pipeline.pipeline_run import run

    return run(app, **options)
