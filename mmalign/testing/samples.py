"""Invented examples of the kinds in `mmalign.contract.examples`, for the batches of the conformance kit.

image_text(8)          # eight examples, the same at every call; used as `ExampleSpec.samples`
"""

from mmalign.contract.examples import (
    Completion,
    ImageLabel,
    ImageText,
    LabelledCompletion,
    Preference,
    Prompt,
    Ranking,
    Text,
    TextLabel,
    TextPair,
)
from mmalign.testing.subjects import CLASSES, TEXTS, picture


def image_text(size: int) -> list[ImageText]:
    return [ImageText(key, picture(i), text) for i, (key, text, _, _) in enumerate(_texts(size))]


def image_label(size: int) -> list[ImageLabel]:
    return [ImageLabel(key, picture(i), i % len(CLASSES)) for i, (key, _, _, _) in enumerate(_texts(size))]


def text(size: int) -> list[Text]:
    return [Text(key, text) for key, text, _, _ in _texts(size)]


def text_label(size: int) -> list[TextLabel]:
    return [TextLabel(key, text, i % len(CLASSES)) for i, (key, text, _, _) in enumerate(_texts(size))]


def text_pair(size: int) -> list[TextPair]:
    return [TextPair(key, text, other, text * (place % 2)) for place, (key, text, _, other) in enumerate(_texts(size))]


def prompt(size: int) -> list[Prompt]:
    return [Prompt(key, text) for key, text, _, _ in _texts(size)]


def completion(size: int) -> list[Completion]:
    return [Completion(key, text, answer) for key, text, answer, _ in _texts(size)]


def labelled_completion(size: int) -> list[LabelledCompletion]:
    rows = enumerate(_texts(size))
    return [LabelledCompletion(key, text, answer, i % 2 == 0) for i, (key, text, answer, _) in rows]


def preference(size: int) -> list[Preference]:
    return [Preference(key, text, answer, other) for key, text, answer, other in _texts(size)]


def ranking(size: int) -> list[Ranking]:
    """Rankings of three answers, two of them tied."""
    return [Ranking(key, text, (answer, other, "tree"), (1.0, 2.0, 2.0)) for key, text, answer, other in _texts(size)]


def _texts(size: int) -> list[tuple[str, str, str, str]]:
    """(key, text, the text with its words reversed, another text) for each example."""
    texts = [TEXTS[i % len(TEXTS)] + " and a cat" * (i // len(TEXTS)) for i in range(size)]
    return [(f"example:{i}", text, " ".join(reversed(text.split())), texts[-1 - i]) for i, text in enumerate(texts)]
