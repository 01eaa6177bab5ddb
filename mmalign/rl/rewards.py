"""A weighted list of rewards, with checked options and scores.

    check_rewards(catalog, options)              # imports nothing heavy; raises UsageError
    rewards = RewardList.build(catalog, options, device, say)
    rewards.score(answers).total                 # [M]: what the policy learns to maximise

options: one mapping per reward, such as {"name": "regex", "weight": 0.5, "pattern": "Answer: .+"}. The default weight
is 1; 0 only reports. The total is the weighted sum of scores; None adds nothing to it, as in TRL.
"""

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmalign.config.validate import build as build_config
from mmalign.contract.capabilities import Pair
from mmalign.contract.specs import Entry
from mmalign.errors import MmalignError, NonFiniteRewardError, RewardError, UsageError, raised_at
from mmalign.registry.catalog import Catalog, lasting_name
from mmalign.registry.plugins import BUILTINS
from mmalign.rl.reward import OpensModels, ReadsColumns, ReadsPairs, Reward, SharesTrunk

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mmalign.rl.answers import Answers
    from mmalign.rl.reward import PolicyTrunk

SECTION = "rollout.rewards"
_SHOWN = 200  # characters of an answer or an option in an error
_SEARCH_SECONDS = 5.0


@dataclass(frozen=True)
class Scores:
    """total: [M] float32 on the CPU, the weighted sum; parts: reward name -> its unweighted scores, NaN for None.
    unscored: [M] bool, answers to which every reward with a weight gave None; their total is 0."""

    total: "Tensor"
    parts: "dict[str, Tensor]"
    unscored: "Tensor"


@dataclass(frozen=True)
class Chosen:
    """A reward of the list. name: its key in `Scores.parts`, such as `regex-2` for the second regex."""

    name: str
    weight: float
    entry: Entry
    config: Any

    def options(self) -> dict[str, Any]:
        """All options, with absolute paths: a run keeps them to be resumed from anywhere."""
        return {"name": lasting_name(self.entry), "weight": self.weight, **self.config.model_dump(mode="json")}

    def __str__(self) -> str:
        """With its non-default options, which tell two rewards of one name apart."""
        given = self.config.model_dump(mode="json", exclude_defaults=True)
        options = "".join(f", {key}={_short(str(value))}" for key, value in given.items())
        return f"reward {self.name} (of {self.entry.plugin}{options})"


def check_rewards(
    catalog: Catalog, options: Sequence[Mapping[str, Any]], *, required: bool = True, section: str = SECTION
) -> tuple[Chosen, ...]:
    """Find each reward and validate its options; raises UsageError.

    required: also refuse an empty list and one whose weights are all 0; an environment has a reward of its own.
    section: the list's name in errors.
    """
    rewards: list[Chosen] = []
    for number, given in enumerate(options):
        where = f"{section}[{number}]"
        if not isinstance(given.get("name"), str):
            raise UsageError(f"{where}: {dict(given)} names no reward", hint=_some(catalog))
        entry = _find(catalog, given["name"])
        own = {key: value for key, value in given.items() if key not in ("name", "weight")}
        hint = f"All options, besides weight: mmalign show {catalog.display_name(entry)} --options"
        config = build_config(catalog.load_config(entry), own, where, hint=hint)
        name = _unused(catalog.display_name(entry), {chosen.name for chosen in rewards})
        rewards.append(Chosen(name, _weight(given.get("weight", 1.0), where), entry, config))
    if required and not any(chosen.weight for chosen in rewards):
        problem = "every reward has weight 0" if rewards else "there is no reward to learn from"
        raise UsageError(f"{section}: {problem}", hint=_some(catalog))
    return tuple(rewards)


