"""Whether what a reward gave is a score for each answer, and errors that name the reward and the answer.

part = checked(reward.score(answers), chosen, answers)       # [M], NaN where the reward gave None
"""

import math
from typing import TYPE_CHECKING, Any

from mmalign.errors import NonFiniteRewardError, RewardError
from mmalign.plugins import BUILTINS

if TYPE_CHECKING:
    from torch import Tensor

    from mmalign.rl.answers import Answers
    from mmalign.rl.rewards import Chosen

_SHOWN = 200  # characters of an answer or an option in an error


def checked(value: Any, chosen: "Chosen", answers: "Answers") -> "Tensor":
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
            + example(answers, 0),
            hint=f"It must give one number for each answer. {advice(chosen)}",
        )
    if value.is_complex():
        raise RewardError(f"{chosen} gave complex numbers\n{example(answers, 0)}", hint=advice(chosen))
    part = value.detach().to("cpu", torch.float32)
    wrong = (~part.isfinite()).nonzero()[:, 0].tolist()
    if wrong:
        raise NonFiniteRewardError(
            f"{chosen} gave {float(value[wrong[0]])} ({len(wrong)} of {len(answers)} scores are not finite)\n"
            + example(answers, wrong[0]),
            hint=advice(chosen),
        )
    part[missing] = math.nan
    return part


def _from_list(value: Any, chosen: "Chosen", answers: "Answers") -> "tuple[Tensor, list[int]]":
    """The numbers, 0 in place of None, and where None was."""
    import torch

    if not isinstance(value, list | tuple):
        raise RewardError(
            f"{chosen} gave {type(value).__name__}, not a list or tensor of numbers\n{example(answers, 0)}",
            hint=advice(chosen),
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
                f"{chosen} gave {short(what)}, which is no number\n{example(answers, min(row, len(answers) - 1))}",
                hint=f"It must give a number for every answer, or None where it has no score. {advice(chosen)}",
            ) from error
    missing = [row for row, item in enumerate(value) if item is None]
    return torch.tensor(numbers, dtype=torch.float64), missing


def example(answers: "Answers", row: int) -> str:
    if not len(answers):
        return "There was no answer to score."
    return f"First at example {answers.keys[row]}, answer {short(answers.texts[row])!r}"


def short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text):,} characters)"


def advice(chosen: "Chosen") -> str:
    check = "" if chosen.entry.plugin in BUILTINS else f" Try: mmalign plugins check {chosen.entry.plugin}"
    return f"Mend the reward, or leave it out.{check}"
