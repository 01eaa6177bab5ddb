"""Turns rows of text tables into an example's fields, for each kind, from TRL's columns; or says what is wrong with a
row.

    FORMATS["preference"].normalise({"prompt": "Q? ", "chosen": "Yes.", "rejected": "No."})
    # {"prompt": "Q? ", "answers": ["Yes.", "No."]}, or a str: the reason why the row cannot be used

Texts are strings; a conversation is a list of {"role", "content"}; a picture is as `mmalign_data.pictures` gives it.
Fields are JSON values.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmalign.contract.examples import (
    Completion,
    LabelledCompletion,
    Preference,
    Prompt,
    Ranking,
    Text,
    TextLabel,
    TextPair,
)
from mmalign.language.messages import read_messages, with_tools
from mmalign_data.pictures import as_content

Normal = dict[str, Any]
_NOT_HANDED_ON = frozenset({"prompt", "completion"})  # as in TRL
# Names of the two sides of a pair of texts, as data sets for sentence-transformers have them.
_SIDES = (("anchor", "positive"), ("query", "positive"), ("query", "document"), ("query", "answer"))
SHARE = "num_example_per_prompt"  # a column of Pick-a-Pic
WEIGHED = frozenset({"preference", "ranking"})
_LABELS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


@dataclass(frozen=True)
class Format:
    """columns: sets of columns, any of which makes a row of that kind; errors name the first. build: (key, normal form)
    -> the example."""

    columns: tuple[frozenset[str], ...]
    normalise: Callable[[Mapping[str, Any]], Normal | str]
    build: Callable[[str, Normal], Any]


def _text(row: Mapping[str, Any]) -> Normal | str:
    text = row["text"]
    if not isinstance(text, str):
        return "the text is not a string"
    return {"text": text} if text.strip() else "empty text"


def _prompt(row: Mapping[str, Any]) -> Normal | str:
    """The row's prompt, or what precedes the answer in a conversation."""
    prompt = row.get("prompt")
    if prompt is None and row.get("messages") is not None:
        turns = _turns(row["messages"])
        unanswered = isinstance(turns, list) and not any(turn["role"] == "assistant" for turn in turns)
        normal = {"prompt": turns} if unanswered else _completion(row)
    elif prompt is None and row.get("chosen") is not None:
        normal = _preference(row)
    else:
        turns = _turns(prompt)
        normal = _why(prompt) if turns is None else {"prompt": turns}
    if isinstance(normal, str):
        return normal
    prompt = normal["prompt"]
    if not (prompt.strip() if isinstance(prompt, str) else prompt):
        return "no prompt"
    columns = {name: value for name, value in row.items() if name not in _NOT_HANDED_ON}
    return {"prompt": prompt, "answers": [], "columns": columns}


def _completion(row: Mapping[str, Any]) -> Normal | str:
    if row.get("messages") is not None:
        messages = _turns(row["messages"])
        if messages is None or isinstance(messages, str):
            return "messages are text, not a list of {role, content}" if messages else _why(row["messages"])
        first = next((index for index, m in enumerate(messages) if m["role"] == "assistant"), None)
        if first is None:
            return "no turn of the assistant"
        return {"prompt": messages[:first], "answers": [messages[first:]]}
    return _with_answers(row, [row["completion"]])


def _preference(row: Mapping[str, Any]) -> Normal | str:
    chosen, rejected = _turns(row["chosen"]), _turns(row["rejected"])
    if chosen is not None and chosen == rejected:
        return "chosen equals rejected"
    prompt, are_lists = row.get("prompt"), isinstance(chosen, list) and isinstance(rejected, list)
    # A text prompt beside conversations repeats their beginning (UltraFeedback): the messages are used, as in TRL.
    if are_lists and (prompt is None or isinstance(prompt, str)):
        shared = _num_shared(chosen, rejected)
        if not shared and prompt is None:
            return "chosen and rejected share no prompt"
        if shared:
            return _with_answers({"prompt": chosen[:shared]}, [chosen[shared:], rejected[shared:]])
    if prompt is None and isinstance(chosen, str) and isinstance(rejected, str):
        shared = _num_shared_text(chosen, rejected)
        return _with_answers({"prompt": chosen[:shared]}, [chosen[shared:], rejected[shared:]])
    return _with_answers(row, [row["chosen"], row["rejected"]])


