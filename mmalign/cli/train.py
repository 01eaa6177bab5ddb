"""`mmalign train`: one command for every objective, backbone and data set."""

from pathlib import Path
from typing import Any

import click

from mmalign.cli.app import App, CatalogName, json_option, pass_app, quiet_option

_EPILOG = """\b
Examples:
  mmalign train --objective contrastive
  mmalign train --objective contrastive --dataset pairs.csv --set train.steps=500
  mmalign train --objective ppo --backbone runs/sft/model --dataset prompts.jsonl --reward vader
  mmalign train --objective grpo --reward '{"name": "function", "function": "mine.py:score"}'
  mmalign train --objective contrastive --backbone open_clip:ViT-B-32/openai --dry-run
  mmalign train --resume runs/contrastive-20260101-120000

All options of an objective: mmalign config show contrastive
Rewards and their options: mmalign list rewards; mmalign show regex --options
"""


@click.command("train", epilog=_EPILOG)
@click.option(
    "--objective", type=CatalogName("objectives"), metavar="NAME", help="What to learn: mmalign list objectives."
)
@click.option("--backbone", metavar="MODEL", help="What to train: a name, prefix:reference or folder.")
@click.option("--dataset", metavar="DATA", help="What to learn from: a name, file, tar, glob or folder.")
@click.option(
    "-c", "--config", "configs", multiple=True, type=click.Path(path_type=Path), help="YAML file; repeatable."
)
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="One option, as train.steps=100; repeatable.")
@click.option(
    "--reward",
    "rewards",
    multiple=True,
    metavar="REWARD",
    help="What scores sampled answers: NAME[=WEIGHT], or JSON with options; repeatable.",
)
@click.option("--environment", metavar="NAME", help="What replies to sampled answers: mmalign list environments.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; default runs/<objective>-<time>.")
@click.option("--seed", type=click.IntRange(min=0), help="Short for --set train.seed=N.")
@click.option("--device", default="auto", show_default=True, metavar="DEVICE", help="auto, cpu, cuda or mps.")
@click.option(
    "--resume", type=click.Path(path_type=Path), metavar="RUN", help="Go on with an interrupted run, exactly."
)
@click.option("--allow-change", is_flag=True, help="With --resume: accept changed options.")
@click.option("--dry-run", is_flag=True, help="Show the plan: memory, disk, time, the first example; train nothing.")
@click.option("--options", "with_options", is_flag=True, help="With --dry-run: show every option, too.")
@json_option
@quiet_option
@pass_app
def command(app: App, **options: Any) -> int:
    """Train a backbone with an objective."""
    from mmalign.cli.train_run import run_train

    return run_train(app, **options)
