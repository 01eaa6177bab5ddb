"""The teacher: for any noun, the direction in Lite0's feature space along which photographs of it should lie.

Anchors are the 1,000 rows of Lite0's ImageNet classifier and one mean feature for each emoji. A noun's target is a mean
of anchors, weighted by how alike noun and anchor are: MiniLM's cosine of "word: WordNet definition" + 0.3 of its cosine
of "a photo of a word" + 0.25 of Lin's similarity in WordNet's tree. Definitions matter most: with a class's own row
left out, it is the first of 74 for 60% of the ImageNet names, for 44% with the bare names.

    space = Space.fit(features, present, lite0)            # features: style -> [N, V, 1280]
    targets = Teacher(space, anchors).targets(nouns)       # [M, 512]
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sources import Synset

SELF_SIMILARITY = 1.55  # 1 + 0.3 + 0.25: the most that two words can score
NAME_WEIGHT, TREE_WEIGHT = 0.3, 0.25
ROW_TEMPERATURE, EMOJI_TEMPERATURE = 0.06, 0.05
WIDTH = 512
NUM_STYLE_DIRECTIONS = 3


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-9)


@dataclass(frozen=True)
class Space:
    """A linear map of Lite0's features: embedding = weight @ feature + bias. rows: [1000, 512], emoji: [N, 512]."""

    weight: np.ndarray
    bias: np.ndarray
    rows: np.ndarray
    emoji: np.ndarray

    @classmethod
    def fit(cls, features: Mapping[str, np.ndarray], present: Mapping[str, np.ndarray], lite0: Mapping) -> "Space":
        """Whiten by the drawings' covariance, centre on photographs, and drop what tells drawings from photographs.

        features: style -> [N, V, 1280], view 0 on plain white; present: style -> [N] bool.
        """
        drawn = np.concatenate([features[s][present[s]].reshape(-1, features[s].shape[-1]) for s in features])
        photo_mean = mean_photograph(lite0)
        covariance = np.cov(drawn.T)
        shrunk = covariance + np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        values, vectors = np.linalg.eigh(shrunk)
        colour, whiten = (vectors * values**0.5) @ vectors.T, (vectors * values**-0.5) @ vectors.T

        plain = np.concatenate([features[s][present[s]][:, 0] for s in features])
        means = [features[s][present[s]].reshape(-1, len(covariance)).mean(0) for s in features] + [plain.mean(0)]
        styles = np.linalg.svd((np.stack(means) - photo_mean) @ whiten, full_matrices=False)[2][:NUM_STYLE_DIRECTIONS]

        def without_style(x: np.ndarray) -> np.ndarray:
            return x - (x @ styles.T) @ styles

        classifier = np.asarray(lite0["classifier.weight"], dtype=np.float64)
        rows = unit(without_style((classifier - classifier.mean(0)) @ colour))
        total = np.zeros((len(next(iter(features.values()))), len(covariance)))
        count = np.zeros((len(total), 1))
        for style, values_of_style in features.items():
            seen = present[style][:, None]
            total += unit(without_style((values_of_style - photo_mean) @ whiten)).mean(1) * seen
            count += seen
        emoji = unit(total / count)
        emoji = unit(emoji - emoji.mean(0))
        basis = np.linalg.svd(np.concatenate([rows, emoji]), full_matrices=False)[2][:WIDTH]
        weight = without_style(basis) @ whiten
        return cls(weight, -weight @ photo_mean, unit(rows @ basis.T), unit(emoji @ basis.T))


def mean_photograph(lite0: Mapping) -> np.ndarray:
    """[1280]: the mean feature of ImageNet's photographs: ReLU6 of the last BatchNorm's N(beta, gamma^2)."""
    from scipy.stats import norm

    mean, std = np.asarray(lite0["bn2.bias"], np.float64), np.abs(np.asarray(lite0["bn2.weight"], np.float64))
    low, high = -mean / std, (6 - mean) / std
    between = mean * (norm.cdf(high) - norm.cdf(low)) + std * (norm.pdf(low) - norm.pdf(high))
    return between + 6 * (1 - norm.cdf(high))


