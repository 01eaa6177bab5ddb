"""Which names clip-lite learns, how often each is drawn, and which are left out to test with.

    words, weights = choose_words(sources)      # about 25,000 nouns, most of the weight on common things
    held = held_out(sources, words, 0.03)       # [M] bool

The student's labels are everyday objects, so it need not know every noun: it must know common ones well. What is common
is read off OpenAI's byte pairs (open_clip carries them), which were learnt on captions: a word that is one token there.
"""

import zlib
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
from sources import Noun, Sources

KIND_WEIGHTS = {
    **dict.fromkeys(("artifact", "food"), 3.0),
    **{"object": 1.5, "body": 1.0, "animal": 1.0, "substance": 0.7, "shape": 0.5},
    **{"phenomenon": 0.4, "plant": 0.6, "person": 0.4},
}
OTHER_WEIGHT, EMOJI_WEIGHT = 0.2, 3.0
COMMON, RARE = 4.0, 0.6
THINGS = ("artifact", "food", "object")


def choose_words(sources: Sources) -> tuple[list[str], np.ndarray]:
    """Visible nouns, ImageNet's names, the emoji's, everyday compounds; weights favour common things."""
    chosen = {
        word: _weight(sources, word, noun) for word, noun in sources.nouns.items() if _wanted(sources, word, noun)
    }
    for emoji in sources.emoji:
        for tag in emoji.tags:
            chosen.setdefault(tag.replace("\u2019", "'"), 1.0)
    for name in sources.everyday:
        chosen[name] = max(chosen.get(name, 0.0), EMOJI_WEIGHT * COMMON)
    for name in {name for name, _, _ in sources.imagenet}:
        chosen[name] = max(2 * chosen.get(name, 0.0), EMOJI_WEIGHT)
    for emoji in sources.emoji:
        for name in emoji.names:
            chosen[name] = max(2 * chosen.get(name, 0.0), EMOJI_WEIGHT)
    words = list(chosen)
    return words, np.array([chosen[word] for word in words])


def _wanted(sources: Sources, word: str, noun: Noun) -> bool:
    if noun.proper:
        return False
    if noun.file not in KIND_WEIGHTS:
        return noun.count >= 5
    if noun.count or is_common(word):
        return True
    most_spaces = {"plant": 0, "person": -1, "animal": 1}.get(noun.file, 2)
    return word in sources.pictured and word.count(" ") <= most_spaces


def _weight(sources: Sources, word: str, noun: Noun) -> float:
    common = COMMON / (1 + word.count(" ")) if is_common(word) else RARE
    weight = KIND_WEIGHTS.get(noun.file, OTHER_WEIGHT) * common
    return weight * (1 + 0.3 * np.log1p(noun.count)) * (1.5 if word in sources.pictured else 1.0)


def is_common(name: str) -> bool:
    """Each of its words is one token for OpenAI's tokenizer; two words at most."""
    parts = name.lower().replace("-", " ").split()
    return len(parts) <= 2 and all(_is_token(part) for part in parts)


@cache
def _is_token(word: str) -> bool:
    from open_clip.tokenizer import _tokenizer

    return word + "</w>" in _tokenizer.encoder


def common_things(sources: Sources, words: Sequence[str]) -> np.ndarray:
    """[M] bool: everyday things, on which evaluate.py measures how well the student keeps to the teacher."""

    def thing(word: str) -> bool:
        noun = sources.nouns.get(word)
        return (
            noun is not None
            and noun.file in THINGS
            and is_common(word)
            and bool(noun.count or word in sources.pictured)
        )

    return np.array([thing(word) for word in words])


def held_out(sources: Sources, words: Sequence[str], share: float) -> np.ndarray:
    """[M] bool: a fixed share of the pictured things that are neither common nor named by a class or an emoji."""
    named = {name for name, _, _ in sources.imagenet} | {name for emoji in sources.emoji for name in emoji.names}

    def out(word: str) -> bool:
        noun = sources.nouns.get(word)
        thing = noun is not None and noun.file in ("artifact", "food") and word in sources.pictured
        spared = word in named or word in sources.everyday or is_common(word)
        return thing and not spared and zlib.crc32(word.encode()) % 10_000 < share * 10_000

    return np.array([out(word) for word in words])


def noun_of(sources: Sources, name: str) -> Noun | None:
    """The noun that a name is, or is the plural of, or ends in."""
    name = name.lower()
    for candidate in (name, name.removesuffix("s"), name.split(" ")[-1], name.split(" ")[-1].removesuffix("s")):
        if candidate in sources.nouns:
            return sources.nouns[candidate]
    return None


def define(sources: Sources, name: str) -> str:
    noun = noun_of(sources, name)
    return f"{name}: {sources.synsets[noun.synset].definition}" if noun else name


def tokenizer_corpus(sources: Sources, words: Sequence[str], weights: np.ndarray) -> Iterator[str]:
    """Each name, common ones so often that they become one token, and WordNet's definitions."""
    for word, weight in zip(words, weights, strict=True):
        yield from [word] * (1 + int(weight * 4))
        if weight > EMOJI_WEIGHT:
            yield from [plural(word)] * int(weight)
    yield from (synset.definition for synset in sources.synsets.values())


def plural(noun: str) -> str:
    if noun.endswith("s"):
        return noun
    return noun + ("es" if noun.endswith(("ch", "sh", "x", "z")) else "s")
