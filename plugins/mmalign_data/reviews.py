"""The embedded `movie-reviews`: 10,603 sentences of film reviews, each with the mean rating of some 20 people, -4 to 4.

    mmalign train --objective reward --dataset movie-reviews
    mmalign train --objective dpo --dataset movie-reviews --set dataset.kind=preference

One set gives many kinds of example. Every sentence is an answer to the one prompt "Movie review:", so that any two can
be compared:
  text                 the sentence behind that prompt, as a document
  completion           prompt and sentence; with `stars` the prompt states the rating: "Movie review, 4 stars:", with
                       `lead` it also has the first words: "Movie review: The film starts"
  preference           two sentences whose ratings differ by `gap` or more, the better one first
  ranking              `answers` sentences; the rank is 5 - rating, so 1 is the best possible, and ranks differ as
                       ratings do
  labelled-completion  prompt and sentence, wanted where the rating is above 0
  prompt               the prompt alone, to sample from; with `stars` five prompts, one for each number of stars; with
                       `lead` one prompt for each sentence
  text-label           the sentence, positive or negative; ratings nearer to 0 than half of `gap` are left out
Train, validation and test never share a sentence (`examples/embedded_data/prepare_reviews.py`).
"""

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field

from mmalign.contract.examples import Completion, LabelledCompletion, Preference, Prompt, Ranking, Text, TextLabel
from mmalign.errors import DataError

FOLDER = Path(__file__).parent / "reviews"
PROMPT = "Movie review:"
CLASSES = ("negative", "positive")
BEST = 4.0


class ReviewsConfig(BaseModel):
    """Options of the film reviews."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["text", "prompt", "completion", "preference", "ranking", "labelled-completion", "text-label"] = Field(
        "text", description="Kind of example to make; default: the first that the objective takes"
    )
    gap: float = Field(1.0, gt=0, description="Least difference of two ratings in a preference, in points (-4 to 4)")
    stars: bool = Field(
        False, description="State the rating in prompts, from 1 to 5 stars (kinds completion and prompt)"
    )
    lead: int = Field(
        0, ge=0, description="Number of the sentence's first words to put in the prompt (kinds completion and prompt)"
    )
    answers: int = Field(16, ge=2, description="Sentences in one ranking")
    rounds: int = Field(
        1,
        ge=1,
        description="How often all training sentences are dealt into pairs or rankings, differently each time",
    )


class Review(NamedTuple):
    """A sentence. number: its line in the file."""

    number: int
    text: str
    rating: float


class Reviews:
    """Examples of one kind; `classes` name the labels of a text-label."""

    Config: ClassVar[type[BaseModel]] = ReviewsConfig
    classes: ClassVar[tuple[str, ...]] = CLASSES

    def __init__(self, examples: Sequence[Any], skipped: Mapping[str, int]) -> None:
        self._examples, self._skipped = examples, skipped

    @classmethod
    def build(cls, config: ReviewsConfig, split: str) -> Self:
        """The part named `split`, train, validation or test; raises DataError if the installation lacks the file."""
        reviews = read(split)
        config = (
            config if split == "train" else config.model_copy(update={"rounds": 1})
        )  # one round is enough to measure
        examples = list(_MAKERS[config.kind](reviews, config))
        made = (len(reviews) // 2) * config.rounds if config.kind == "preference" else len(reviews)
        by_lead = config.kind in ("prompt", "completion") and config.lead > 0
        left_out = made - len(examples) if by_lead or config.kind in ("preference", "text-label") else 0
        why = f"no more than {config.lead} words" if by_lead else "ratings too close"
        return cls(examples, {why: left_out} if left_out else {})

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Any:
        return self._examples[index]

    def report(self) -> Mapping[str, Any]:
        """Counts: examples kept, and examples left out because ratings are too close or sentences too short."""
        return {"kept": len(self), "skipped": dict(self._skipped), "source": "movie-reviews (embedded)"}

    def fingerprint(self) -> str:
        """A hash of the examples."""
        return hashlib.sha256(repr(self._examples).encode()).hexdigest()[:16]


def read(split: str) -> list[Review]:
    """The sentences of one part, in the file's order; raises DataError."""
    path = FOLDER / "reviews.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        hint = "Install mmalign again: python -m pip install --force-reinstall mmalign"
        raise DataError(f"{path}: the embedded data are damaged: {error}", hint=hint) from error
    return [Review(n, row["text"], row["rating"]) for n, row in enumerate(rows) if row["split"] == split]


