"""Stand-in until the real one is merged."""

from typing import NamedTuple

import torch


class Scores(NamedTuple):
    total: torch.Tensor
    parts: dict


def check_rewards(catalog, options):
    return None


class RewardList:
    @classmethod
    def build(cls, catalog, options, device, say):
        self = cls()
        self.names = [o["name"] for o in options]
        return self

    def score(self, answers):
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

        a = getattr(self, "a", None) or SentimentIntensityAnalyzer()
        self.a = a
        t = torch.tensor([a.polarity_scores(x)["compound"] for x in answers.texts], dtype=torch.float32)
        return Scores(t, {"vader": t})
