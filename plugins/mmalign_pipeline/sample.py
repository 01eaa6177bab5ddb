"""A model's answers to the prompts of a data set: `mmalign sample`, and the stages of a pipeline that sample.

    data = open_prompts(catalog, config, say)                      # a Part whose examples have prompts
    samples = sample(backbone, asked(data, config.limit), config)  # Samples: records and counts

Answer k to prompt n is drawn with random numbers that depend only on (seed, n, k) and the token's position, as in
reinforcement learning: not on the number of answers drawn together, nor on the limit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

from mmalign.contract.examples import Prompt, Turns
from mmalign.errors import BadSample, UsageError
from mmalign.language.messages import require_text
from mmalign_pipeline.answers import Answered

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from mmalign.evaluate.parts import Part
    from mmalign.language.protocols import AnswersProcessor
    from mmalign.language.sampling import Sampling
    from mmalign.registry.catalog import Catalog
    from mmalign.rl.episodes import Policy

NEEDS = ("generate",)
KINDS = ("prompt", "completion", "preference", "ranking", "labelled-completion")

Named = str | dict[str, JsonValue]


class Drawing(BaseModel):
    """How answers are drawn."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    limit: int = Field(0, ge=0, description="the first so many prompts; 0: all")
    max_tokens: int = Field(64, ge=1, description="longest answer, in tokens")
    temperature: float = Field(1.0, ge=0, description="temperature of sampling; 0: always the most probable token")
    top_p: float = Field(1.0, gt=0, le=1, description="draw among the most probable tokens of this share; 1: among all")
    seed: int = Field(0, ge=0, description="seed of the answers")
    batch_size: int = Field(64, ge=1, description="answers drawn together; does not change any answer")

    @property
    def sampling(self) -> "Sampling":
        from mmalign.language.sampling import Sampling

        return Sampling(self.max_tokens, self.temperature, self.top_p)


class SampleConfig(Drawing):
    """The model, and the prompts that it answers."""

    backbone: Named = Field(description="the language model, or {name: ..., and its options}")
    dataset: Named = Field(description="the data set of the prompts, or {name: ..., and its options}")
    split: str = Field("train", description="part of the data: train, validation or test")
    k: int = Field(4, ge=1, description="answers to each prompt")

    _named = field_validator("backbone", "dataset")(lambda value: check_named(value))


def check_named(value: Any) -> Any:
    """A name, or options with a name; raises ValueError."""
    if isinstance(value, dict) and not isinstance(value.get("name"), str):
        raise ValueError("options need a name: {name: ..., and its options}")
    return value


def name_and_options(value: Named) -> tuple[str, dict[str, Any]]:
    """("movie-reviews", {"lead": 3}) from either form."""
    if isinstance(value, str):
        return value, {}
    return str(value["name"]), {key: item for key, item in value.items() if key != "name"}


@dataclass(frozen=True)
class Asked:
    """A prompt of a data set. place: its index among all prompts, counted before any is left out."""

    place: int
    key: str
    prompt: Turns
    solution: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Samples:
    """records: in the order of the prompts. lost: prompts that were not answered, by reason. sequences: for each
    record, the ids [T] of its prompt and of its K answers."""

    records: list[Answered]
    lost: Mapping[str, int] = field(default_factory=dict)
    sequences: "list[tuple[Tensor, list[Tensor]]]" = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        texts = [text for record in self.records for text in record.completions]
        ended = sum(sum(record.ended) for record in self.records)
        return {
            "prompts": len(self.records),
            "answers": len(texts),
            "empty": sum(not text.strip() for text in texts),
            "without_end": len(texts) - ended,
            "prompts_left_out": sum(self.lost.values()),
        }


def open_prompts(catalog: "Catalog", config: SampleConfig, who: str = "sample") -> "Part":
    """The part of the data to use; raises UsageError, IncompatibleError, DataError."""
    from mmalign.evaluate.parts import open_named

    name, options = name_and_options(config.dataset)
    return open_named(catalog, name, KINDS, config.split, options, who)


def asked(dataset: Any, limit: int) -> list[Asked]:
    """The first `limit` prompts, 0 for all."""
    number = min(limit or len(dataset), len(dataset))
    examples = (dataset[index] for index in range(number))
    # Examples of kind prompt may have a solution and other columns; other kinds have none.
    return [
        Asked(n, e.key, require_text(e.prompt), e.solution, e.columns)
        if isinstance(e, Prompt)
        else Asked(n, e.key, require_text(e.prompt))
        for n, e in enumerate(examples)
    ]


def sample(
    policy: "Policy", prompts: Sequence[Asked], config: Drawing, k: int, step: "Callable[[int], None]" = lambda n: None
) -> Samples:
    """K answers to each prompt, drawn in batches of similar length. step: called after each batch with the number
    drawn.

    The model is used in its current mode: put it into evaluation mode first (`Runtime.evaluating`).
    """
    from mmalign.hashing import stable_hash
    from mmalign.rl.episodes import Episode, play

    encoded, lost = _encode(policy.processor, prompts, config.max_tokens)
    # Rows of one length need no padding. The longest come first, so that memory runs out at the start or never.
    order = sorted(encoded, key=lambda n: (-len(encoded[n]), n))
    rows = [(n, answer) for n in order for answer in range(k)]
    drawn: dict[tuple[int, int], Episode] = {}
    for start in range(0, len(rows), config.batch_size):
        batch = rows[start : start + config.batch_size]
        seeds = [stable_hash("sample", config.seed, prompts[n].place, answer) >> 1 for n, answer in batch]
        episodes = play(policy, [encoded[n] for n, _ in batch], [], config.sampling, seeds)
        drawn |= dict(zip(batch, episodes, strict=True))
        step(len(drawn))
    records, sequences = [], []
    for n in sorted(encoded):
        answers, question = [drawn[n, answer] for answer in range(k)], prompts[n]
        texts, ended = tuple(a.last_text for a in answers), tuple(a.ended for a in answers)
        records.append(Answered(question.key, question.prompt, texts, ended, question.solution, question.columns))
        sequences.append((encoded[n].cpu(), [answer.ids for answer in answers]))
    return Samples(records, lost, sequences)


def _encode(
    processor: "AnswersProcessor", prompts: Sequence[Asked], room: int
) -> "tuple[dict[int, Tensor], dict[str, int]]":
    """(ids by index into `prompts`, number of unusable prompts by reason). `room` tokens must fit behind each
    prompt."""
    limit = processor.context_length - room
    if limit < 1:
        raise UsageError(
            f"answers of up to {room} tokens do not fit the model's context of {processor.context_length}",
            hint="Lower --max-tokens.",
        )
    ids: dict[int, Tensor] = {}
    lost: dict[str, int] = {}
    for n, question in enumerate(prompts):
        try:
            tokens = processor.prompt(question.prompt)
            why = "" if len(tokens) else "the prompt has no tokens"
            why = f"no room for {room} tokens behind the prompt" if len(tokens) > limit else why
        except BadSample as error:
            tokens, why = None, error.message
        if tokens is None or why:
            lost[why] = lost.get(why, 0) + 1
        else:
            ids[n] = tokens
    return ids, lost