class RewardList:
    """Opened rewards with their weights. names: keys of `Scores.parts`, in the order of the options."""

    def __init__(self, rewards: "Iterable[tuple[Chosen, Reward]]") -> None:
        self._rewards = list(rewards)
        self.names = tuple(chosen.name for chosen, _ in self._rewards)

    @classmethod
    def build(
        cls,
        catalog: Catalog,
        options: Sequence[Mapping[str, Any]],
        device: "torch.device",
        say: Callable[[str], None],
        *,
        required: bool = True,
        section: str = SECTION,
        trunk: "PolicyTrunk | None" = None,
    ) -> "RewardList":
        """Make each reward, and let it load its models. say: gets notes for the user; trunk: the policy's weights,
        which a reward may share.

        Raises UsageError for wrong options, another MmalignError for a reward that cannot be opened.
        """
        chosen = check_rewards(catalog, options, required=required, section=section)
        return cls((each, _opened(each, catalog, device, say, trunk)) for each in chosen)

    def check_columns(self, columns: Sequence[str]) -> None:
        """Raise UsageError, with the reward's name, if a reward needs a column that the prompts lack."""
        for chosen, reward in self._rewards:
            if isinstance(reward, ReadsColumns):
                with _named(chosen):
                    reward.check_columns(columns)

    def check_pair(self, pair: Pair) -> None:
        """Raise UsageError, with the reward's name, if a reward does not read prompts and answers with these
        contents."""
        for chosen, reward in self._rewards:
            if isinstance(reward, ReadsPairs):
                with _named(chosen):
                    reward.check_pair(pair)

    def score(self, answers: "Answers") -> Scores:
        """Score answers; raises RewardError, with the reward and the example, for an exception or a wrong score."""
        import torch

        parts: dict[str, Tensor] = {}
        total = torch.zeros(len(answers), dtype=torch.float64)
        unscored = torch.full((len(answers),), any(chosen.weight for chosen, _ in self._rewards))
        with torch.no_grad():
            for chosen, reward in self._rewards:
                scores = _checked(_call(chosen, reward, answers), chosen, answers)
                total += chosen.weight * scores.double().nan_to_num(0.0)
                if chosen.weight:
                    unscored &= scores.isnan()
                parts[chosen.name] = scores
        return Scores(total.float(), parts, unscored)


@contextlib.contextmanager
def _named(chosen: Chosen) -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{chosen}: {error.message}", hint=error.hint) from error


def _opened(
    chosen: Chosen, catalog: Catalog, device: "torch.device", say: Callable[[str], None], trunk: "PolicyTrunk | None"
) -> "Reward":
    try:
        with contextlib.redirect_stdout(sys.stderr):  # a user's file may print when it is imported
            reward = catalog.load(chosen.entry)(chosen.config)
        if trunk is not None and isinstance(reward, SharesTrunk):
            reward.share(trunk, chosen.name, lambda line: say(f"{chosen.name}: {line}"))
        if isinstance(reward, OpensModels):
            reward.open(catalog, device, lambda line: say(f"{chosen.name}: {line}"))
    except MmalignError as error:
        raise type(error)(f"{chosen}: {error.message}", hint=error.hint) from error
    except Exception as error:  # a plugin's code, which may raise anything
        raise RewardError(
            f"{chosen} cannot be opened: {_described(error, chosen)}",
            hint=f"To test its plugin: mmalign plugins check {chosen.entry.plugin}",
        ) from error
    return reward


def _described(error: BaseException, chosen: Chosen) -> str:
    return f"{type(error).__name__}: {error}{raised_at(error, chosen.entry.spec.target)}"


def _call(chosen: Chosen, reward: "Reward", answers: "Answers") -> Any:
    try:
        return _score(reward, answers)
    except (Exception, SystemExit) as error:  # a plugin's code, which may raise anything
        row = _culprit(reward, answers)
        known = isinstance(error, MmalignError)
        problem = error.message if known else _described(error, chosen)
        hint = error.hint if known and error.hint else _advice(chosen)
        raise RewardError(f"{chosen} failed: {problem}\n{_example(answers, row)}", hint=hint) from error


def _score(reward: "Reward", answers: "Answers") -> Any:
    """Call the reward with its prints sent to stderr, since stdout may be one JSON document."""
    with contextlib.redirect_stdout(sys.stderr):
        return reward.score(answers)


def _culprit(reward: "Reward", answers: "Answers") -> int:
    """Row of an answer that makes the reward fail, by bisection; stops early if no half fails alone, or it is slow."""
    rows, until = range(len(answers)), time.monotonic() + _SEARCH_SECONDS
    while len(rows) > 1 and time.monotonic() < until:
        half = len(rows) // 2
        failing = next((side for side in (rows[:half], rows[half:]) if _fails(reward, answers.select(side))), None)
        if failing is None:
            break
        rows = failing
    return rows[0] if len(rows) else 0


def _fails(reward: "Reward", answers: "Answers") -> bool:
    try:
        _score(reward, answers)
    except (Exception, SystemExit):
        return True
    return False


