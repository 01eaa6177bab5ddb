"""The embedded film reviews: one set, many kinds, and no sentence on two sides."""

import json
import re
from itertools import combinations

import pytest
from mmalign_data.reviews import FOLDER, PROMPT, Reviews, ReviewsConfig, read, starred

from mmalign.contract.examples import Completion, LabelledCompletion, Prompt, Text

SPLITS = ("train", "validation", "test")


def test_splits_share_no_sentence_and_hold_fixed_shares() -> None:
    normal = {split: {re.sub(r"[^a-z0-9]+", " ", r.text.lower()).strip() for r in read(split)} for split in SPLITS}
    assert [len(normal[split]) for split in SPLITS] == [8483, 1047, 1073]
    assert not any(normal[first] & normal[second] for first, second in combinations(SPLITS, 2))


def test_ratings_are_means_on_the_scale() -> None:
    rows = [json.loads(line) for line in (FOLDER / "reviews.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(-4 <= row["rating"] <= 4 and row["raters"] >= 10 for row in rows)
    rating = {row["text"]: row["rating"] for row in rows}
    assert rating["Effective but too tepid biopic"] == -0.6  # as the source has it


@pytest.mark.parametrize("split", SPLITS)
def test_rankings_order_sentences_as_their_ratings_do(split: str) -> None:
    ratings = {f" {review.text}": review.rating for review in read(split)}
    data = Reviews.build(ReviewsConfig(kind="ranking", answers=7), split)
    seen = [answer for example in (data[i] for i in range(len(data))) for answer in example.completions]
    assert sorted(seen) == sorted(ratings)  # every sentence once
    example = data[3]
    assert example.prompt == PROMPT and len(example.completions) == 7
    assert example.ranks == tuple(5 - ratings[answer] for answer in example.completions)


def test_preferences_keep_the_gap_and_count_what_they_leave_out() -> None:
    ratings = {f" {review.text}": review.rating for review in read("train")}
    data = Reviews.build(ReviewsConfig(kind="preference", gap=1.5, rounds=2), "train")
    pairs = [data[i] for i in range(len(data))]
    assert all(ratings[pair.chosen] - ratings[pair.rejected] >= 1.5 for pair in pairs)
    assert len(pairs) + data.report()["skipped"]["ratings too close"] == 2 * (len(ratings) // 2)
    assert len({pair.key for pair in pairs}) == len(pairs)


def test_labels_follow_the_sign_and_leave_out_the_middle() -> None:
    ratings = {review.text: review.rating for review in read("validation")}
    data = Reviews.build(ReviewsConfig(kind="text-label", gap=1.0), "validation")
    assert data.classes == ("negative", "positive")
    for example in (data[i] for i in range(len(data))):
        assert abs(ratings[example.text]) >= 0.5 and example.label == (ratings[example.text] > 0)
    assert len(data) + data.report()["skipped"]["ratings too close"] == len(ratings)


def test_stars_follow_the_rating() -> None:
    assert [starred(rating) for rating in (-4, -2.1, 0, 1.2, 4)] == [
        f"Movie review, {stars}:" for stars in ("1 star", "2 stars", "3 stars", "4 stars", "5 stars")
    ]
    ratings = {f" {review.text}": review.rating for review in read("validation")}
    data = Reviews.build(ReviewsConfig(kind="completion", stars=True), "validation")
    assert all(data[i].prompt == starred(ratings[data[i].completion]) for i in range(len(data)))


def test_the_prompts_are_those_that_the_sentences_answer() -> None:
    data = Reviews.build(ReviewsConfig(kind="prompt"), "train")
    assert len(data) == 1 and data[0].prompt == PROMPT and isinstance(data[0], Prompt)
    data = Reviews.build(ReviewsConfig(kind="prompt", stars=True), "validation")
    assert {data[i].prompt for i in range(len(data))} == {starred(stars) for stars in (-4, -2, 0, 2, 4)}


def test_a_lead_moves_the_first_words_into_the_prompt() -> None:
    texts = [review.text for review in read("validation")]
    prompts = Reviews.build(ReviewsConfig(kind="prompt", lead=3), "validation")
    completions = Reviews.build(ReviewsConfig(kind="completion", lead=3, stars=True), "validation")
    assert len(prompts) == len(completions) == sum(len(text.split(" ")) > 3 for text in texts)
    for data in (prompts, completions):
        assert data.report()["skipped"] == {"no more than 3 words": len(texts) - len(data)}
    first, whole = prompts[0].prompt, completions[0].prompt + completions[0].completion
    assert first.startswith(f"{PROMPT} ") and texts[0].startswith(first.removeprefix(f"{PROMPT} "))
    assert len(first.removeprefix(f"{PROMPT} ").split(" ")) == 3
    assert whole.partition(": ")[2] == texts[0] and whole.startswith("Movie review, ")


@pytest.mark.parametrize("kind", ["preference", "ranking"])
def test_what_is_held_out_is_dealt_once(kind: str) -> None:
    def build(split: str, rounds: int) -> Reviews:
        return Reviews.build(ReviewsConfig(kind=kind, rounds=rounds), split)  # type: ignore[arg-type]

    for split in ("validation", "test"):
        once, thrice = build(split, 1), build(split, 3)
        assert once.fingerprint() == thrice.fingerprint() and once.report() == thrice.report()
    assert len(build("train", 3)) > 2.5 * len(build("train", 1))


@pytest.mark.parametrize(
    ("kind", "example"), [("text", Text), ("completion", Completion), ("labelled-completion", LabelledCompletion)]
)
def test_one_example_a_sentence(kind: str, example: type) -> None:
    data = Reviews.build(ReviewsConfig(kind=kind), "test")  # type: ignore[arg-type]
    assert len(data) == 1073 and isinstance(data[0], example)