def _num_shared(chosen: Sequence[Any], rejected: Sequence[Any]) -> int:
    """Number of messages or characters that both begin with."""
    pairs = enumerate(zip(chosen, rejected, strict=False))
    return next((i for i, (one, other) in pairs if one != other), min(len(chosen), len(rejected)))


def _num_shared_text(chosen: str, rejected: str) -> int:
    """Number of characters that both texts begin with, up to the last white space among them. One space there belongs
    to the answers, as in TRL's `extract_prompt`; but TRL cuts inside a word where the answers begin with the same
    letters."""
    shared = chosen[: _num_shared(chosen, rejected)]
    start = next((i for i in range(len(shared), 0, -1) if shared[i - 1].isspace()), 0)
    return start - 1 if start and shared[start - 1] == " " else start


def _ranking(row: Mapping[str, Any]) -> Normal | str:
    answers, ranks = row["completions"], row["ranks"]
    if not isinstance(answers, list) or not isinstance(ranks, list) or len(answers) != len(ranks):
        return "completions and ranks are not lists of one length"
    if len(answers) < 2:
        return "fewer than two completions"
    if not all(isinstance(rank, int | float) and not isinstance(rank, bool) for rank in ranks):
        return "a rank is not a number"
    numbers = [_as_float(rank) for rank in ranks]
    if not all(map(math.isfinite, numbers)):
        return "a rank is not finite"
    normal = _with_answers(row, answers)
    return normal if isinstance(normal, str) else {**normal, "ranks": numbers}


def _as_float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:  # an integer too large for a float
        return math.inf


def _labelled_completion(row: Mapping[str, Any]) -> Normal | str:
    label = _LABELS.get(str(row["label"]).strip().lower())
    normal = _with_answers(row, [row["completion"]])
    if isinstance(normal, str):
        return normal
    return "the label is neither true nor false" if label is None else {**normal, "label": label}


def _text_label(row: Mapping[str, Any]) -> Normal | str:
    normal, label = _text(row), row["label"]
    if isinstance(normal, str):
        return normal
    if label is None or isinstance(label, list | dict) or not str(label).strip():
        return "no label"
    return {**normal, "label": str(label).strip()}


def _text_pair(row: Mapping[str, Any]) -> Normal | str:
    """Two texts, and a third that is near and wrong, where the row has one."""
    names = next((sides for sides in _SIDES if all(side in row for side in sides)), _SIDES[0])
    texts = [row[name] for name in names]
    negative = next((row[name] for name in ("negative", "negative_1") if row.get(name) is not None), "")
    for name, text in zip((*names, "negative"), (*texts, negative), strict=True):
        if not isinstance(text, str):
            return f"the {name} is not a string"
        if not text.strip() and name != "negative":
            return f"empty {name}"
    if texts[1] == negative:
        return f"the negative equals the {names[1]}"
    return {"anchor": texts[0], "positive": texts[1], "negative": negative if negative.strip() else ""}


def _with_answers(row: Mapping[str, Any], answers: list[Any]) -> Normal | str:
    given = ["" if row.get("prompt") is None else row["prompt"], *answers]
    prompt, *texts = (_turns(value) for value in given)
    if isinstance(prompt, list) and prompt and all(isinstance(t, list) and t[: len(prompt)] == prompt for t in texts):
        texts = [text[len(prompt) :] for text in texts]  # these were whole conversations, prompt included
    if prompt is None or any(text is None for text in texts):
        return _why(*given)
    if not all(text.strip() if isinstance(text, str) else text for text in texts):
        return "an empty answer"
    # A text answer to messages is the assistant's turn word for word, as `mmalign sample` writes it.
    kinds = {type(text) for text in texts}
    if (
        len(kinds) > 1
        or (isinstance(prompt, str) and kinds == {list})
        or (isinstance(prompt, dict) and kinds == {list})
    ):
        return "prompt and answers mix text and messages"
    if isinstance(prompt, dict) and kinds == {dict}:
        return "pictures as answers to a picture"
    return {"prompt": prompt, "answers": texts}


