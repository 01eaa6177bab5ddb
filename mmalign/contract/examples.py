"""The kinds of example that data sets yield and objectives consume. Standard library only.

A plugin may declare another kind: a frozen dataclass with `kind` and `modalities`, registered with `declare`.
Every example carries `key`, which names it in errors and reports ("pairs.csv:17", "shard-003.tar:000412").
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple


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
    """An image and one caption. `group` tells captions of one image apart from other images; empty: its own."""

    kind: ClassVar[str] = "image-text"
    modalities: ClassVar[frozenset[str]] = frozenset({"image", "text"})
    key: str
    image: ImageRef
    text: str
    group: str = ""


@dataclass(frozen=True)
class ImageLabel:
    """An image and its class. `label` indexes the data set's `classes`."""

    kind: ClassVar[str] = "image-label"
    modalities: ClassVar[frozenset[str]] = frozenset({"image"})
    key: str
    image: ImageRef
    label: int


@dataclass(frozen=True)
class Text:
    """A document."""

    kind: ClassVar[str] = "text"
    modalities: ClassVar[frozenset[str]] = frozenset({"text"})
    key: str
    text: str


@dataclass(frozen=True)
class TextLabel:
    """A text and its class. `label` indexes the data set's `classes`."""

    kind: ClassVar[str] = "text-label"
    modalities: ClassVar[frozenset[str]] = frozenset({"text"})
    key: str
    text: str
    label: int


@dataclass(frozen=True)
class TextPair:
    """Two texts that belong together."""

    kind: ClassVar[str] = "text-pair"
    modalities: ClassVar[frozenset[str]] = frozenset({"text"})
    key: str
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

    kind: ClassVar[str] = "prompt"
    modalities: ClassVar[frozenset[str]] = frozenset({"text"})
    key: str
    prompt: Turns
    solution: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def answers(self) -> tuple[Turns, ...]:
        return ()


@dataclass(frozen=True)
class Completion:
    """An answer to a prompt. As messages, `completion` may hold several turns, of which the assistant's are learnt."""

    kind: ClassVar[str] = "completion"
    modalities: ClassVar[frozenset[str]] = frozenset({"text"})
    key: str
    prompt: Turns
    completion: Turns

    def answers(self) -> tuple[Turns, ...]:
        return (self.completion,)


@dataclass(frozen=True)
class Preference:
    """Two answers to one prompt, the better one first."""

    kind: ClassVar[str] = "preference"
    modalities: ClassVar[frozenset[str]] = frozenset({"text"})
    key: str
    prompt: Turns
    chosen: Turns
    rejected: Turns

    def answers(self) -> tuple[Turns, ...]:
        return (self.chosen, self.rejected)


@dataclass(frozen=True)
class LabelledCompletion:
    """An answer to a prompt, and whether it is wanted."""

    kind: ClassVar[str] = "labelled-completion"
    modalities: ClassVar[frozenset[str]] = frozenset({"text"})
    key: str
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

    kind: ClassVar[str] = "ranking"
    modalities: ClassVar[frozenset[str]] = frozenset({"text"})
    key: str
    prompt: Turns
    completions: tuple[Turns, ...]
    ranks: tuple[float, ...]

    def answers(self) -> tuple[Turns, ...]:
        return self.completions


_KINDS = (
    ImageText, ImageLabel, Text, TextLabel, TextPair, Prompt, Completion, LabelledCompletion, Preference, Ranking
)  # fmt: skip
EXAMPLE_KINDS: dict[str, Any] = {cls.kind: cls for cls in _KINDS}


def declare(cls: Any) -> Any:
    """Register a plugin's example kind (use as a class decorator); raises ValueError if the name is taken."""
    taken = EXAMPLE_KINDS.get(cls.kind)
    if taken is not None and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(f"example kind {cls.kind!r} is already declared by {taken.__module__}")
    EXAMPLE_KINDS[cls.kind] = cls
    return cls
