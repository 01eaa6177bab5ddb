"""Renders conversations through a model's own chat template, and finds the parts of the text that the assistant learns.

    rendered = render_conversation(template, messages, first_answer=1)
    rendered.text                                              # what `apply_chat_template` writes of all the messages
    rendered.spans                                             # [(start, end), ...] in the text: what is learnt

A learnt span begins where the header that asks for an answer ends, and ends where the next turn begins: it holds the
thinking, the answer, the tool calls and the end of the turn. Templates write a turn differently once others follow it
(Qwen 3, gpt-oss and DeepSeek drop its thinking, Phi-3 and gpt-oss move an end token, Mistral moves tools and system
texts). So the first turns, rendered alone, need not be the beginning of the whole rendering. Where they are not, the
conversation is rendered again with other content in the turn, and the turn's text is found by comparison.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from mmalign.contract.examples import Message
from mmalign.errors import BadSample
from mmalign.language.messages import tools_of
from mmalign.reading import parse_json

_HEADER = 400  # characters: no template's header of an answer is longer
_STAND_IN = "qx{}zj7stands4in"  # a content that no conversation contains; lower case, as templates may change case


class Rendered(NamedTuple):
    """spans: (start, end) of what is learnt, in order, not overlapping. num_left_out: turns of the assistant whose
    thinking, or whose text beside a tool call, the template leaves out."""

    text: str
    spans: list[tuple[int, int]]
    num_left_out: int


@dataclass(frozen=True)
class Form:
    """How messages are handed to a template; templates differ in what they accept. arguments_as_text: arguments of a
    tool call as JSON text (DeepSeek) instead of an object. without_empty: tool calls without text have no `content`.
    developer_as_system: for templates without a developer role."""

    arguments_as_text: bool = False
    without_empty: bool = False
    developer_as_system: bool = False


@dataclass(frozen=True)
class ChatTemplate:
    """render: (messages as mappings, tools or None, add_generation_prompt) -> (text, spans of `{% generation %}` or
    None without them); raises BadSample. special: the texts of special tokens, one of which ends a turn."""

    render: Callable[[list[dict[str, Any]], list[Any] | None, bool], tuple[str, list[tuple[int, int]] | None]]
    special: tuple[str, ...]

    def text(self, messages: Sequence[Message], form: Form, *, asks: bool = False) -> str:
        """asks: append the header that asks for an answer."""
        return self.marked(messages, form, asks=asks)[0]

    def marked(
        self, messages: Sequence[Message], form: Form, *, asks: bool = False
    ) -> tuple[str, list[tuple[int, int]] | None]:
        """(text, spans of `{% generation %}`); see `render`."""
        return self.render([_as_mapping(message, form) for message in messages], tools_of(messages) or None, asks)


def choose_form(template: ChatTemplate, messages: Sequence[Message]) -> Form:
    """The form in which the template writes all turns and tool calls of these messages.

    If there is none, raises BadSample that names the role or the tool call left out.
    """
    refusal = None
    for form in _forms(messages):
        try:
            _check_complete(template, messages, form)
        except BadSample as error:
            refusal = refusal or error
        else:
            return form
    assert refusal is not None
    raise refusal


def render_conversation(template: ChatTemplate, messages: Sequence[Message], first_answer: int) -> Rendered:
    """See the module. Learnt are the assistant's messages with `learn`, from `first_answer` on.

    Raises BadSample for a conversation without such a turn, with an empty one, or that the template does not render
    completely.
    """
    turns = [k for k in range(first_answer, len(messages)) if messages[k].role == "assistant" and messages[k].learn]
    if not turns:
        raise BadSample("no turn of the assistant to learn from")
    empty = [k + 1 for k in turns if _says_nothing(messages[k])]
    if empty:
        which = "" if len(turns) == 1 else f": message {empty[0]} of the conversation; give it weight 0 not to learn it"
        raise BadSample(f"an empty answer{which}")
    form = choose_form(template, messages)
    text, marked = template.marked(messages, form)
    spans = [_Turn(template, messages, form, text, k).span() for k in turns]
    if marked:
        spans = [(max(a, c), min(b, d)) for a, b in spans for c, d in marked if max(a, c) < min(b, d)]
    return Rendered(text, spans, sum(_leaves_out(text, message) for message in messages))


class _Turn:
    """One turn of the assistant in the rendering of its conversation."""

    def __init__(self, template: ChatTemplate, messages: Sequence[Message], form: Form, text: str, index: int) -> None:
        self._template, self._messages, self._form, self._text, self._index = template, messages, form, text, index

    def span(self) -> tuple[int, int]:
        start = self._start()
        return start, max(start, self._end(start))

    def _start(self) -> int:
        """The end of the header that asks for the answer, or of as much of it as is in the text: DeepSeek's and
        Nemotron's headers open a thinking block, which an answer without thinking does not have."""
        before = self._messages[: self._index]
        asking = self._try(before, asks=True)
        shared = _shared_start(asking, self._text)
        if asking and shared == len(asking):
            return shared
        if asking and shared >= _shared_start(asking, self._try(before, asks=False)):
            return shared
        # The template writes the turns before this one differently: this turn's header is the text before its content.
        content = _shared_start(self._text, self._with_other_content(self._index))
        ends = range(max(0, content - _HEADER), content + 1)
        last = asking[-_HEADER:]
        before_end = {end: self._text[max(0, end - _HEADER) : end] for end in ends}
        return max(ends, key=lambda end: (_shared_end(before_end[end], last), end)) if asking else content

    def _end(self, start: int) -> int:
        if self._index + 1 == len(self._messages):
            return len(self._text)
        until = self._try(self._messages[: self._index + 1], asks=False)
        if until and self._text.startswith(until):
            return len(until)
        content_end = max(start, len(self._text) - _shared_end(self._text, self._with_other_content(self._index)))
        following = _shared_start(self._text, self._with_other_content(self._index + 1))
        special = re.compile("|".join(map(re.escape, sorted(self._template.special, key=len, reverse=True))) or "(?!)")
        for match in special.finditer(self._text, start, max(start, following)):
            if match.end() > content_end:
                behind = self._text[match.end() :]
                return match.end() + len(behind) - len(behind.lstrip("\n"))
        return content_end + self._closing(content_end, until)

    def _closing(self, content_end: int, until: str) -> int:
        """Where no special token ends a turn: the number of characters behind a content that do. They are the whole
        lines that follow it both here and behind the last turn."""
        changed = [*self._messages[: self._index], _replaced(self._messages[self._index], _STAND_IN.format("last"))]
        shared = _shared_end(until, self._try(changed, asks=False))
        closing = until[len(until) - shared :]
        same = _shared_start(closing, self._text[content_end:])
        whole = closing.rfind("\n", 0, same) + 1
        return same if same == len(closing) or not whole else whole

    def _try(self, messages: Sequence[Message], *, asks: bool) -> str:
        """A beginning of the conversation, or an empty text where the template refuses it."""
        try:
            return self._template.text(messages, self._form, asks=asks) if messages else ""
        except BadSample:
            return ""

    def _with_other_content(self, index: int) -> str:
        changed = [*self._messages]
        changed[index] = _replaced(changed[index], _STAND_IN.format(index))
        return self._template.text(changed, self._form)


