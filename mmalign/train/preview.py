"""Before the first step: count the tokens a language model will see and those cut, and show one labelled example.

For an objective that samples, examples are prompts, and none of their tokens is learnt.

    for line in preview(job): say(line)

Raises DataError if more tokens would be cut than `data.max_lost` allows: nothing is truncated silently.
"""

import dataclasses
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, cast

import click
import torch

from mmalign.contract.capabilities import Capability
from mmalign.contract.examples import ImageRef
from mmalign.contract.specs import Entry
from mmalign.data.collate import Encoder
from mmalign.data.contents import readable
from mmalign.data.images import describe, open_image
from mmalign.data.loader import Sweep
from mmalign.errors import BadSample, DataError
from mmalign.language.protocols import AnswersProcessor
from mmalign.language.sequences import Sequences, sequences_of
from mmalign.printable import Printable, printable
from mmalign.train.build import Job
from mmalign.train.config import DataConfig

SURVEYED = 1000  # examples or answers to look at, which takes a second or two
_SHOWN = 600  # characters


def preview(job: Job) -> Iterator[str]:
    """Lines to print: counts, and the first example with its labels between « and »."""
    if Capability.TOKEN_LOGPS not in job.plan.source.family.provides or not _reads(job.plan.example, job.encoder):
        return
    yield survey(job.data, job.encoder, job.plan.data)
    for name, (data, encoder) in job.others.items():
        if _reads(job.plan.streams[name].example, encoder):
            yield survey(data, encoder, job.plan.data, of=f" of the stream {name}")
    batch = next(iter(Sweep(job.data, job.encoder, 1, limit=SURVEYED)))
    yield job.feed.opening(batch["key"][0])
    for line in show(sequences_of(batch), cast(AnswersProcessor, job.encoder.processor)):
        yield Printable(f"  {line}")


def _reads(example: Entry, encoder: Encoder) -> bool:
    """Whether a language model reads this kind of example, as prompts and answers or as documents."""
    return example.spec.modalities == {"text"} and not encoder.columns.keys().isdisjoint({"sequences", "text"})


def first_example(data: Any) -> Iterator[str]:
    """Lines on the first readable example of any kind: its fields, and the size of pictures."""
    example = next(iter(readable(data)), None)
    if example is None:
        return
    yield f"the first example, {printable(example.key)}; all of it is learnt from:"
    for field in dataclasses.fields(example):
        value = vars(example)[field.name]
        if field.name == "key" or value in ("", ()):
            continue
        shown = _picture(value) if isinstance(value, ImageRef) else printable(str(value))
        yield f"  {field.name}: {shown if len(shown) <= _SHOWN else shown[:_SHOWN] + '…'}"


def _picture(ref: ImageRef) -> str:
    try:
        width, height = open_image(ref).size
    except BadSample as error:
        return printable(error.message)
    return f"{printable(describe(ref))}, {width} x {height} pixels"


def survey(data: Any, encoder: Encoder, config: DataConfig, *, of: str = "") -> str:
    """One line of counts; raises DataError past `data.max_lost`. of: follows "examples", as " of the stream ptx"."""
    sweep = Sweep(data, encoder, 8, limit=SURVEYED, max_bad=config.max_bad)
    prompts = encoder.answer_tokens > 0
    unit = "prompts" if prompts else f"examples{of}"
    examples = answers = tokens = labels = lost = cut = left_out = 0
    for batch in sweep:
        sequences = sequences_of(batch)
        examples += len(batch)
        answers += int(sequences.counts.clamp(min=1).sum())
        tokens += sequences.num_tokens()
        labels += int(sequences.is_label.sum())
        lost += int(batch["num_lost"].sum())
        cut += int((batch["num_lost"] > 0).sum())
        left_out += int(batch["num_left_out"].sum()) if "num_left_out" in batch else 0
        if answers >= SURVEYED:
            break
    share = lost / max(1, tokens + lost)
    if share > config.max_lost:
        room = f"the context of {encoder.processor.context_length} tokens"
        room += f", less {encoder.answer_tokens} for an answer (rollout.max_tokens)" if prompts else ""
        shorter = "lower rollout.max_tokens, " if prompts else ""
        raise DataError(
            f"{cut:,} of {examples:,} {unit} are longer than {room}: {share:.1%} of all tokens would be cut, "
            f"data.max_lost={config.max_lost:g} allows {config.max_lost:.1%}",
            hint=f"Shorten them, {shorter}raise backbone.context_length if the model can, or --set data.max_lost=1",
        )
    learnt = "" if prompts else f", {labels:,} of them to be learnt"
    template = f"; the chat template leaves out the thinking of {left_out:,} turns" if left_out else ""
    return (
        f"{examples:,} of {len(data):,} {unit} looked at: {tokens:,} tokens{learnt}; "
        f"{lost:,} tokens cut from {cut:,} {unit}; {len(sweep.bad):,} {unit} unusable{template}"
    )


def show(sequences: Sequences, processor: AnswersProcessor) -> list[str]:
    """The first prompt and its answers as printable text, one paragraph each, labels between « and » (green on a
    terminal)."""
    answers = sequences.select([0])
    prompt = printable(processor.decode(answers.prompts.values), lines=True)
    paragraphs = [prompt] if prompt else []
    labels = answers.is_label.split(answers.answers.lengths.tolist())
    for ids, learn in zip(answers.answers.rows(), labels, strict=True):
        cuts = [0, *(torch.nonzero(learn[1:] != learn[:-1])[:, 0] + 1).tolist(), len(ids)]
        text = ""
        for start, stop in pairwise(cuts):
            piece = printable(processor.decode(ids[start:stop]), lines=True)
            text += click.style(f"«{piece}»", fg="green") if stop > start and bool(learn[start]) else piece
        paragraphs.append(text)
    lines = [line for paragraph in paragraphs for line in paragraph.splitlines() or [""]]
    whole = "\n".join(lines)
    if len(whole) <= _SHOWN:
        return lines
    return [*whole[:_SHOWN].splitlines(), f"… ({len(whole) - _SHOWN:,} characters more)"]
