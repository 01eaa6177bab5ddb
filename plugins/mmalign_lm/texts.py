"""Prompts and answers as ids: tokenizer, ends, chat templates, and what is cut to fit.

    processor.text("A document.")                              # its ids, ended
    processor.answers("Question? ", ["Yes.", "No."])           # prompt and answers apart, so that answers can share it
    processor.answers((Message("user", "Question?"),), [(Message("assistant", "Yes."),)])

A prompt and its answer are tokenised apart: what the model reads in training is what it reads before it generates. The
end token is appended to every answer and document. Masks come from lengths, never from a padding id: one that equals
the end token does no harm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmalign.data.examples import Message, Turns
from mmalign.data.messages import ROLES, tools_of
from mmalign.errors import BadSample, CheckpointError
from mmalign.protocols import TokenizedAnswers, TokenizedText

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] | capitalize }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


@dataclass(frozen=True)
class TextProcessor:
    """A language model's tokenizer. `files` are written back unchanged by `save`. template: Jinja source, or empty for
    the tokenizer's own."""

    tokenizer: "PreTrainedTokenizerBase"
    files: Mapping[str, bytes]
    context_length: int
    end_id: int
    template: str = ""

    @property
    def num_tokens(self) -> int:
        return len(self.tokenizer)

    @cached_property
    def has_template(self) -> bool:
        """Whether messages are rendered by a template of the model's or the user's, not by the plain one."""
        return bool(self.template or self.tokenizer.chat_template)

    def image(self, image: Any, rng: Any = None) -> Tensor:
        raise BadSample("a language model takes no images")

    def text(self, text: str) -> TokenizedText:
        """A whole document, with the end token; what lies beyond the context is cut."""
        ids = self._ids(text, special=True)
        ids = ids if ids and ids[-1] == self.end_id else [*ids, self.end_id]
        lost = max(0, len(ids) - self.context_length)
        return TokenizedText(torch.tensor(ids[: self.context_length]), lost)

    def answers(self, prompt: Turns, answers: Sequence[Turns]) -> TokenizedAnswers:
        """See the module. A prompt that is too long loses its beginning, an answer its end.

        An answer has at least half of the context; without answers a prompt may fill it. Raises BadSample for an
        empty answer, an unknown role, or a template that does not render.
        """
        head, prompt_ids = self._prompt(prompt)
        pieces = [self._answer(prompt, head, answer) for answer in answers]
        longest = max((len(ids) for ids, _ in pieces), default=0)
        room = self.context_length - min(longest, self.context_length // 2)
        lost = max(0, len(prompt_ids) - room)
        prompt_ids = prompt_ids[lost:]
        limit = self.context_length - len(prompt_ids)
        lost += sum(max(0, len(ids) - limit) for ids, _ in pieces)
        return TokenizedAnswers(
            torch.tensor(prompt_ids, dtype=torch.int64),
            [torch.tensor(ids[:limit]) for ids, _ in pieces],
            [torch.tensor(learn[:limit]) for _, learn in pieces],
            lost,
        )

    def prompt(self, prompt: Turns) -> Tensor:
        """[T] ids of a prompt alone, uncut; raises BadSample for messages that do not render."""
        return torch.tensor(self._prompt(prompt)[1], dtype=torch.int64)

    def observation(self, text: str, *, in_chat: bool = False) -> Tensor:
        """[T] ids of plain text; one that spells a special token gives its letters, so that a tool's output cannot end
        a turn. in_chat: without the space around it, between the template's ids that close the answer before, whose end
        token is there, and those that open the next one."""
        text = text.strip() if in_chat else text
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        if in_chat:
            before, behind = self._around_observation
            ids = [*before, *ids, *behind]
        return torch.tensor(ids, dtype=torch.int64)

    def decode(self, ids: Tensor) -> str:
        """[T] -> text, special tokens as they are written."""
        return str(self.tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False))

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        """Messages as one text, through transformers' sandboxed renderer; raises BadSample."""
        unknown = sorted({message.role for message in messages} - set(ROLES))
        if unknown:
            raise BadSample(f"unknown role {unknown[0]!r}; known: {', '.join(ROLES)}")
        template = self.template or (None if self.tokenizer.chat_template else PLAIN_TEMPLATE)
        try:
            rendered = self.tokenizer.apply_chat_template(
                [{"role": message.role, "content": message.content, **message.fields} for message in messages],
                tools=tools_of(messages) or None,
                chat_template=template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        except Exception as error:  # whatever a template raises: jinja's errors, its raise_exception, a missing key
            raise BadSample(f"the chat template does not render: {type(error).__name__}: {error}") from error
        return str(rendered)

    def save(self, folder: Any) -> None:
        for name, content in self.files.items():
            (folder / name).write_bytes(content)

    @cached_property
    def _around_observation(self) -> tuple[list[int], list[int]]:
        """What the template puts before a turn of the user that follows an answer, and behind it. The answer is the
        policy's own tokens and is never rendered, so both are cut out of a conversation about nothing."""
        said = "(answer)", "(observation)"
        talk = Message("user", "?"), Message("assistant", said[0]), Message("user", said[1])
        rest = self.render(talk, add_generation_prompt=True).partition(said[0])[2]
        before, found, behind = rest.partition(said[1])
        if not found:
            raise BadSample("the chat template leaves out a turn of the user that follows an answer")
        ids = self._ids(before, special=False)
        return ids[1:] if ids[:1] == [self.end_id] else ids, self._ids(behind, special=False)

    def _prompt(self, prompt: Turns) -> tuple[str, list[int]]:
        """(text, ids): a rendered prompt holds its own start token, where the template writes one."""
        text = prompt if isinstance(prompt, str) else self.render(prompt, add_generation_prompt=True)
        ids = self._ids(text, special=isinstance(prompt, str))
        return text, ids[:-1] if text and ids and ids[-1] == self.end_id else ids

    def _answer(self, prompt: Turns, head: str, answer: Turns) -> tuple[list[int], list[bool]]:
        """Ids and which of them are learnt: of text all, of messages the assistant's turns with what ends them."""
        if not (answer.strip() if isinstance(answer, str) else answer):
            raise BadSample("an empty answer")
        if isinstance(answer, str):
            ids = [*self._ids(answer, special=False), self.end_id]
            return ids, [True] * len(ids)
        if isinstance(prompt, str):
            raise BadSample("the prompt is text and the answer is messages: give both as one or the other")
        if not any(message.role == "assistant" and message.learn for message in answer):
            raise BadSample("no turn of the assistant to learn from")
        ids, learn, done = [], [], head
        for place, message in enumerate(answer):
            follows = place + 1 < len(answer) and answer[place + 1].role == "assistant"
            whole = self.render([*prompt, *answer[: place + 1]], add_generation_prompt=follows)
            if not whole.startswith(done):
                raise BadSample("the chat template changes earlier turns when later ones are added; give one turn each")
            piece = self._ids(whole[len(done) :], special=False)
            ids += piece
            learn += [message.role == "assistant" and message.learn] * len(piece)
            done = whole
        if ids and ids[-1] != self.end_id and learn[-1] and self.end_id not in ids[-2:]:
            ids, learn = [*ids, self.end_id], [*learn, True]
        return ids, learn

    def _ids(self, text: str, *, special: bool) -> list[int]:
        return self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]


def end_token(tokenizer: "PreTrainedTokenizerBase", folder: Any) -> int:
    """The id that ends a text; raises CheckpointError where the tokenizer names none."""
    if tokenizer.eos_token_id is None:
        raise CheckpointError(
            f"{folder}: the tokenizer has no end token", hint="Set eos_token in tokenizer_config.json."
        )
    return int(tokenizer.eos_token_id)