class Tree:
    """WordNet's hierarchy, for Lin's similarity: 2 IC(common) / (IC(a) + IC(b)), IC = -log(share of synsets below)."""

    def __init__(self, synsets: Mapping[str, Synset]) -> None:
        self._synsets = synsets
        self._above: dict[str, frozenset[str]] = {}
        below: dict[str, int] = defaultdict(int)
        for key in synsets:
            for parent in self.above(key):
                below[parent] += 1
        self.information = {key: -np.log(count / len(synsets)) for key, count in below.items()}

    def above(self, key: str) -> frozenset[str]:
        if key not in self._above:
            parents = (self.above(p) for p in self._synsets[key].above if p in self._synsets)
            self._above[key] = frozenset({key}).union(*parents)
        return self._above[key]

    def similarity(self, keys: Sequence[str | None], others: Sequence[str | None]) -> np.ndarray:
        """[len(keys), len(others)]; zero where either is None."""
        members: dict[str, list[int]] = defaultdict(list)
        for column, other in enumerate(others):
            for parent in self.above(other) if other else ():
                members[parent].append(column)
        columns = {key: np.array(value) for key, value in members.items()}
        other_information = np.array([self.information[o] if o else 1.0 for o in others])
        out = np.zeros((len(keys), len(others)), np.float32)
        for row, key in enumerate(keys):
            if key is None:
                continue
            common = np.zeros(len(others))
            for parent in sorted(self.above(key), key=self.information.__getitem__):
                if parent in columns:
                    common[columns[parent]] = self.information[parent]
            out[row] = 2 * common / (self.information[key] + other_information + 1e-9)
        return out


@dataclass(frozen=True)
class Words:
    """M words for the teacher: MiniLM's [M, 384] of the word in a template and of its definition, and its synset."""

    words: Sequence[str]
    names: np.ndarray
    definitions: np.ndarray
    synsets: Sequence[str | None]


@dataclass(frozen=True)
class Teacher:
    """`rows` and `emoji` are the anchors' words, `exact_*`: word -> anchor that it names."""

    space: Space
    tree: Tree
    rows: Words
    emoji: Words
    exact_rows: Mapping[str, int]
    exact_emoji: Mapping[str, int]

    def targets(self, nouns: Words, chunk: int = 4096) -> np.ndarray:
        """[M, 512], unit length."""
        out = [self._targets(_slice(nouns, start, start + chunk)) for start in range(0, len(nouns.words), chunk)]
        return np.concatenate(out).astype(np.float32)

    def _targets(self, nouns: Words) -> np.ndarray:
        rows = self._similarity(nouns, self.rows, self.exact_rows)
        emoji = self._similarity(nouns, self.emoji, self.exact_emoji)
        # A drawing of the very thing says more than related classes (82% against 61%); a related drawing says less.
        trust = 0.5 + 1.5 * np.clip((emoji.max(1) - 1.1) / 0.3, 0, 1)
        trust = np.where(rows.max(1) > 1.4, 0.5, trust)
        from_rows = unit(_softmax(rows / ROW_TEMPERATURE) @ self.space.rows)
        from_emoji = unit(_softmax(emoji / EMOJI_TEMPERATURE) @ self.space.emoji)
        return unit(from_rows + trust[:, None] * from_emoji)

    def _similarity(self, nouns: Words, anchors: Words, exact: Mapping[str, int]) -> np.ndarray:
        scores = nouns.definitions @ anchors.definitions.T + NAME_WEIGHT * nouns.names @ anchors.names.T
        scores += TREE_WEIGHT * self.tree.similarity(nouns.synsets, anchors.synsets)
        for row, word in enumerate(nouns.words):
            if word.lower() in exact:
                scores[row, exact[word.lower()]] = SELF_SIMILARITY
        return scores


def _slice(words: Words, start: int, end: int) -> Words:
    part = slice(start, end)
    return Words(words.words[part], words.names[part], words.definitions[part], words.synsets[part])


def _softmax(x: np.ndarray) -> np.ndarray:
    exponentials = np.exp(x - x.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)
