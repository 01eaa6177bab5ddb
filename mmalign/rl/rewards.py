"""A weighted list of rewards, whose options and scores are checked.

    check_rewards(catalog, options)              # imports nothing heavy; raises UsageError
    rewards = RewardList.build(catalog, options, device, say)
    rewards.score(answers).total                 # [M]: what the policy is to make large

options: one mapping a reward, such as {"name": "regex", "weight": 0.5, "pattern": "Answer: .+"}. The weight is 1 where
none is given; 0 only reports. The total is the weighted sum of the scores that there are: an answer for which a reward
gives None gets nothing of it, as in TRL.
"""

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmalign.config.validate import build as build_config
from mmalign.contract.specs import Entry
from mmalign.errors import MmalignError, NonFiniteRewardError, RewardError, UsageError, raised_at
from mmalign.registry.catalog import Catalog, lasting_name
from mmalign.registry.plugins import BUILTINS
from mmalign.rl.reward import OpensModels, ReadsColumns, Reward, SharesTrunk

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
    """total: [M] float32 on the CPU, the weighted sum; parts: the same of each reward by itself, unweighted, NaN where
    it gave None. unscored: [M] bool, answers for which every reward that weighs gave None; their total is 0."""

    total: "Tensor"
    parts: "dict[str, Tensor]"
    unscored: "Tensor"


@dataclass(frozen=True)
class Chosen:
    """A reward that was asked for. name: of its part of the scores; `regex-2` where it is the second regex."""

    name: str
    weight: float
    entry: Entry
    config: Any

    def options(self) -> dict[str, Any]:
        """All of them, with paths made absolute: what a run keeps, to be resumed from anywhere."""
        return {"name": lasting_name(self.entry), "weight": self.weight, **self.config.model_dump(mode="json")}

    def __str__(self) -> str:
        """With the options that are not the default ones: of two functions, which."""
        given = self.config.model_dump(mode="json", exclude_defaults=True)
        options = "".join(f", {key}={_short(str(value))}" for key, value in given.items())
        return f"reward {self.name} (of {self.entry.plugin}{options})"


def check_rewards(
    catalog: Catalog, options: Sequence[Mapping[str, Any]], *, required: bool = True, section: str = SECTION
) -> tuple[Chosen, ...]:
    """Find each reward and validate its options; raises UsageError.

    required: an empty list, or one in which every weight is 0, is an error too. An environment has a reward of its own.
    section: what errors call the list.
    """
    found: list[Chosen] = []
    for number, given in enumerate(options):
        where = f"{section}[{number}]"
        if not isinstance(given.get("name"), str):
            raise UsageError(f"{where}: {dict(given)} names no reward", hint='As {"name": "vader"}. ' + _some(catalog))
        entry = _found(catalog, given["name"])
        own = {key: value for key, value in given.items() if key not in ("name", "weight")}
        hint = f"All options, besides weight: mmalign show {catalog.display_name(entry)} --options"
        config = build_config(catalog.load_config(entry), own, where, hint=hint)
        name = _unused(catalog.display_name(entry), {chosen.name for chosen in found})
        found.append(Chosen(name, _weight(given.get("weight", 1.0), where), entry, config))
    if required and not any(chosen.weight for chosen in found):
        wrong = "every reward has weight 0" if found else "there is no reward to learn from"
        raise UsageError(f"{section}: {wrong}", hint=_some(catalog))
    return tuple(found)


class RewardList:
    """Rewards with their weights, opened. `names`: of the parts of their scores, in the order of the options."""

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
        """Make each, and let it load its models. say: what a user is to know about them; trunk: the
        policy's, which a reward may lie on.

        Raises UsageError for wrong options, and what they raise where they can't be had, as MmalignError.
        """
        chosen = check_rewards(catalog, options, required=required, section=section)
        return cls((each, _opened(each, catalog, device, say, trunk)) for each in chosen)

    def check_columns(self, columns: Sequence[str]) -> None:
        """columns: of the data's prompts. Raises UsageError that names the reward which needs another."""
        for chosen, reward in self._rewards:
            if isinstance(reward, ReadsColumns):
                try:
                    reward.check_columns(columns)
                except UsageError as error:
                    raise UsageError(f"{chosen}: {error.message}", hint=error.hint) from error

    def score(self, answers: "Answers") -> Scores:
        """Raises RewardError that names the reward and the example where one fails, or gives what is no score."""
        import torch

        parts: dict[str, Tensor] = {}
        total = torch.zeros(len(answers), dtype=torch.float64)
        unscored = torch.full((len(answers),), any(chosen.weight for chosen, _ in self._rewards))
        with torch.no_grad():
            for chosen, reward in self._rewards:
                part = _checked(_call(chosen, reward, answers), chosen, answers)
                total += chosen.weight * part.double().nan_to_num(0.0)
                if chosen.weight:  # one that only reports says nothing of what is learnt
                    unscored &= part.isnan()
                parts[chosen.name] = part
        return Scores(total.float(), parts, unscored)


