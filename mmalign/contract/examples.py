"""The kinds of example that data sets yield and objectives consume. Standard library only.

A kind is a frozen dataclass, and the `ExampleSpec` that a plugin's hook `register_examples` returns for it: the kinds
below are registered by `mmalign_data`, in the way of a third party. `mmalign.data.collate` makes a batch's columns of
the fields, by their types. Every example carries `key`, which names it in errors and reports ("pairs.csv:17",
"shard-003.tar:000412").
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple


@dataclass(frozen=True)
class Keep:
    """Marks a field whose values a batch has as they are, a tuple of N objects: `score: Annotated[float, Keep()]`.

    column: its name. By default the field's own, and there are no tokens, pixels or tensor of it; with another name
    there are both: `text: Annotated[str, Keep("caption")]`. Turns are read in any case.
    """

    column: str = ""


Kept = Annotated[str, Keep()]
"""A text that is no model's to read, such as a name."""


@dataclass(frozen=True)
class ImageRef:
    """Where the bytes of one image are: a file, or `size` bytes at `offset` of a file (a tar member); not yet decoded.

    `data` holds them where no offset can tell (a cell of a compressed parquet file); `path` then only names them.
    """

    path: str
    offset: int = 0
    size: int | None = None
    data: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class ImageText:
    """An image and one caption. `group`: the same for all captions of one image; left out, it is the key."""

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
    """Two texts that belong together."""

    key: Kept
    text: str
    other: str


_NO_FIELDS: Mapping[str, Any] = {}


class Message(NamedTuple):
    """One turn of a conversation. role: "system", "developer", "user", "assistant" or "tool".

    learn: false for a turn of the assistant that is read and not learnt from (`weight: 0`). fields: what else a chat
    template reads, by its key: "tool_calls", "tool_call_id", "name", "reasoning_content" (the thinking before an
    answer), and on the first message of a conversation the "tools" that it may call. JSON values.
    """

    role: str
    content: str
    learn: bool = True
    fields: Mapping[str, Any] = _NO_FIELDS

    def __hash__(self) -> int:
        """Of all but the fields, which hold lists and mappings: prompts are keys of sets and dictionaries."""
        return hash((self.role, self.content, self.learn))


Turns = str | tuple[Message, ...]
"""Plain text, or messages that a chat template renders."""


@dataclass(frozen=True)
class Prompt:
    """What a model is to answer, without an answer: what reinforcement learning samples from.

    solution: what a right answer holds, for rewards that verify it; empty where nobody says. columns: what else the row
    of a table says, by its own names and with its own values (JSON values), for rewards that read them; every prompt of
    a data set has the same names.
    """

    key: Kept
    prompt: Annotated[Turns, Keep()]
    solution: Kept = ""
    columns: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def answers(self) -> tuple[Turns, ...]:
        return ()


@dataclass(frozen=True)
class Completion:
    """An answer to a prompt. As messages, `completion` may hold several turns, of which the assistant's are learnt."""

    key: Kept
    prompt: Turns
    completion: Turns

    def answers(self) -> tuple[Turns, ...]:
        return (self.completion,)


@dataclass(frozen=True)
class Preference:
    """Two answers to one prompt, the better one first."""

    key: Kept
    prompt: Turns
    chosen: Turns
    rejected: Turns

    def answers(self) -> tuple[Turns, ...]:
        return (self.chosen, self.rejected)


@dataclass(frozen=True)
class LabelledCompletion:
    """An answer to a prompt, and whether it is wanted."""

    key: Kept
    prompt: Turns
    completion: Turns
    label: bool

    def answers(self) -> tuple[Turns, ...]:
        return (self.completion,)


@dataclass(frozen=True)
class Ranking:
    """K answers to one prompt with a rank each, the lowest the best (1, where ranks are places); equal ranks are ties.

    Ranks need not be whole: where answers were rated, their distances are those of the ratings.
    """

    key: Kept
    prompt: Turns
    completions: tuple[Turns, ...]
    ranks: tuple[float, ...]

    def answers(self) -> tuple[Turns, ...]:
        return self.completions
