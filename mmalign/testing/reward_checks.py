"""Conformance of rewards: a finite score for every text, independent of the other answers in the batch."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mmalign.contract.specs import Entry
from mmalign.errors import UsageError
from mmalign.testing.bench import Check, Skip, Workbench

if TYPE_CHECKING:
    from mmalign.rl.answers import Answers
    from mmalign.rl.rewards import RewardList

TOLERANCE = 1e-5  # float32, different summation order
_POLICY = "tiny-gpt2"
_TEXTS = (" a red car", " the photo of a small cat", " tree", " two dogs and a fish", " blue", " a house and a house")
_ODD = ("", " ", "\n\t", " 猫 🙂 Ä ∑", " \u202e\u0000\ufeff", " e\u0301\u200d", " x" * 12)


def checks(entry: Entry, bench: Workbench) -> list[Check]:
    return [
        Check(f"reward {entry.spec.name}: {title}", partial(function, entry, bench))
        for title, function in _CHECKS.items()
    ]


def leaves_name_and_weight(entry: Entry, bench: Workbench) -> None:
    """Both are keys of the list of rewards, so options of these names would never reach the reward."""
    taken = sorted({"name", "weight"} & set(bench.catalog.load_config(entry).model_fields))
    assert not taken, f"options called {' and '.join(taken)} belong to the list of rewards"


def one_score_an_answer(entry: Entry, bench: Workbench) -> None:
    """M answers get [M] finite scores, and the same scores again the second time."""
    rewards = _rewards(entry, bench)
    answers = make_answers(_TEXTS, bench)
    first, again = rewards.score(answers).total, rewards.score(answers).total
    worst = float((first - again).abs().max())
    assert worst <= TOLERANCE, f"the same answers score differently the second time, by {worst:.1e}"


def company_changes_nothing(entry: Entry, bench: Workbench) -> None:
    """An answer has the same score alone, in another order, or with others of its prompt."""
    import torch

    rewards = _rewards(entry, bench)
    answers = make_answers(_TEXTS, bench)
    together = rewards.score(answers).total
    order = list(reversed(range(len(answers))))
    parts = {
        "in another order": (order, [answers.select(order)]),
        "alone": (range(len(answers)), [answers.select([row]) for row in range(len(answers))]),
    }
    for how, (rows, split) in parts.items():
        scores = torch.cat([rewards.score(group).total for group in split])
        worst = float((scores - together[list(rows)]).abs().max())
        assert worst <= TOLERANCE, f"answers {how} differ by {worst:.1e}"


def takes_any_text(entry: Entry, bench: Workbench) -> None:
    """Empty answers, white space and any Unicode are scored."""
    rewards = _rewards(entry, bench)
    rewards.score(make_answers(_ODD, bench))
    rewards.score(make_answers(_ODD[:1], bench))


def leaves_random_state(entry: Entry, bench: Workbench) -> None:
    """Opening the reward and scoring leave the global random generators alone."""
    import random

    import numpy as np
    import torch

    def states() -> tuple[Any, ...]:
        return random.getstate(), repr(np.random.get_state(legacy=True)), torch.get_rng_state().tolist()

    before = states()
    _rewards(entry, bench).score(make_answers(_TEXTS, bench))
    assert before == states(), "the reward changes the random state of random, numpy or torch"


_CHECKS: dict[str, Callable[[Entry, Workbench], None]] = {
    "its options leave name and weight to the list": leaves_name_and_weight,
    "a finite score for each answer, the same again": one_score_an_answer,
    "company changes no score": company_changes_nothing,
    "takes empty answers and any Unicode": takes_any_text,
    "leaves random state alone": leaves_random_state,
}


def make_answers(texts: Sequence[str], bench: Workbench) -> "Answers":
    """Answers as a tiny policy would write them: two for each prompt, every third without its end token."""
    import torch

    from mmalign.language.sequences import Sequences
    from mmalign.rl.answers import Answers
    from mmalign.testing.subjects import load, resolve_or_skip

    processor = load(resolve_or_skip(_POLICY, bench), bench).processor
    rows = range(len(texts))
    prompts = [f"the photo of {'a cat' if row // 2 % 2 else 'a dog with a fish'}" for row in rows]
    ids = [processor.prompt(text).tolist() for text in texts]
    ended = [row % 3 != 2 or not ids[row] for row in rows]
    written = [torch.tensor([*ids[row], *([processor.end_id] if ended[row] else [])]) for row in rows]
    return Answers(
        keys=tuple(f"example:{row // 2}" for row in rows),
        prompts=tuple(prompts),
        texts=tuple(texts),
        solutions=tuple(_TEXTS[row % len(_TEXTS)].strip() for row in rows),
        ended=tuple(ended),
        sequences=Sequences.from_lists(
            [processor.prompt(prompts[row]) for row in rows[::2]], [written[row : row + 2] for row in rows[::2]]
        ),
        processor=processor,
    )


def _rewards(entry: Entry, bench: Workbench) -> "RewardList":
    """This reward alone, opened on the CPU; skips if a required option has no example."""
    import torch

    from mmalign.rl.rewards import RewardList, check_rewards

    given = {key: _value(value, bench) for key, value in bench.rewards.get(entry.spec.name, {}).items()}
    examples = {
        name: field.examples[0]
        for name, field in bench.catalog.load_config(entry).model_fields.items()
        if field.is_required() and field.examples
    }
    options = [{**examples, **given, "name": entry.qualified}]
    try:
        check_rewards(bench.catalog, options)
    except UsageError as error:
        if given:
            raise
        example = f"conformance(..., rewards={{{entry.spec.name!r}: {{...}}}})"
        raise Skip(f"needs options: {error.message}; {example}, or Field(examples=[...])") from error
    return RewardList.build(bench.catalog, options, torch.device("cpu"), lambda line: None)


def _value(value: Any, bench: Workbench) -> Any:
    return str(bench.model(value)) if value in bench.model_names else value