def _prompts(reviews: list[Review], config: ReviewsConfig) -> Iterator[Prompt]:
    """The distinct prompts of these sentences; without a lead all parts of the data have the same."""
    if config.lead:
        for review in reviews:
            if prompt := _parted(review, config)[0]:
                yield Prompt(_key("prompt", review), prompt)
        return
    prompts = {starred(review.rating) if config.stars else PROMPT for review in reviews}
    yield from (Prompt(f"movie-reviews:prompt:{prompt}", prompt) for prompt in sorted(prompts))


def starred(rating: float) -> str:
    """The prompt that asks for a review of about that rating: -4 is one star, 4 is five."""
    stars = round(1 + (rating + BEST) / 2)
    return f"Movie review, {stars} star{'s' * (stars > 1)}:"


def _key(kind: str, *reviews: Review) -> str:
    return f"movie-reviews:{kind}:" + "+".join(str(review.number) for review in reviews[:4])


def _answer(review: Review) -> str:
    return f" {review.text}"


def _parted(review: Review, config: ReviewsConfig) -> tuple[str, str]:
    """(prompt, answer), with the lead in the prompt; empty where no words would be left for the answer."""
    words = review.text.split(" ")
    if len(words) <= config.lead:
        return "", ""
    prompt = " ".join([starred(review.rating) if config.stars else PROMPT, *words[: config.lead]])
    return prompt, " " + " ".join(words[config.lead :])


def _each(kind: str, reviews: list[Review], config: ReviewsConfig) -> Iterator[Any]:
    """One example for each sentence."""
    for review in reviews:
        key, answer = _key(kind, review), _answer(review)
        if kind == "text":
            yield Text(key, PROMPT + answer)
        elif kind == "completion":
            prompt, answer = _parted(review, config)
            if prompt:
                yield Completion(key, prompt, answer)
        elif kind == "labelled-completion":
            yield LabelledCompletion(key, PROMPT, answer, review.rating > 0)
        elif abs(review.rating) >= config.gap / 2:
            yield TextLabel(key, review.text, int(review.rating > 0))


def _dealt(reviews: list[Review], size: int, rounds: int) -> Iterator[tuple[int, list[Review]]]:
    """(round, group): all sentences in groups of `size`, random but always the same; the last group may be smaller."""
    for number in range(rounds):
        order = list(reviews)
        random.Random(number).shuffle(order)
        yield from ((number, order[start : start + size]) for start in range(0, len(order), size))


def _preferences(reviews: list[Review], config: ReviewsConfig) -> Iterator[Preference]:
    for number, pair in _dealt(reviews, 2, config.rounds):
        if len(pair) == 2 and abs(pair[0].rating - pair[1].rating) >= config.gap:
            chosen, rejected = sorted(pair, key=lambda review: -review.rating)
            key = _key(f"preference:{number}", chosen, rejected)
            yield Preference(key, PROMPT, _answer(chosen), _answer(rejected))


def _rankings(reviews: list[Review], config: ReviewsConfig) -> Iterator[Ranking]:
    for number, group in _dealt(reviews, config.answers, config.rounds):
        if len(group) > 1:
            ranks = tuple(1 + BEST - review.rating for review in group)
            yield Ranking(_key(f"ranking:{number}", *group), PROMPT, tuple(map(_answer, group)), ranks)


_MAKERS = {kind: partial(_each, kind) for kind in ("text", "completion", "labelled-completion", "text-label")} | {
    "prompt": _prompts,
    "preference": _preferences,
    "ranking": _rankings,
}
