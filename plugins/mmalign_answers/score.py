"""`mmalign score`: rank texts with a reward model, or texts and pictures with a dual encoder."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmalign.cli.app import App, emit, pass_app, quiet_option, settings_of
from mmalign.contract.capabilities import ALONE
from mmalign.contract.examples import ImageRef
from mmalign.errors import EXIT_DATA, EXIT_OK, NonFiniteError, UsageError
from mmalign.files import write_atomically
from mmalign.models.load import load_model, require_source
from mmalign.printable import json_text
from mmalign.registry.compat import check_needs
from mmalign_answers.texts import one_line, read_texts

if TYPE_CHECKING:
    from mmalign.contract.source import Source
    from mmalign_answers.scoring import Answer, Scored

_EPILOG = """\b
Examples:
  mmalign score --backbone runs/reward/model --prompt "Movie review:" " Superb." " Dull."
  mmalign score --backbone runs/reward/model --prompt "Question?" @answers.txt
  mmalign score --backbone runs/reward/model --dataset pairs.jsonl --out scores.csv
  mmalign generate --backbone ./model "Once" | mmalign score --backbone ./rm -
  mmalign score --backbone clip-lite --prompt photo.jpg "a cat" "a dog"
  mmalign score --backbone runs/judge/model --prompt "a cat" one.png photos/

