"""The kinds of example that data sets yield and objectives consume. Standard library only.

A kind is a frozen dataclass with an `ExampleSpec`, which a plugin's hook `register_examples` returns. The plugin
`mmalign_data` registers the kinds below, as a third party would. `mmalign.data.collate` turns the fields into columns
of a batch, by their types. Every example has a `key`, which names it in errors and reports ("pairs.csv:17",
"shard-003.tar:000412").
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple, Protocol, runtime_checkable

from mmalign.contract.capabilities import Pair


@dataclass(frozen=True)
class Keep:
    """Marks a field whose values are kept unchanged in the batch, as a tuple of N objects: `score: Annotated[float,
    Keep()]`.

    column: the name of that column. By default it is the field's name, and the field is not encoded as tokens, pixels
    or a tensor. With another name the batch has both columns: `text: Annotated[str, Keep("caption")]`. Turns are always
    encoded.
    """

    column: str = ""


@dataclass(frozen=True)
class AsQuery:
    """Marks a text that is searched with: `anchor: Annotated[str, AsQuery()]`. A processor with a method `query`
    encodes it by that, others as any text."""


Kept = Annotated[str, Keep()]
"""A text that no model reads, such as a name."""


@dataclass(frozen=True)
class ImageRef:
    """One image that is not read yet: a file, or `size` bytes at `offset` of a file (a tar member).

    data: the encoded bytes themselves, if they have no offset in a file (a cell of a compressed parquet file); `path`
    is then only a name for them.
    """

    path: str
    offset: int = 0
    size: int | None = None
    data: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class ImageText:
    """An image and one caption. group: equal for all captions of one image; the key by default."""

    key: Kept
    image: ImageRef
    text: Annotated[str, Keep("caption")]
    group: Kept = ""

    def __post_init__(self) -> None:
        if not self.group:
            object.__setattr__(self, "group", self.key)


@dataclass(frozen=True)
class ImageLabel:
    """An image and its class. `label` indexes the data set's `classes`."""

    key: Kept
    image: ImageRef
    label: int


@dataclass(frozen=True)
class Text:
    """A document."""

    key: Kept
    text: str


@dataclass(frozen=True)
class TextLabel:
    """A text and its class. `label` indexes the data set's `classes`."""

    key: Kept
    text: str
    label: int


@dataclass(frozen=True)
class TextPair:
    """A text to search with and one that it should find. negative: a text that it should not, though it is near (a hard
    negative), or ""."""

    key: Kept
    anchor: Annotated[str, AsQuery(), Keep("anchor_text")]
    positive: Annotated[str, Keep("positive_text")]
    negative: Annotated[str, Keep("negative_text")] = ""


_NO_FIELDS: Mapping[str, Any] = {}


class Message(NamedTuple):
    """One turn of a conversation. role: "system", "developer", "user", "assistant" or "tool".

    learn: false for an assistant's turn that is context only, not trained on (`weight: 0`). fields: further keys for
    the chat template, with JSON values: "tool_calls", "tool_call_id", "name", "reasoning_content" (the thinking before
    an answer), and, on the first message of a conversation, the available "tools".
    """

    role: str
    content: str
    learn: bool = True
    fields: Mapping[str, Any] = _NO_FIELDS

    def __hash__(self) -> int:
        """Leaves out `fields`, which hold lists and mappings. Prompts must be hashable for sets and dictionaries."""
        return hash((self.role, self.content, self.learn))


Turns = str | tuple[Message, ...]
"""Plain text, or messages that a chat template renders."""

Content = Turns | ImageRef
"""A prompt or an answer: text or a picture."""


@runtime_checkable
class HasAnswers(Protocol):
    """An example with a prompt."""

    @property
    def key(self) -> str: ...

    @property
    def prompt(self) -> Content: ...

    def answers(self) -> tuple[Content, ...]: ...


def pair_of(example: HasAnswers) -> Pair:
    """The contents of an example with a prompt and answers; ("text", "") for a prompt without answers."""
    contents = ["image" if isinstance(turns, ImageRef) else "text" for turns in (example.prompt, *example.answers())]
    return contents[0], contents[1] if len(contents) > 1 else ""


@dataclass(frozen=True)
class Prompt:
    """A prompt without an answer: reinforcement learning samples answers to it.

    solution: the correct answer, for rewards that verify answers; empty if unknown. columns: the other columns of the
    table's row, by name, with JSON values, for rewards that read them. All prompts of a data set have the same columns.
    """

    key: Kept
    prompt: Annotated[Content, Keep()]
    solution: Kept = ""
    columns: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def answers(self) -> tuple[Content, ...]:
        return ()


@dataclass(frozen=True)
class Completion:
    """An answer to a prompt. As messages, `completion` may hold several turns; the assistant's turns are trained on."""

    key: Kept
    prompt: Content
    completion: Content

    def answers(self) -> tuple[Content, ...]:
        return (self.completion,)


@dataclass(frozen=True)
class Preference:
    """Two answers to one prompt, the better one first. weight: of the example in a loss, relative to the others."""

    key: Kept
    prompt: Content
    chosen: Content
    rejected: Content
    weight: Annotated[float, Keep()] = 1.0

    def answers(self) -> tuple[Content, ...]:
        return (self.chosen, self.rejected)


@dataclass(frozen=True)
class LabelledCompletion:
    """An answer to a prompt, and whether it is wanted."""

    key: Kept
    prompt: Content
    completion: Content
    label: bool

    def answers(self) -> tuple[Content, ...]:
        return (self.completion,)


@dataclass(frozen=True)
class Ranking:
    """K answers to one prompt with their ranks. The lowest rank is the best, usually 1; equal ranks are ties.

    Ranks need not be integers: for rated answers, the distances between ranks are those between the ratings. weight: of
    the example in a loss, relative to the others.
    """

    key: Kept
    prompt: Content
    completions: tuple[Content, ...]
    ranks: tuple[float, ...]
    weight: Annotated[float, Keep()] = 1.0

    def answers(self) -> tuple[Content, ...]:
        return self.completions