def _turns(value: Any) -> Any:
    """A string or a picture unchanged, a conversation in the form of `read_messages`; None for anything else."""
    if isinstance(value, str) or (isinstance(value, dict) and "image" in value):
        return value
    messages = read_messages(value)
    return None if isinstance(messages, str) else messages


def _why(*values: Any) -> str:
    """What is wrong with the first value that `_turns` rejects."""
    return str(read_messages(next(value for value in values if _turns(value) is None)))


FORMATS: dict[str, Format] = {
    "text": Format((frozenset({"text"}),), _text, lambda key, row: Text(key, row["text"])),
    "prompt": Format(
        (frozenset({"prompt"}), frozenset({"messages"}), frozenset({"chosen", "rejected"})),
        _prompt,
        lambda key, row: Prompt(key, as_content(row["prompt"]), row["solution"], row["columns"]),
    ),
    "completion": Format(
        (frozenset({"prompt", "completion"}), frozenset({"messages"})),
        _completion,
        lambda key, row: Completion(key, as_content(row["prompt"]), as_content(row["answers"][0])),
    ),
    "preference": Format(
        (frozenset({"chosen", "rejected"}),),
        _preference,
        lambda key, row: Preference(
            key, as_content(row["prompt"]), *map(as_content, row["answers"]), weight=row.get("weight", 1.0)
        ),
    ),
    "labelled-completion": Format(
        (frozenset({"prompt", "completion", "label"}),),
        _labelled_completion,
        lambda key, row: LabelledCompletion(
            key, as_content(row["prompt"]), as_content(row["answers"][0]), row["label"]
        ),
    ),
    "text-label": Format(
        (frozenset({"text", "label"}),),
        _text_label,
        lambda key, row: TextLabel(key, row["text"], row["label"]),
    ),
    "text-pair": Format(
        tuple(map(frozenset, _SIDES)),
        _text_pair,
        lambda key, row: TextPair(key, row["anchor"], row["positive"], row["negative"]),
    ),
    "ranking": Format(
        (frozenset({"prompt", "completions", "ranks"}),),
        _ranking,
        lambda key, row: Ranking(
            key,
            as_content(row["prompt"]),
            tuple(map(as_content, row["answers"])),
            tuple(row["ranks"]),
            row.get("weight", 1.0),
        ),
    ),
}


def normalise(kind: str, row: Mapping[str, Any]) -> Normal | str:
    """A row in the normal form of a kind, with the tools that its conversation may call, or why it cannot be used."""
    normal = FORMATS[kind].normalise(row)
    if kind in WEIGHED and not isinstance(normal, str) and row.get(SHARE) is not None:
        normal = _weighed(normal, row[SHARE])
    if isinstance(normal, str) or row.get("tools") in (None, "", []) or "prompt" not in normal:
        return normal
    # With an empty prompt the answers are the conversation.
    prompt, answers = normal["prompt"], normal["answers"]
    if isinstance(prompt, str):
        return "tools beside a prompt that is text; give the prompt as messages, which a chat template renders"
    given = [with_tools(turns, row["tools"]) for turns in ([prompt] if prompt else answers)]
    wrong = next((turns for turns in given if isinstance(turns, str)), None)
    if wrong is not None:
        return wrong
    return {**normal, "prompt": given[0]} if prompt else {**normal, "answers": given}


def _weighed(normal: Normal, share: Any) -> Normal | str:
    """share: how many examples the prompt has, as in Pick-a-Pic; each weighs as much less (Kirstain 2023)."""
    try:
        number = float(share)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        return f"{SHARE} is not a number above 0"
    return {**normal, "weight": 1 / number}


def looks_like(columns: list[str]) -> str:
    """The kind that these columns make, or "". The kind with most columns wins; prompts come last, because tables of
    answers have these columns too."""
    fits = [
        (len(wanted), kind != "prompt", kind)
        for kind, found in FORMATS.items()
        for wanted in found.columns
        if wanted <= set(columns)
    ]
    return max(fits)[2] if fits else ""
