"""`mmalign generate`: let a language model answer."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmalign.cli.app import App, emit_data, pass_app, quiet_option, settings_of
from mmalign.contract.capabilities import ALONE
from mmalign.contract.examples import Message
from mmalign.errors import BadSample, DataError, UsageError
from mmalign.files import write_atomically
from mmalign.language.messages import as_rows
from mmalign.models.load import load_model, require_source
from mmalign.printable import json_text, printable
from mmalign.registry.compat import check_needs
from mmalign_answers.texts import one_line, read_texts

if TYPE_CHECKING:
    from torch import Tensor

    from mmalign.contract.examples import Turns
    from mmalign.contract.source import Source

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
    return run_generate(app, **options)


NEEDS = ("generate",)


KINDS = ("prompt",)


SCHEMA = 1


def run_generate(
    app: App,
    *,
    prompts: tuple[str, ...],
    backbone: str,
    dataset: str | None,
    split: str,
    limit: int | None,
    max_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    chat: bool,
    device: str,
    sets: tuple[str, ...],
    out: Path | None,
    force: bool,
    as_json: bool,
) -> int:
    """Read prompts, load, answer. Returns the exit code: 3 if no prompt could be used."""
    settings = settings_of(sets, "generate", ("backbone", "dataset"))
    if out is not None:
        from mmalign.files import check_out

        check_out(out, force, (".jsonl",))
    source = require_source(app.catalog, backbone, NEEDS, "generate")
    asked = _asked(app, source, prompts, dataset, split, limit, settings["dataset"])
    texts = [prompt for prompt, _ in asked]

    from mmalign.contract.evaluation import Runtime
    from mmalign.hashing import stable_hash
    from mmalign.language.sampling import Sampling

    runtime = Runtime.choose(device)
    model = load_model(
        app.catalog,
        source,
        settings["backbone"],
        needs=NEEDS,
        device=runtime.device,
        if_random="its answers are noise",
        say=app.say,
    )
    ids, problems = _encode(model.processor, texts, chat, max_tokens)
    good = [place for place in range(len(texts)) if place not in problems]
    sampling = Sampling(max_tokens, temperature, top_p)
    streams = len(texts) == 1 and not as_json and sys.stdout.isatty()
    show = _streamer(model.processor) if streams else None
    generated = model.generate(
        [ids[place] for place in good], sampling, [stable_hash(seed, place) for place in good], show
    )
    answers = dict(zip(good, zip(*generated, strict=True), strict=True))
    lines = []
    for place, (text, name) in enumerate(asked):
        told = as_rows(text)
        if place in problems:
            app.warn(f"prompt {place + 1}: {problems[place]}")
            record = {**name, "prompt": told, "error": problems[place]}
        else:
            record = {**name, "prompt": told, **_answer(model.processor, *answers[place])}
        lines.append(json_text({"schema": SCHEMA, **record}))
        if as_json:
            click.echo(lines[-1])
        elif streams:
            click.echo()
        elif "text" in record:
            shown = text if isinstance(text, str) else f"{one_line(text)}\n"
            emit_data(str(record["text"]) if len(texts) == 1 else f"{shown}{record['text']}\n")
    if out is not None:
        write_atomically(out, lambda temporary: temporary.write_text("\n".join([*lines, ""]), encoding="utf-8"))
        app.say(f"answers: {out}")
    unended = sum(not ended for _, _, ended in answers.values())
    if unended:
        app.say(f"{unended} of {len(answers)} answers reached --max-tokens {max_tokens} without an end")
    return 0 if good else DataError.exit_code


def _answer(processor: Any, tokens: "Tensor", logps: "Tensor", ended: bool) -> dict[str, Any]:
    text = processor.decode(tokens[: len(tokens) - ended])
    return {"text": text, "tokens": len(tokens), "ended": ended, "logp": round(float(logps.sum()), 4)}


def _asked(
    app: App,
    source: "Source",
    prompts: tuple[str, ...],
    dataset: str | None,
    split: str,
    limit: int | None,
    values: Mapping[str, Any],
) -> "list[tuple[Turns, dict[str, str]]]":
    """(prompt, {"key": ...} where a data set has it), at least one; raises UsageError and DataError."""
    if dataset is None and (split or limit or values):
        raise UsageError("--split, --limit and --set dataset... go with --dataset", hint="Name a data set or a file.")
    if dataset is None:
        texts = list(read_texts(prompts, "prompt"))
        if not texts:
            raise UsageError("no prompt", hint='Give one: mmalign generate --backbone MODEL "Once upon a time"')
        return [(text, {}) for text in texts]
    if prompts:
        raise UsageError("a data set has its own prompts", hint="Give PROMPTS, or --dataset.")
    from mmalign.data.contents import require_pairs
    from mmalign.evaluate.parts import open_named

    pairs = check_needs(NEEDS, source.family, ALONE).pairs
    part = open_named(app.catalog, dataset, KINDS, split, values, "generate", pairs)
    hint = "Name other data, or another --backbone."
    require_pairs(f"{source.reference} answers", part.dataset, pairs, dataset, hint)
    number = min(limit or len(part.dataset), len(part.dataset))
    app.say(f"{number:,} of {len(part.dataset):,} prompts of {part.entry.spec.name}, {part.split}")
    for reason, count in part.dataset.report()["skipped"].items():
        app.warn(f"{count:,} rows left out of the data: {reason}")
    examples = (part.dataset[index] for index in range(number))
    return [(example.prompt, {"key": example.key}) for example in examples]


def _encode(processor: Any, texts: "list[Turns]", chat: bool, room: int) -> "tuple[list[Tensor], dict[int, str]]":
    """(ids of each prompt, why some cannot be used): a prompt must leave room for all that may be generated."""
    ids, problems = [], {}
    for place, text in enumerate(texts):
        try:
            prompt = processor.prompt((Message("user", text),) if chat and isinstance(text, str) else text)
        except BadSample as error:
            problems[place] = error.message
            prompt = processor.prompt("")
        limit = processor.context_length - room
        if not len(prompt) and place not in problems:
            problems[place] = "the prompt has no tokens"
        elif len(prompt) > limit and place not in problems:
            problems[place] = (
                f"{len(prompt)} tokens and {room} to generate do not fit the context of {processor.context_length}"
            )
        ids.append(prompt)
    return ids, problems


def _streamer(processor: Any) -> Callable[[int, int], None]:
    """Writes the text as it grows: a token may be part of a character, so the whole is decoded each time."""
    import torch

    drawn: list[int] = []
    written = ""

    def show(row: int, token: int) -> None:
        nonlocal written
        if token in processor.end_ids:
            return
        drawn.append(token)
        text = processor.decode(torch.tensor(drawn)).rstrip("\ufffd")
        sys.stdout.write(printable(text[len(written) :], lines=True))
        sys.stdout.flush()
        written = text

    return show
