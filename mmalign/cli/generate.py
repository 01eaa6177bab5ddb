"""`mmalign generate`: let a language model answer."""

from pathlib import Path
from typing import Any

import click

from mmalign.cli.app import App, pass_app, quiet_option

_EPILOG = """\b
Examples:
  mmalign generate --backbone ./model "Once upon a time"
  mmalign generate --backbone runs/sft/model --chat "What is a plugin?"
  mmalign generate --backbone ./model @prompts.txt --json > answers.jsonl
  mmalign generate --backbone ./model --dataset pairs.jsonl --limit 20 --json
  cat prompts.txt | mmalign generate --backbone ./model - --temperature 0

\b
@FILE and - give one prompt a line. With the same --seed, a prompt at the same
place gets the same answer, whatever else is asked.
JSON lines: {"prompt", "text", "tokens", "ended", "logp"}, of a data set "key" too"""


@click.command("generate", epilog=_EPILOG)
@click.argument("prompts", nargs=-1, metavar="[PROMPTS, @FILE, -]...")
@click.option("--backbone", metavar="MODEL", required=True, help="prefix:reference or folder of a language model.")
@click.option("--dataset", metavar="DATA", help="Answer the prompts of a data set or file instead of PROMPTS.")
@click.option("--split", default="", metavar="PART", help="With --dataset: validation, test or train.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="With --dataset: its first N prompts.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=64, show_default=True, help="Longest answer.")
@click.option("--temperature", type=click.FloatRange(min=0), default=0.7, show_default=True, help="0: always the best.")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True, help="Nucleus.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of what is drawn.")
@click.option("--chat", is_flag=True, help="Each prompt is a user's message: render it with the chat template.")
@click.option("--device", default="auto", show_default=True, metavar="DEVICE", help="auto, cpu, cuda or mps.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="As backbone.key=value, dataset.key=value.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write the JSON lines to a .jsonl file.")
@click.option("--force", is_flag=True, help="Let --out replace a file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a prompt on stdout.")
@quiet_option
@pass_app
def command(app: App, **options: Any) -> int:
    """Continue PROMPTS with a causal language model; one prompt is shown as it is written."""
    from mmalign.cli.generate_run import run_generate

    return run_generate(app, **options)
