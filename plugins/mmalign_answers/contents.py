"""What a prompt and its answers on the command line are, texts or pictures, for a model that reads certain pairs.

    answers = contents("photo.jpg", ["a cat", "a dog"], pairs, "clip-lite")      # a picture with texts
    answers = contents("a cat", ["photos/", "one.png"], pairs, "clip-lite")      # a text with pictures

A prompt is a picture if it names an existing file with the suffix of one; anything else is a text.
"""

from collections.abc import Iterable, Set
from pathlib import Path

from mmalign.contract.capabilities import Pair, in_words
from mmalign.contract.examples import Content, ImageRef
from mmalign.data.images import IMAGE_SUFFIXES, UNREAD_SUFFIXES, find_images
from mmalign.errors import UsageError

_HINT = """A picture as the prompt of texts: --prompt photo.jpg "a cat" "a dog"
Pictures as answers to a text: --prompt "a cat" photo.jpg other.jpg photos/"""


def contents(prompt: str, given: Iterable[str], pairs: Set[Pair], model: str) -> tuple[Content, list[Content]]:
    """(prompt, answers). given: texts, or names of pictures, folders and globs. Raises UsageError where the model reads
    no such pairs, or a picture of the prompt is missing."""
    if not any("image" in pair for pair in pairs):
        texts = list(given)
        for text in (prompt, *texts):
            _refuse_picture(text, pairs, model)
        return prompt, list(texts)
    if not prompt:
        raise UsageError(f"{model} scores a picture and a text, and there is no --prompt", hint=_HINT)
    if is_picture(prompt):
        return ImageRef(str(Path(prompt).expanduser())), [_text(item, prompt, model) for item in given]
    if names_picture(prompt):
        raise UsageError(f"--prompt {prompt}: no such picture", hint=_HINT)
    return prompt, [ImageRef(path) for item in given for path in _pictures(item, prompt, model)]


def is_picture(name: str) -> bool:
    """Whether it names an existing file with the suffix of a picture."""
    return names_picture(name) and Path(name).expanduser().is_file()


def names_picture(name: str) -> bool:
    """Whether it looks like the name of a picture, which may be missing."""
    return "\n" not in name and len(name) < 4096 and Path(name).suffix.lower() in IMAGE_SUFFIXES | UNREAD_SUFFIXES


def _refuse_picture(name: str, pairs: Set[Pair], model: str) -> None:
    if name and is_picture(name):
        wanted = " or ".join(in_words(pair) for pair in sorted(pairs) if all(pair))
        raise UsageError(
            f"{name} is a picture; {model} scores {wanted}",
            hint="Dual encoders score pictures: --backbone clip-lite, or one that you trained.",
        )


def _text(item: str, prompt: str, model: str) -> str:
    if is_picture(item):
        raise UsageError(f"{prompt} and {item} are both pictures; {model} scores a picture and a text", hint=_HINT)
    return item


def _pictures(item: str, prompt: str, model: str) -> list[str]:
    """A missing picture is kept, as an answer that cannot be read."""
    found, problems = find_images([item])
    if not problems:
        return list(map(str, found))
    if names_picture(item):
        return [item]
    raise UsageError(
        f"the prompt {prompt!r} is a text, so that the answers must be pictures; {item}: {problems[0][1]}", hint=_HINT
    )
