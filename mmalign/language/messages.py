"""Reads conversations as data sets write them into one form, and writes them again.

    read_messages([{"role": "user", "content": "Weather?"}, {"role": "assistant", "tool_calls": [...]}])
    # a list of {"role", "content"} and, where given, "learn" and "fields"; or a str that says what is wrong
    as_turns(...)                                    # the same as a tuple of Message
    as_rows(turns)                                   # a conversation as a data set may write it

Roles, `tool_calls`, `tools` and `weight` are those of OpenAI's chat format and of TRL. Tool calls get the nested form
that chat templates read ({"type", "function": {"name", "arguments"}}); arguments stay as given, an object or its JSON.
Null keys inside tools and tool calls are dropped, as in TRL: tables with one schema for all rows contain them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mmalign.contract.examples import Content, ImageRef, Message, Turns
from mmalign.errors import BadSample
from mmalign.reading import parse_json

ROLES = ("system", "developer", "user", "assistant", "tool")
REASONING = ("reasoning_content", "thinking", "reasoning")
_TEXT_FIELDS = ("name", "tool_call_id")
_FORM = "{role, content}"


def read_messages(value: Any) -> list[dict[str, Any]] | str:
    """A list of messages in the form of this module. Raises nothing: a string says what is wrong with the first faulty
    one."""
    if not isinstance(value, list):
        kind = "missing" if value is None else f"a {type(value).__name__}"
        return f"a text is {kind}, neither a string nor a list of {_FORM}"
    messages = []
    for item in value:
        message = _message(item)
        if isinstance(message, str):
            return message
        messages.append(message)
    return messages


def with_tools(messages: list[dict[str, Any]], tools: Any) -> list[dict[str, Any]] | str:
    """The messages with a row's `tools`, a list or its JSON, on the first one; a string says what is wrong."""
    schemas = _loaded(tools)
    if schemas is None or schemas == []:
        return messages
    if not isinstance(schemas, list) or not all(isinstance(schema, Mapping) for schema in schemas):
        return "tools are neither a list of JSON schemas nor the JSON of one"
    if not messages:
        return "tools without a message to carry them"
    first = messages[0]
    return [{**first, "fields": {**first.get("fields", {}), "tools": _without_nulls(schemas)}}, *messages[1:]]


def as_turns(value: Any) -> Turns:
    """A string, or messages in the form of this module, in the form that an example holds."""
    return value if isinstance(value, str) else tuple(Message(**message) for message in value)


def as_rows(turns: Turns) -> Any:
    """A string, or a list of {role, content, ...} that `read_messages` reads again; tools are left out."""
    if isinstance(turns, str):
        return turns
    return [
        {"role": message.role, "content": message.content}
        | {name: value for name, value in message.fields.items() if name != "tools"}
        | ({} if message.learn else {"weight": 0})
        for message in turns
    ]


def require_text(content: Content) -> Turns:
    """The content, if it is text; raises BadSample for a picture."""
    if isinstance(content, ImageRef):
        raise BadSample("a picture, where only texts are read")
    return content


def tools_of(turns: "Sequence[Message] | str") -> list[Any]:
    """The tools that a conversation may call; empty where it names none."""
    if isinstance(turns, str):
        return []
    return next((list(message.fields["tools"]) for message in turns if "tools" in message.fields), [])


def _message(item: Any) -> dict[str, Any] | str:
    if not isinstance(item, Mapping):
        return f"a message is not {_FORM} with a text as its content"
    role = item.get("role")
    if role not in ROLES:
        return f"unknown role {str(role)[:40]!r}; known roles: {', '.join(ROLES)}"
    calls, learn = _tool_calls(item.get("tool_calls")), _learn(item)
    content, wrong = _content(item.get("content"))
    for reason in (calls, learn, wrong):
        if isinstance(reason, str) and reason:
            return reason
    if item.get("content") is None and not calls:
        return f"content is null in a message of role {role!r} without tool_calls; give it a text"
    if calls and role != "assistant":
        return f"tool_calls in a message of role {role!r}; only the assistant calls tools"
    fields: dict[str, Any] = {name: item[name] for name in _TEXT_FIELDS if isinstance(item.get(name), str)}
    thought = next((item[name] for name in REASONING if isinstance(item.get(name), str)), "")
    fields |= ({"tool_calls": calls} if calls else {}) | ({"reasoning_content": thought} if thought else {})
    message: dict[str, Any] = {"role": role, "content": content}
    return message | ({"fields": fields} if fields else {}) | ({} if learn else {"learn": False})


def _content(content: Any) -> tuple[str, str]:
    """(text, "") or ("", what is wrong). Null is an empty text; parts of text are joined."""
    if content is None or isinstance(content, str):
        return content or "", ""
    if not isinstance(content, list) or not all(isinstance(part, Mapping) for part in content):
        return "", f"a message is not {_FORM} with a text as its content"
    for part in content:
        if part.get("type", "text") != "text" or not isinstance(part.get("text"), str):
            return "", f"a message holds {str(part.get('type'))[:40]!r}; a language model takes parts of text only"
    return "".join(part["text"] for part in content), ""


def _learn(item: Mapping[str, Any]) -> bool | str:
    """Whether a turn is learnt from: `weight` 0 or 1 as in OpenAI's fine-tuning, or `train` true or false."""
    for name in ("weight", "train"):
        value = item.get(name)
        if value is not None and value not in (0, 1):
            return f"{name} {str(value)[:40]!r} of a message; it is 0 (read, not learnt) or 1"
        if value is not None:
            return bool(value)
    return True


def _tool_calls(value: Any) -> list[Any] | str:
    calls = _loaded(value)
    if calls is None or calls == []:
        return []
    if not isinstance(calls, list):
        return "tool_calls are neither a list nor the JSON of one"
    nested = []
    for call in calls:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            return "a tool call is not {function: {name, arguments}}"
        arguments = function.get("arguments")
        rest = {name: call[name] for name in ("id", "type") if isinstance(call.get(name), str)}
        shape = {"name": function["name"], "arguments": {} if arguments is None else _without_nulls(arguments)}
        nested.append({"type": "function", **rest, "function": shape})
    return nested


def _loaded(value: Any) -> Any:
    """The value of a JSON text. Anything else, including a text that is not JSON, is returned unchanged."""
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value) if value.strip() else None
    except ValueError:
        return value


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
