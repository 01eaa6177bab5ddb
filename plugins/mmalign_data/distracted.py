"""The embedded `distracted-emoji`: drawings with a small drawing of another thing in a corner, or its name across them.

    mmalign train -c pasted-objects
    mmalign train -c pasted-objects --set dataset.distraction=word

Each picture is made of `emoji` when it is read: a drawing of a thing at 200 of 224 pixels, on white, and a distraction
by another thing of the same part. The true name is the chosen answer, the other thing's the rejected one. Both follow
from the names, whatever the order or the worker. Validation has names that training never has, in either place.
"""

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field

from mmalign.contract.examples import Completion, ImageRef, Preference, Prompt
from mmalign.data.images import open_image
from mmalign.errors import DataError
from mmalign.hashing import stable_hash
from mmalign_data.emoji import TEMPLATE, drawing, glyphs_of

if TYPE_CHECKING:
    from PIL.Image import Image

THINGS = ("Animals & Nature", "Food & Drink", "Travel & Places", "Activities", "Objects")
SIDE, _DRAWN = 224, 200  # pixels
_LARGEST, _WIDEST = 70, 205  # pixels: of letters, and of a word


class DistractedEmojiConfig(BaseModel):
    """Options of the distracted drawings."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["preference", "completion", "prompt"] = Field(
        "preference",
        description="preference: the true name before the other thing's; completion: the true name; prompt: the true "
        "name as solution",
    )
    distraction: Literal["drawing", "word", "none"] = Field(
        "drawing", description="drawing: a small one of the other thing in a corner; word: its name across the picture"
    )
    share: float = Field(0.5, gt=0, lt=1, description="side of the small drawing, as a share of the picture's side")
    rounds: int = Field(1, ge=1, description="pictures of each drawing for training, each with another distraction")
    holdout: float = Field(
        0.15, gt=0, lt=1, description="Fraction of names kept for validation and never trained on (0-1)"
    )


class Thing(NamedTuple):
    """A drawing, its name, and the place and name of what distracts from it."""

    key: str
    name: str
    image: ImageRef
    other: str
    other_image: ImageRef


class DistractedEmoji:
    """See the module."""

    Config: ClassVar[type[BaseModel]] = DistractedEmojiConfig

    def __init__(self, config: DistractedEmojiConfig, things: Sequence[Thing]) -> None:
        self._config, self._things = config, things

    @classmethod
    def build(cls, config: DistractedEmojiConfig, split: str) -> Self:
        """The part named `split`; raises DataError if the installation lacks the files, or `holdout` leaves no two
        drawings."""
        glyphs = [glyph for glyph in glyphs_of(split, config.holdout) if glyph["group"] in THINGS]
        if len(glyphs) < 2:
            hint = "A drawing needs another one that distracts from it: --set dataset.holdout=0.15"
            raise DataError(f"distracted-emoji: holdout {config.holdout} leaves {len(glyphs)} for {split}", hint=hint)
        rounds = config.rounds if split == "train" else 1
        return cls(config, [_thing(glyphs, place, number) for number in range(rounds) for place in range(len(glyphs))])

    def __len__(self) -> int:
        return len(self._things)

    def __getitem__(self, index: int) -> Any:
        thing, config = self._things[index], self._config
        picture = distracted(open_image(thing.image), thing, config.distraction, config.share)
        prompt, chosen = ImageRef(thing.key, data=encoded(picture)), TEMPLATE.format(thing.name)
        if config.kind == "completion":
            return Completion(thing.key, prompt, chosen)
        if config.kind == "prompt":
            return Prompt(thing.key, prompt, chosen)
        return Preference(thing.key, prompt, chosen, TEMPLATE.format(thing.other))

    def text_answers(self) -> Iterable[str]:
        """The names of this part's things; no picture is made."""
        return (TEMPLATE.format(thing.name) for thing in self._things)

    def report(self) -> Mapping[str, Any]:
        """Counts: examples, and drawings; none is skipped."""
        drawings = len({thing.name for thing in self._things})
        return {"kept": len(self), "skipped": {}, "source": "distracted-emoji (embedded)", "drawings": drawings}

    def fingerprint(self) -> str:
        """A hash of the options, the names and the drawings' positions."""
        places = [(thing.key, thing.image.offset, thing.other_image.offset) for thing in self._things]
        return hashlib.sha256(f"{self._config!r}{places}".encode()).hexdigest()[:16]


def distracted(picture: "Image", thing: Thing, distraction: str, share: float) -> "Image":
    """The drawing at 200 of 224 pixels on white, under a distraction. Where a small drawing lies follows from the
    key."""
    from PIL import Image

    canvas = Image.new("RGB", (SIDE, SIDE), "white")
    margin = (SIDE - _DRAWN) // 2
    canvas.paste(_scaled(picture, _DRAWN), (margin, margin))
    if distraction == "word":
        return written_across(canvas, thing.other)
    if distraction == "drawing":
        corner = stable_hash("corner", thing.key) % 4
        pasted_into(canvas, open_image(thing.other_image), share, corner)
    return canvas


def pasted_into(canvas: "Image", other: "Image", share: float, corner: int) -> None:
    """Put a picture into a corner: 0 and 1 the upper ones, 2 and 3 the lower ones."""
    side = max(1, round(SIDE * share))
    canvas.paste(_scaled(other, side), ((SIDE - side) * (corner % 2), (SIDE - side) * (corner // 2)))


def written_across(picture: "Image", word: str) -> "Image":
    """The word in black with a white rim across the middle, as large as fits."""
    from PIL import Image, ImageDraw, ImageFont

    written = picture.copy()
    draw = ImageDraw.Draw(written)
    fitting = _LARGEST * _WIDEST / draw.textlength(word, font=ImageFont.load_default(_LARGEST))
    middle = (SIDE / 2, SIDE / 2)
    font = ImageFont.load_default(min(_LARGEST, fitting))
    draw.text(middle, word, font=font, fill="black", stroke_width=3, stroke_fill="white", anchor="mm")
    assert isinstance(written, Image.Image)
    return written


def encoded(picture: "Image") -> bytes:
    """Without loss, and without the time that compression takes."""
    buffer = io.BytesIO()
    picture.save(buffer, "BMP")
    return buffer.getvalue()


def _scaled(picture: "Image", side: int) -> "Image":
    from PIL import Image

    return picture.resize((side, side), Image.Resampling.BICUBIC)


def _thing(glyphs: Sequence[Mapping[str, Any]], place: int, number: int) -> Thing:
    """number: the round, which decides on the other thing."""
    glyph = glyphs[place]
    step = 1 + stable_hash("distraction", glyph["name"], number) % (len(glyphs) - 1)
    other = glyphs[(place + step) % len(glyphs)]
    key = f"distracted-emoji:{glyph['name']}:{number}"
    return Thing(key, glyph["name"], drawing(glyph), other["name"], drawing(other))