\b
@FILE and - give one text a line. A text is read right behind its prompt: put a
space in front if the answers that the model was trained on had one.
A dual encoder scores texts for a picture, or pictures for a text: a prompt that
names a picture file is that picture, and to any other prompt the answers are
files, folders or globs of pictures. Its score is exp(t) times the cosine.
A score says something only beside other scores of the same model; 0 is about as
good as the best-ranked answers that a reward model of texts was trained on.
JSON lines, best first: {"rank", "score", "prompt", "text", "key"}, then
  {"prompt", "text", "key", "error"}; of a picture, its path"""


@click.command("score", epilog=_EPILOG)
@click.argument("texts", nargs=-1, metavar="[TEXTS, PICTURES, @FILE, -]...")
@click.option("--backbone", metavar="MODEL", required=True, help="A reward model or a dual encoder.")
@click.option("--prompt", default="", metavar="TEXT", help="A text, or a picture file. Default: nothing.")
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
    """Rank TEXTS, PICTURES or the answers of a data set, with a trained reward model, best first."""
    return run_score(app, **options)


NEEDS = ("score_sequences",)


NOUNS = {"image": "picture", "text": "text"}


KINDS = ("ranking", "preference", "completion", "labelled-completion")


COLUMNS = ("rank", "score", "prompt", "text", "key", "error")


SCHEMA = 1


def run_score(
    app: App,
    *,
    texts: tuple[str, ...],
    backbone: str,
    prompt: str,
    dataset: str | None,
    split: str,
    batch_size: int,
    device: str,
    out: Path | None,
    old_out: Path | None,
    force: bool,
    sets: tuple[str, ...],
    as_json: bool,
) -> int:
    """Read the texts, load, score, print. Returns the exit code: 3 if no text could be scored."""
    settings = settings_of(sets, "score", ("backbone", "dataset"))
    if dataset is None and (split or settings["dataset"]):
        raise UsageError("--split and --set dataset... go with --dataset", hint="Name a data set or a file.")
    if dataset is not None and (texts or prompt):
        raise UsageError("a data set has its own texts and prompts", hint="Give TEXTS, or --dataset.")
    if old_out is not None:
        if out is not None:
            raise UsageError("--csv is the old name of --out, and both are given", hint="Leave --csv out.")
        app.warn("--csv is called --out now")
        out = old_out
    if out is not None:
        from mmalign.files import check_out

        check_out(out, force, (".csv", ".jsonl"))
    source = require_source(app.catalog, backbone, NEEDS, "score")

    from mmalign.contract.evaluation import Runtime
    from mmalign_answers.scoring import rank, score

    if dataset is None:
        answers = _from_arguments(app, source, prompt, texts)
    else:
        answers = _from_dataset(app, source, dataset, split, settings["dataset"])
    runtime = Runtime.choose(device, batch_size)
    model = load_model(
        app.catalog,
        source,
        settings["backbone"],
        needs=NEEDS,
        device=runtime.device,
        if_random="its scores are noise",
        say=app.say,
    )
    scored = rank(score(model, answers, runtime))
    _check(app, scored, model.processor.context_length)
    rows = [_row(place, item) for place, item in enumerate(scored, start=1)]
    if out is not None:
        write = _write_csv if out.suffix == ".csv" else _write_lines
        write_atomically(out, lambda temporary: write(temporary, rows))
        app.say(f"results: {out}")
    for row in rows:
        if as_json:
            click.echo(_json_line(row))
        elif "score" in row:
            emit(f"{row['score']:+9.4f}  {one_line(row['text'])}")
    return EXIT_OK if "score" in rows[0] else EXIT_DATA


def _from_arguments(app: App, source: "Source", prompt: str, texts: tuple[str, ...]) -> "list[Answer]":
    """Raises UsageError where there are none, or the model does not read them."""
    from mmalign_answers.contents import contents
    from mmalign_answers.scoring import Answer

    pairs = check_needs(NEEDS, source.family, ALONE).pairs
    asked, given = contents(prompt, read_texts(texts, "text"), pairs, source.reference)
    if not given:
        raise UsageError("no text to score", hint='Give some: mmalign score --backbone MODEL "One." "Another."')
    pair = tuple("image" if isinstance(content, ImageRef) else "text" for content in (asked, given[0]))
    if "image" in pair:
        app.say(f"the prompt is the {NOUNS[pair[0]]} {one_line(asked)!r}, the answers are {NOUNS[pair[1]]}s")
    return [Answer(f"{NOUNS[pair[1]]} {n}", asked, item) for n, item in enumerate(given, start=1)]


def _from_dataset(app: App, source: "Source", name: str, split: str, values: Mapping[str, Any]) -> "list[Answer]":
    """All answers of a data set, or of a file; raises UsageError and DataError."""
    from mmalign.data.contents import readable, require_pairs
    from mmalign.evaluate.parts import open_named
    from mmalign_answers.scoring import answers_of

    pairs = check_needs(NEEDS, source.family, ALONE).pairs
    part = open_named(app.catalog, name, KINDS, split, values, "score", pairs)
    require_pairs(f"{source.reference} scores", part.dataset, pairs, name, "Try other data, or another --backbone.")
    examples = list(readable(part.dataset))
    answers = answers_of(examples)
    total = len(part.dataset)
    app.say(f"{len(answers):,} answers of {total:,} {part.kind} examples of {part.entry.spec.name}, {part.split}")
    if len(examples) < total:
        app.warn(f"{total - len(examples):,} of {total:,} examples cannot be read and are left out")
    return answers


def _check(app: App, scored: "Sequence[Scored]", context_length: int) -> None:
    """Say what was cut or left out; raises NonFiniteError."""
    for item in scored:
        if item.error:
            app.warn(f"{item.answer.key}: {item.error}")
        elif not math.isfinite(item.score):
            raise NonFiniteError(f"{item.answer.key} scores {item.score}", hint="Are the model's weights sound?")
    cut = [item.num_lost for item in scored if item.num_lost]
    if cut:
        app.warn(
            f"{len(cut):,} of {len(scored):,} texts with their prompts are over {context_length} tokens; "
            f"{sum(cut):,} tokens were cut off"
        )


def _row(place: int, item: "Scored") -> dict[str, Any]:
    told = (one_line(c) if isinstance(c, ImageRef) else c for c in (item.answer.prompt, item.answer.text))
    answer = {**dict(zip(("prompt", "text"), told, strict=True)), "key": item.answer.key}
    if item.error:
        return {**answer, "error": item.error}
    return {"rank": place, "score": round(item.score, 6), **answer}


def _json_line(row: Mapping[str, Any]) -> str:
    return json_text({"schema": SCHEMA, **row})


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(f"{_json_line(row)}\n" for row in rows), encoding="utf-8")


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        texts = ("prompt", "text")
        for row in rows:
            told = {name: one_line(row[name]) for name in texts if not isinstance(row[name], str)}
            writer.writerow({**row, **told})
