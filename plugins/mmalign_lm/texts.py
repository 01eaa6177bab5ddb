"""Prompts and answers as ids: tokenizer, ends, chat templates, and what is cut to fit.

    processor.text("A document.")                              # its ids, ended
    processor.answers("Question? ", ["Yes.", "No."])           # prompt and answers apart, so that answers can share it
    processor.answers((Message("user", "Question?"),), [(Message("assistant", "Yes."),)])

A prompt and an answer are tokenised as one text, and cut where the ids of the prompt alone and those of all its answers
stop being the same: what is learnt from is what the tokenizer makes of the whole, and what a chat template writes of
the whole conversation. The end token closes every document, every answer that is text, and every conversation that the
template does not close with a special token of its own. Masks come from lengths and from places in the text, never
from a padding id: one that equals the end token does no harm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from mmalign.contract.backbone import TokenizedText
from mmalign.contract.examples import Content, Message, Turns
from mmalign.errors import BadSample, CheckpointError
from mmalign.language.messages import ROLES, require_text
from mmalign.language.protocols import TokenizedAnswers
from mmalign_lm import bounded_jinja
from mmalign_lm.conversations import ChatTemplate, Form, choose_form, render_conversation
from mmalign_lm.token_spans import num_shared, tokenise_spans

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] | capitalize }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


@dataclass(frozen=True)
class TextProcessor:
    """A language model's tokenizer. `files` are written back unchanged by `save`. stops: ids that end an answer
    besides `end_id`, as the model's generation config names them."""

    tokenizer: "PreTrainedTokenizerBase"
    files: Mapping[str, bytes]
    context_length: int
    end_id: int
    stops: frozenset[int] = frozenset()

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """What ends an answer: the end token, `stops`, and the special token that closes the template's turns."""
        return frozenset({self.end_id}) | self.stops | self._turn_ends

    @property
    def num_tokens(self) -> int:
        return len(self.tokenizer)

    @cached_property
    def has_template(self) -> bool:
        """Whether messages are rendered by a template of the model's or the user's, not by the plain one."""
        return bool(self.tokenizer.chat_template)

    def image(self, image: Any, rng: Any = None) -> Tensor:
        raise BadSample("a language model takes no images")

    def text(self, text: str) -> TokenizedText:
        """A whole document, with the end token; what lies beyond the context is cut."""
        ids = self._ids(text, special=True)
        ids = ids if ids and ids[-1] == self.end_id else [*ids, self.end_id]
        lost = max(0, len(ids) - self.context_length)
        return TokenizedText(torch.tensor(ids[: self.context_length]), lost)

    def ids(self, text: str) -> Tensor:
        """[T]: uncut, with the special tokens that the tokenizer itself puts around a text."""
        return torch.tensor(self._ids(text, special=True), dtype=torch.int64)

    def answers(self, prompt: Content, answers: Sequence[Content]) -> TokenizedAnswers:
        """See the module. A prompt that is too long loses its beginning, an answer its end.

        An answer has at least half of the context; without answers a prompt may fill it. Raises BadSample for an
        empty answer or turn to be learnt, an unknown role, a template that does not render the conversation whole, or a
        picture.
        """
        turns = require_text(prompt)
        asked = self._prompt(turns)
        whole = [self._whole(turns, asked, require_text(answer)) for answer in answers]
        cut = min((num_shared(asked.ids, each.ids[: each.first]) for each in whole), default=len(asked.ids))
        pieces = [(each.ids[cut:], each.learn[cut:]) for each in whole]
        longest = max((len(ids) for ids, _ in pieces), default=0)
        room = self.context_length - min(longest, self.context_length // 2)
        lost = max(0, cut - room)
        prompt_ids = asked.ids[lost:cut]
        limit = self.context_length - len(prompt_ids)
        lost += sum(max(0, len(ids) - limit) for ids, _ in pieces)
        return TokenizedAnswers(
            torch.tensor(prompt_ids, dtype=torch.int64),
            [torch.tensor(ids[:limit]) for ids, _ in pieces],
            [torch.tensor(learn[:limit]) for _, learn in pieces],
            lost,
            sum(each.num_left_out for each in whole),
        )

    def prompt(self, prompt: Content) -> Tensor:
        """[T] ids of a prompt alone, uncut; raises BadSample for messages that do not render, and for a picture."""
        return torch.tensor(self._prompt(require_text(prompt)).ids, dtype=torch.int64)

    def observation(self, text: str, *, in_chat: bool = False) -> Tensor:
        """[T] ids of plain text; one that spells a special token gives its letters, so that a tool's output cannot end
        a turn. in_chat: without the space around it, between the template's ids that close the answer before, whose end
        token is there, and those that open the next one."""
        ids = self._following(text.strip() if in_chat else text)
        if in_chat:
            before, behind = self._around_observation
            ids = [*before, *ids, *behind]
        return torch.tensor(ids, dtype=torch.int64)

    def decode(self, ids: Tensor) -> str:
        """[T] -> text, special tokens as they are written."""
        return str(self.tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False))

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        """Messages as one text; raises BadSample for one that the template cannot render or leaves out."""
        form = choose_form(self._chat, messages)
        return self._chat.text(messages, form, asks=add_generation_prompt)

    def save(self, folder: Any) -> None:
        for name, content in self.files.items():
            (folder / name).write_bytes(content)

    @cached_property
    def _around_observation(self) -> tuple[list[int], list[int]]:
        """What the template puts before a turn of the user that follows an answer, and behind it. The answer is the
        policy's own tokens and is never rendered, so both are cut out of a conversation about nothing."""
        said = "(answer)", "(observation)"
        talk = Message("user", "?"), Message("assistant", said[0]), Message("user", said[1])
        text = self._chat.text(talk, Form(), asks=True)
        start = text.find(said[0]) + len(said[0])
        until = text.find(said[1], start)
        if until < 0 or said[0] not in text:
            raise BadSample("the chat template leaves out a turn of the user that follows an answer")
        ids, is_before = tokenise_spans(self.tokenizer, text, [(start, until)])
        is_behind = tokenise_spans(self.tokenizer, text, [(until + len(said[1]), len(text))])[1]
        before = [i for i, on in zip(ids, is_before, strict=True) if on]
        closes = bool(before) and before[0] in {self.end_id, *self._closing_ids}
        return before[1:] if closes else before, [i for i, on in zip(ids, is_behind, strict=True) if on]

    @cached_property
    def _turn_ends(self) -> frozenset[int]:
        """The special token behind a turn of the assistant, where there is a template that writes one."""
        talk = Message("user", "?"), Message("assistant", "(answer)")
        try:
            text = self._chat.text(talk, Form(), asks=False) if self.has_template else ""
        except BadSample:  # it takes no such conversation
            return frozenset()
        before, said, _ = text.rpartition(talk[1].content)
        ids, is_behind = tokenise_spans(self.tokenizer, text, [(len(before) + len(said), len(text))] if said else [])
        for token in (i for i, on in zip(ids, is_behind, strict=True) if on):
            if token in self._closing_ids:
                return frozenset({token})
            if str(self.tokenizer.decode([token])).strip():
                break
        return frozenset()

    def _following(self, text: str) -> list[int]:
        """Ids of a text behind another one: alone, its first piece would begin with a space in tokenizers as Llama 2's.
        No token is a special one."""
        ahead, ids, alone = (
            self.tokenizer(each, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
            for each in ("\n", f"\n{text}", text)
        )
        return ids[len(ahead) :] if ids[: len(ahead)] == ahead else alone

    @cached_property
    def _closing_ids(self) -> frozenset[int]:
        """Special tokens that may end a turn: all but those that begin a text, fill a batch, or stand for what the
        tokenizer does not know. One of these that is an end token, too, as in GPT-2, ends a turn."""
        made = self.tokenizer
        special = {*made.all_special_ids, *(i for i, token in made.added_tokens_decoder.items() if token.special)}
        ends = {self.end_id, *self.stops} & special
        return frozenset((special - {made.bos_token_id, made.pad_token_id, made.unk_token_id}) | ends)

    @property
    def _chat(self) -> ChatTemplate:
        special = tuple(str(self.tokenizer.convert_ids_to_tokens(i)) for i in sorted(self._closing_ids))
        return ChatTemplate(self._render, special)

    def _render(
        self, messages: list[dict[str, Any]], tools: list[Any] | None, add_generation_prompt: bool
    ) -> tuple[str, list[tuple[int, int]] | None]:
        """As transformers renders, within limits; raises BadSample."""
        unknown = sorted({message["role"] for message in messages} - set(ROLES))
        if unknown:
            raise BadSample(f"unknown role {unknown[0]!r}; known: {', '.join(ROLES)}")
        if not messages:
            raise BadSample("a conversation without messages")
        variables = {
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **self.tokenizer.special_tokens_map,
        }
        try:
            return bounded_jinja.render(self._source(tools), variables)
        except BadSample:
            raise
        except Exception as error:  # whatever a template raises: jinja's errors, its raise_exception, a missing key
            raise BadSample(f"the chat template does not render: {type(error).__name__}: {error}") from error

    def _source(self, tools: list[Any] | None) -> str:
        """Of a tokenizer with several templates, that for conversations with tools or without."""
        return str(self.tokenizer.get_chat_template(None, tools)) if self.tokenizer.chat_template else PLAIN_TEMPLATE

    def _prompt(self, prompt: Turns) -> "_Asked":
        """A rendered prompt holds its own start token, where the template writes one."""
        if not isinstance(prompt, str):
            text = self.render(prompt, add_generation_prompt=True) if prompt else ""
            return _Asked(text, self._ids(text, special=False))
        ids = self._ids(prompt, special=True)
        return _Asked(prompt, ids[:-1] if prompt and ids and ids[-1] == self.end_id else ids)

    def _whole(self, prompt: Turns, asked: "_Asked", answer: Turns) -> "_Whole":
        """Prompt and answer: of a text all of the answer is learnt, of messages the assistant's turns."""
        if not (answer.strip() if isinstance(answer, str) else answer):
            raise BadSample("an empty answer")
        if isinstance(answer, str):
            ids = self._ids(asked.text + answer, special=isinstance(prompt, str))
            ids = ids if ids[-1] == self.end_id else [*ids, self.end_id]
            first = num_shared(asked.ids, ids)
            return _Whole(ids, [place >= first for place in range(len(ids))], first, 0)
        if isinstance(prompt, str):
            raise BadSample("the prompt is text and the answer is messages: give both as one or the other")
        rendered = render_conversation(self._chat, (*prompt, *answer), len(prompt))
        ids, learn = tokenise_spans(self.tokenizer, rendered.text, rendered.spans)
        if True not in learn:
            raise BadSample(
                "nothing of the assistant's turns is left to learn: the chat template leaves them out, or stands them "
                "outside {% generation %}"
            )
        if learn[-1] and not self._is_closed(ids):
            ids, learn = [*ids, self.end_id], [*learn, True]
        return _Whole(ids, learn, learn.index(True), rendered.num_left_out)

    def _is_closed(self, ids: Sequence[int]) -> bool:
        """Whether a special token ends a conversation, with at most white space behind it."""
        for token in reversed(ids):
            if token in self._closing_ids:
                return True
            if str(self.tokenizer.decode([token])).strip():
                return False
        return False

    def _ids(self, text: str, *, special: bool) -> list[int]:
        return self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]


class _Asked(NamedTuple):
    """A prompt up to where its answer begins."""

    text: str
    ids: list[int]


class _Whole(NamedTuple):
    """A prompt with one answer. first: where what is learnt begins. num_left_out: see `Rendered`."""

    ids: list[int]
    learn: list[bool]
    first: int
    num_left_out: int


def end_token(tokenizer: "PreTrainedTokenizerBase", folder: Any) -> int:
    """The id that ends a text; raises CheckpointError where the tokenizer names none."""
    if tokenizer.eos_token_id is None:
        raise CheckpointError(
            f"{folder}: the tokenizer has no end token", hint="Set eos_token in tokenizer_config.json."
        )
    return int(tokenizer.eos_token_id)