def _says_nothing(message: Message) -> bool:
    """A turn without text, tool calls or thinking: learning it would teach a model to end at once."""
    return not message.content.strip() and not {"tool_calls", "reasoning_content"} & message.fields.keys()


def _forms(messages: Sequence[Message]) -> Iterator[Form]:
    calls = any("tool_calls" in message.fields for message in messages)
    empty = any("tool_calls" in message.fields and not message.content for message in messages)
    developer = any(message.role == "developer" for message in messages)
    for as_system in (False, True)[: 1 + developer]:
        for without_empty in (False, True)[: 1 + empty]:
            for as_text in (False, True)[: 1 + calls]:
                yield Form(as_text, without_empty, as_system)


def _check_complete(template: ChatTemplate, messages: Sequence[Message], form: Form) -> None:
    """Raises BadSample for a turn or a tool call that the template does not write."""
    template.text(messages, form)
    stand_ins = [_STAND_IN.format(index) for index in range(len(messages))]
    written = template.text([_replaced(m, s) for m, s in zip(messages, stand_ins, strict=True)], form).lower()
    for number, (message, stand_in) in enumerate(zip(messages, stand_ins, strict=True), start=1):
        calls = "tool_calls" in message.fields
        if calls and f"{stand_in}()" not in written:
            raise BadSample(
                f"the chat template leaves out the tool calls of message {number}; write them into its content as the "
                "model's card shows them, or set backbone.template to a template that has them"
            )
        if message.content and not calls and stand_in not in written:
            raise BadSample(
                f"the chat template leaves out message {number}, of role {message.role!r}; join it to the turn before "
                "or behind it, or set backbone.template to a template that has it"
            )


def _as_mapping(message: Message, form: Form) -> dict[str, Any]:
    fields = {name: value for name, value in message.fields.items() if name != "tools"}
    if "reasoning_content" in fields:
        fields["thinking"] = fields["reasoning_content"]  # gpt-oss reads this name
    if "tool_calls" in fields:
        fields["tool_calls"] = [_with_arguments(call, form.arguments_as_text) for call in fields["tool_calls"]]
    role = "system" if form.developer_as_system and message.role == "developer" else message.role
    if form.without_empty and "tool_calls" in fields and not message.content:
        return {"role": role, **fields}
    return {"role": role, "content": message.content, **fields}


def _with_arguments(call: Mapping[str, Any], as_text: bool) -> dict[str, Any]:
    """The call with its arguments as JSON text or as what that text says; text that is no JSON stays."""
    arguments = call["function"]["arguments"]
    if as_text and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    elif not as_text and isinstance(arguments, str):
        with suppress(ValueError):
            arguments = parse_json(arguments)
    return {**call, "function": {**call["function"], "arguments": arguments}}


def _replaced(message: Message, stand_in: str) -> Message:
    """The message with another content, and other arguments in its last tool call."""
    fields = message.fields
    if "tool_calls" in fields:
        *calls, last = fields["tool_calls"]
        function = {**last["function"], "arguments": {stand_in: f"{stand_in}()"}}
        fields = {**fields, "tool_calls": [*calls, {**last, "function": function}]}
        return message._replace(content=stand_in if message.content else "", fields=fields)
    return message._replace(content=stand_in)


def _leaves_out(text: str, message: Message) -> bool:
    """Whether the rendering lacks the thinking, or a text beside tool calls."""
    if message.role != "assistant":
        return False
    thought = message.fields.get("reasoning_content", "")
    if "</think>" in message.content:
        thought = message.content.partition("</think>")[0].rpartition("<think>")[2]
    beside = message.content.strip() if "tool_calls" in message.fields else ""
    return thought.strip() not in text or beside not in text


def _shared_start(one: str, other: str) -> int:
    """Number of characters that both begin with."""
    if one.startswith(other) or other.startswith(one):
        return min(len(one), len(other))
    low, high = 0, min(len(one), len(other))  # the first `low` are equal, the first `high` are not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle)
    return low


def _shared_end(one: str, other: str) -> int:
    """Number of characters that both end with."""
    return _shared_start(one[::-1], other[::-1])
