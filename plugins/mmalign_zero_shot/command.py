"""`mmalign zero-shot`: name what is in pictures, from labels that the user writes.

JSON lines: {"image", "predictions": [{"label", "object", "score", "cosine"}]} or {"image", "error"}; "rejected" is what
was best where the answer is "none of these"; with --eval also "truth", and {"evaluation"} at the end.
"""

from pathlib import Path
from typing import Any

import click

from mmalign.cli.app import App, pass_app, quiet_option

_PATH = click.Path(path_type=Path)
_EPILOG = """\b
Examples:
  mmalign zero-shot photo.jpg --labels cat,dog,fox
  mmalign zero-shot holiday/ --labels "a photo of a <object>" --objects cat,dog
  mmalign zero-shot holiday/ --labels "sea, calm" --labels "sea, rough" --html report.html
  mmalign zero-shot animals/ --eval --templates openai-7 --out results.csv
  find . -name '*.jpg' | mmalign zero-shot - --labels @names.txt --json
\b
One --labels with commas is a list; for a label with a comma repeat it, or give @file.
Scores share 100% among the labels, right or wrong; the cosine says whether one fits.
Exit codes: 0 if any image could be used, 3 if none, 2 wrong usage."""


@click.command("zero-shot", epilog=_EPILOG)
@click.argument("images", nargs=-1, metavar="[IMAGES, FOLDERS, GLOBS, -]...")
@click.option("--labels", multiple=True, metavar="TEXT", help="cat,dog or @file; may hold <object>; repeatable.")
@click.option("--objects", metavar="NAMES", help="What fills <object>: cat,dog or @file. Default: the backbone's own.")
@click.option("--templates", default="plain", show_default=True, help="plain, openai-7, openai-80 or @file; averaged.")
@click.option("--backbone", metavar="MODEL", help="A name, prefix:reference or folder. Default: the embedded CLIP.")
@click.option("--top-k", type=click.IntRange(min=1), default=5, show_default=True, help="Answers for an image.")
@click.option(
    "--min-cosine",
    type=click.FloatRange(-1, 1),
    help="Best cosine below: none of these. Default: the model's.",
)
@click.option("--threshold", type=click.FloatRange(0, 1), default=0.0, help="Least score of a label that is named.")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Images at once.")
@click.option("--device", default="auto", show_default=True, metavar="DEVICE", help="auto, cpu, cuda or mps.")
@click.option("--eval", "evaluate", is_flag=True, help="Measure accuracy on a folder a class.")
@click.option("--confusion", type=_PATH, metavar="PNG", help="With --eval: where the confusion matrix goes.")
@click.option("--out", type=_PATH, metavar="FILE", help="Write results as .jsonl, .csv or .parquet.")
@click.option("--html", type=_PATH, metavar="FILE", help="Write a report with thumbnails, in one file.")
@click.option("--force", is_flag=True, help="Let --out, --html and --confusion replace files.")
@click.option(
    "--set", "sets", multiple=True, metavar="KEY=VALUE", help="An option of the backbone, backbone.key=value."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object an image on stdout.")
@quiet_option
@pass_app
def command(app: App, **options: Any) -> int:
    """Name what is in IMAGES with labels of your own; without images, the sample photographs."""
    from mmalign_zero_shot.run import Options, run_zero_shot

    return run_zero_shot(app, Options(**options))
