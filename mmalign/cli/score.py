"""`mmalign score`: rank texts with a reward model."""

from pathlib import Path
from typing import Any

import click

from mmalign.cli.app import App, pass_app, quiet_option

_EPILOG = """\b
Examples:
  mmalign score --backbone runs/reward/model --prompt "Movie review:" " Superb." " Dull."
  mmalign score --backbone runs/reward/model --prompt "Question?" @answers.txt
  mmalign score --backbone runs/reward/model --dataset pairs.jsonl --out scores.csv
  mmalign generate --backbone ./model "Once" | mmalign score --backbone ./rm -

\b
@FILE and - give one text a line. A text is read right behind its prompt: put a
space in front if the answers that the model was trained on had one.
A score says something only beside other scores of the same model; 0 is about as
good as the best-ranked answers that it was trained on.
JSON lines, best first: {"rank", "score", "prompt", "text", "key"}, then
  {"prompt", "text", "key", "error"}"""


@click.command("score", epilog=_EPILOG)
@click.argument("texts", nargs=-1, metavar="[TEXTS, @FILE, -]...")
@click.option("--backbone", metavar="MODEL", required=True, help="prefix:reference or folder of a reward model.")
@click.option("--prompt", default="", metavar="TEXT", help="What the texts answer. Default: nothing.")
@click.option("--dataset", metavar="DATA", help="Score the answers of a data set or file instead of TEXTS.")
@click.option("--split", default="", metavar="PART", help="With --dataset: validation, test or train.")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Texts at once.")
@click.option("--device", default="auto", show_default=True, metavar="DEVICE", help="auto, cpu, cuda or mps.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write the results as .csv or .jsonl.")
@click.option("--csv", "old_out", type=click.Path(path_type=Path), hidden=True)
@click.option("--force", is_flag=True, help="Let --out replace a file.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="As backbone.context_length=512; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a text on stdout.")
@quiet_option
@pass_app
def command(app: App, **options: Any) -> int:
    """Rank TEXTS, or the answers of a data set, with a trained reward model, best first."""
    from mmalign.cli.score_run import run_score

    return run_score(app, **options)
