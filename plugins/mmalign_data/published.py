"""Converts published forms of rows to TRL's columns: ShareGPT's `conversations`, and Alpaca's `instruction` and
`input`.

    recast({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}, "prompt")
    # the same with "messages"; a str: why the row cannot be used
    recast({"instruction": "Add.", "input": "1 and 1", "output": "2"}, "prompt")     # with "prompt" and "completion"

Both as LLaMA-Factory reads them: `system` and `tools` beside conversations, function_call and observation as speakers;
`system`, `history`, `chosen`, `rejected` and `kto_tag` beside instructions; and Dolly's `context` and `response`.
"""

from collections.abc import Mapping
from typing import Any, Literal

from mmalign.reading import parse_json

Asked = Literal["prompt", "messages"]
SHAREGPT, ALPACA = "conversations", "instruction"
MORE_NEGATIVES, WEIGHT = "negative_2", "weight"
_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
    "bing": "assistant", "bard": "assistant", "system": "system", "observation": "tool", "tool": "tool",
}  # fmt: skip
# The prompts that Stanford Alpaca (Taori 2023) was trained with; the answer follows the colon without a space.
_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)
_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)


def form_of(columns: "Mapping[str, Any] | list[str]") -> str:
    """SHAREGPT, ALPACA, or "" for columns that need no conversion."""
    if "messages" in columns or "prompt" in columns:
        return ""
    return next((name for name in (SHAREGPT, ALPACA) if name in columns), "")


def recast(row: Mapping[str, Any], asked: Asked) -> dict[str, Any] | str:
    """The row with TRL's columns added to its own. asked: write an instruction as Alpaca's text, or as a
    conversation."""
    form = form_of(row)
    if form == SHAREGPT:
        return _sharegpt(row)
    return _alpaca(row, asked) if form == ALPACA else dict(row)


def note_on(form: str, asked: Asked) -> str:
    """A sentence for the log, or ""."""
    if form == WEIGHT:
        return "the column weight is not read: all examples weigh the same"
    if form == MORE_NEGATIVES:
        return "one hard negative of each row is read, that of the column negative or negative_1"
    if form == SHAREGPT:
        return "rows are conversations in ShareGPT's form (from, value)"
    if form == ALPACA and asked == "prompt":
        return (
            "prompts are written as Alpaca's published text; "
            "as conversations, for a model with a chat template: --set dataset.alpaca=messages"
        )
    return "prompts are written as conversations, not as Alpaca's published text" if form else ""


def _sharegpt(row: Mapping[str, Any]) -> dict[str, Any] | str:
    said = row[SHAREGPT]
    if not isinstance(said, list):
        return "conversations are not a list of {from, value}"
    messages: list[Any] = []
    for turn in said:
        message = _message(turn)
        if isinstance(message, str):
            return message
        messages.append(message)
    system = row.get("system")
    if isinstance(system, str) and system.strip() and not (messages and messages[0].get("role") == "system"):
        messages.insert(0, {"role": "system", "content": system})
    answers = {name: row[name] for name in ("chosen", "rejected") if isinstance(row.get(name), Mapping)}
    if not answers:
        return {**row, "messages": messages}
    recast_answers: dict[str, Any] = {}
    for name, turn in answers.items():
        message = _message(turn)
        if isinstance(message, str):
            return message
        recast_answers[name] = [message]
    return {**row, "prompt": messages, **recast_answers}


def _message(turn: Any) -> dict[str, Any] | str:
    """{from, value} as {role, content}; a message that has a role is returned unchanged."""
    if not isinstance(turn, Mapping):
        return "a turn of conversations is not {from, value}"
    if "from" not in turn:
        return dict(turn)
    speaker, value = turn["from"], turn.get("value")
    rest = {name: item for name, item in turn.items() if name not in ("from", "value")}
    if speaker != "function_call":
        return {**rest, "role": _ROLES.get(speaker, speaker), "content": value}
    try:
        calls = parse_json(value) if isinstance(value, str) else value
    except ValueError:
        return "a function_call is not the JSON of {name, arguments}"
    return {**rest, "role": "assistant", "content": None, "tool_calls": calls if isinstance(calls, list) else [calls]}


def _alpaca(row: Mapping[str, Any], asked: Asked) -> dict[str, Any] | str:
    instruction, given = row[ALPACA], row.get("input", row.get("context"))
    system, history = row.get("system"), row.get("history") or []
    if not isinstance(instruction, str) or not instruction.strip():
        return "the instruction is not a text, or is empty"
    if not isinstance(given, str | None) or not isinstance(system, str | None):
        return "the input or the system prompt is not a text"
    if not isinstance(history, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair) for pair in history
    ):
        return "the history is not a list of pairs of texts"
    make = _as_text if asked == "prompt" else _as_messages
    columns = {**row, "prompt": make(instruction, given or "", system or "", history)}
    answer = row.get("output", row.get("response"))
    if "output" in row or "response" in row:
        is_text = asked == "prompt" or not isinstance(answer, str)
        columns["completion"] = answer if is_text else [{"role": "assistant", "content": answer}]
    if asked == "messages":
        texts = {name: row[name] for name in ("chosen", "rejected") if isinstance(row.get(name), str)}
        columns |= {name: [{"role": "assistant", "content": text}] for name, text in texts.items()}
    return columns | ({"label": row["kto_tag"]} if "kto_tag" in row and "label" not in row else {})


def _as_text(instruction: str, given: str, system: str, history: list[list[str]]) -> str:
    start = system.strip() or (_WITH_INPUT if given else _WITHOUT_INPUT)
    earlier = "".join(f"### Instruction:\n{question}\n\n### Response:{answer}\n\n" for question, answer in history)
    context = f"### Input:\n{given}\n\n" if given else ""
    return f"{start}\n\n{earlier}### Instruction:\n{instruction}\n\n{context}### Response:"


def _as_messages(instruction: str, given: str, system: str, history: list[list[str]]) -> list[dict[str, str]]:
    messages = [{"role": "system", "content": system}] if system.strip() else []
    for question, answer in history:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return [*messages, {"role": "user", "content": f"{instruction}\n{given}" if given else instruction}]