def _opened(
    chosen: Chosen, catalog: Catalog, device: "torch.device", say: Callable[[str], None], trunk: "PolicyTrunk | None"
) -> "Reward":
    try:
        with contextlib.redirect_stdout(sys.stderr):  # a user's file may print as it is imported
            reward = catalog.load(chosen.entry)(chosen.config)
        if trunk is not None and isinstance(reward, SharesTrunk):
            reward.share(trunk, chosen.name, lambda line: say(f"{chosen.name}: {line}"))
        if isinstance(reward, OpensModels):
            reward.open(catalog, device, lambda line: say(f"{chosen.name}: {line}"))
    except MmalignError as error:
        raise type(error)(f"{chosen}: {error.message}", hint=error.hint) from error
    except Exception as error:  # a plugin's code, which may raise anything
        hint = f"Is it its plugin's fault? Try: mmalign plugins check {chosen.entry.plugin}"
        raise RewardError(
            f"{chosen} cannot be opened: {type(error).__name__}: {error}{_where(chosen, error)}",
            hint=hint,
        ) from error
    return reward


def _where(chosen: Chosen, error: BaseException) -> str:
    return raised_at(error, chosen.entry.spec.target)


def _call(chosen: Chosen, reward: "Reward", answers: "Answers") -> Any:
    try:
        return _score(reward, answers)
    except (Exception, SystemExit) as error:  # whatever a stranger's code raises is its failure
        row = _culprit(reward, answers)
        known = isinstance(error, MmalignError)
        what = error.message if known else f"{type(error).__name__}: {error}{_where(chosen, error)}"
        hint = error.hint if known and error.hint else _advice(chosen)
        raise RewardError(f"{chosen} failed: {what}\n{_example(answers, row)}", hint=hint) from error


def _score(reward: "Reward", answers: "Answers") -> Any:
    """What it prints goes where talk goes: stdout is for data, and may be one JSON document."""
    with contextlib.redirect_stdout(sys.stderr):
        return reward.score(answers)


def _culprit(reward: "Reward", answers: "Answers") -> int:
    """The first answer with which the reward fails, by halves; 0 where it fails with no half alone, or is slow."""
    rows, until = range(len(answers)), time.monotonic() + _SEARCH_SECONDS
    while len(rows) > 1 and time.monotonic() < until:
        half = len(rows) // 2
        failing = next((part for part in (rows[:half], rows[half:]) if _fails(reward, answers.select(part))), None)
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


def _found(catalog: Catalog, name: str) -> Entry:
    """Raises UsageError; where the name looks like a place, with how places are given."""
    try:
        return catalog.find("rewards", name)
    except UsageError as error:
        if not set(name) & set(":/."):
            raise
        place = json.dumps([{"name": "function", "function": name}])
        hint = f"A function of yours: --set '{SECTION}={place}'; a model: with the name reward-model, and its path."
        raise UsageError(error.message, hint=f"{error.hint}\n{hint}") from error


def _weight(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UsageError(
            f"{where}.weight: {value!r} is no number", hint="1: as it is; 0: only reported; -1: a penalty."
        )
    return float(value)


def _unused(name: str, taken: set[str]) -> str:
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}-{number}"
    return found


def _some(catalog: Catalog) -> str:
    names = ", ".join(catalog.display_name(entry) for entry in catalog.entries("rewards")[:8])
    return f"""Rewards: {names}. Try: --set {SECTION}='[{{"name": "vader"}}]'"""


def _checked(value: Any, chosen: Chosen, answers: "Answers") -> "Tensor":
    """[M] float32 on the CPU, NaN where the reward gave None; raises RewardError for another shape or type,
    NonFiniteRewardError for NaN or infinity of the reward's own."""
    import numpy as np
    import torch

    missing: list[int] = []
    if isinstance(value, np.ndarray):
        is_real = value.dtype.kind in "biuf"  # other orders of bytes or axes, and longer floats, torch does not take
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
    part = value.detach().to("cpu", torch.float32)
    wrong = (~part.isfinite()).nonzero()[:, 0].tolist()
    if wrong:
        raise NonFiniteRewardError(
            f"{chosen} gave {float(value[wrong[0]])} ({len(wrong)} of {len(answers)} scores are not finite)\n"
            + _example(answers, wrong[0]),
            hint=_advice(chosen),
        )
    part[missing] = math.nan
    return part


def _from_list(value: Any, chosen: Chosen, answers: "Answers") -> "tuple[Tensor, list[int]]":
    """The numbers, 0 in place of None, and where None was."""
    import torch

    if not isinstance(value, list | tuple):
        raise RewardError(
            f"{chosen} gave {type(value).__name__}, not a list or tensor of numbers\n{_example(answers, 0)}",
            hint=_advice(chosen),
        )
    numbers = []
    for row, item in enumerate(value):
        try:
            if isinstance(item, str | bytes):  # float("1") is a number, but a reward that writes text is broken
                raise TypeError("a text")
            numbers.append(0.0 if item is None else float(item))
        except (TypeError, ValueError, RuntimeError) as error:
            what = f"the text {item!r}" if isinstance(item, str | bytes) else repr(item)
            raise RewardError(
                f"{chosen} gave {_short(what)}, which is no number\n{_example(answers, min(row, len(answers) - 1))}",
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
    return f"Mend the reward, or leave it out.{check}"
