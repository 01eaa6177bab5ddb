"""Sentiment of the answer: `--set rollout.rewards='[{"name": "vader"}]'`.

The compound score of VADER, a lexicon with rules for negation, emphasis and emoji: from -1, most negative, to 1, most
positive (Hutto and Gilbert 2014, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text").
An answer without a word of the lexicon scores 0. It is easy to exploit: praise repeated without end scores highest.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from mmalign.rl.answers import Answers


class VaderConfig(BaseModel):
    """VADER has no options."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Vader:
    """Scores the answer alone, without its prompt."""

    Config: ClassVar[type[BaseModel]] = VaderConfig

    def __init__(self, config: VaderConfig) -> None:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

        self._analyser = SentimentIntensityAnalyzer()

    def score(self, answers: "Answers") -> Sequence[float]:
        """[M], each from -1 to 1."""
        return [self._analyser.polarity_scores(text)["compound"] for text in answers.texts]