def _find(catalog: Catalog, name: str) -> Entry:
    """Raises UsageError; if the name looks like a path, its hint says how to give one."""
    try:
        return catalog.find("rewards", name)
    except UsageError as error:
        if not set(name) & set(":/."):
            raise
        options = json.dumps([{"name": "function", "function": name}])
        hint = f"For your function: --set '{SECTION}={options}'; for a model: the name reward-model, with its path."
        raise UsageError(error.message, hint=f"{error.hint}\n{hint}") from error


def _weight(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UsageError(
            f"{where}.weight: {value!r} is not a number", hint="1: the score itself; 0: only reported; -1: a penalty."
        )
    return float(value)


def _unused(name: str, taken: set[str]) -> str:
    number, unused = 1, name
    while unused in taken:
        number += 1
        unused = f"{name}-{number}"
    return unused


def _some(catalog: Catalog) -> str:
    names = ", ".join(catalog.display_name(entry) for entry in catalog.entries("rewards")[:8])
    return f"""Rewards: {names}. Try: --set {SECTION}='[{{"name": "vader"}}]'"""


def _checked(value: Any, chosen: Chosen, answers: "Answers") -> "Tensor":
    """[M] float32 on the CPU, NaN for None; raises RewardError for another shape or type, NonFiniteRewardError for NaN
    or infinity from the reward."""
    import numpy as np
    import torch

    missing: list[int] = []
    if isinstance(value, np.ndarray):
        is_real = value.dtype.kind in "biuf"  # torch rejects other byte orders, negative strides and longer floats
        value = torch.from_numpy(np.array(value, dtype=np.float64, order="C")) if is_real else value.tolist()
    if not isinstance(value, torch.Tensor):
        value, missing = _from_list(value, chosen, answers)
    if value.shape != (len(answers),):
        raise RewardError(
            f"{chosen} gave the shape {list(value.shape)} for {len(answers)} answers, not [{len(answers)}]\n"
            + _example(answers, 0),
            hint=f"It must give one number for each answer. {_advice(chosen)}",
        )
    if value.is_complex():
        raise RewardError(f"{chosen} gave complex numbers\n{_example(answers, 0)}", hint=_advice(chosen))
    scores = value.detach().to("cpu", torch.float32)
    wrong = (~scores.isfinite()).nonzero()[:, 0].tolist()
    if wrong:
        raise NonFiniteRewardError(
            f"{chosen} gave {float(value[wrong[0]])} ({len(wrong)} of {len(answers)} scores are not finite)\n"
            + _example(answers, wrong[0]),
            hint=_advice(chosen),
        )
    scores[missing] = math.nan
    return scores


def _from_list(value: Any, chosen: Chosen, answers: "Answers") -> "tuple[Tensor, list[int]]":
    """(the numbers, with 0 for None; the rows with None)."""
    import torch

    if not isinstance(value, list | tuple):
        raise RewardError(
            f"{chosen} gave {type(value).__name__}, not a list or tensor of numbers\n{_example(answers, 0)}",
            hint=_advice(chosen),
        )
    numbers = []
    for row, item in enumerate(value):
        try:
            if isinstance(item, str | bytes):  # float("1") would pass, but a reward that returns text is broken
                raise TypeError("a text")
            numbers.append(0.0 if item is None else float(item))
        except (TypeError, ValueError, RuntimeError) as error:
            shown = _short(f"the text {item!r}" if isinstance(item, str | bytes) else repr(item))
            raise RewardError(
                f"{chosen} gave {shown}, which is not a number\n{_example(answers, min(row, len(answers) - 1))}",
                hint=f"It must give a number for every answer, or None where it has no score. {_advice(chosen)}",
            ) from error
    missing = [row for row, item in enumerate(value) if item is None]
    return torch.tensor(numbers, dtype=torch.float64), missing


def _example(answers: "Answers", row: int) -> str:
    if not len(answers):
        return "There was no answer to score."
    return f"First at example {answers.keys[row]}, answer {_short(answers.texts[row])!r}"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text):,} characters)"


def _advice(chosen: Chosen) -> str:
    check = "" if chosen.entry.plugin in BUILTINS else f" Try: mmalign plugins check {chosen.entry.plugin}"
    return f"Fix the reward, or leave it out.{check}"
