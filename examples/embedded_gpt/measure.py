"""What DPO changed, on sentences that no stage saw: `python measure.py BEFORE AFTER`.

accuracy   of the implicit reward log after(y) - log before(y), or its mean per token, which a length-normalised run
           learns, on all pairs of test sentences rated at least 1 apart
sentiment  mean VADER score (-1 to 1) of 200 reviews that each model writes behind "Movie review:", temperature 1
distinct-2 different pairs of words over all pairs of words in these reviews
KL         mean of log after(y) - log before(y) over the reviews that `after` writes, in nats a review

BEFORE and AFTER are references as `--backbone` takes them.
"""

import argparse
import itertools
import json
from collections.abc import Sequence

import torch
from mmalign_data.reviews import PROMPT, Review, read
from torch import Tensor
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from mmalign.hashing import stable_hash
from mmalign.language.derive import sequence_logps
from mmalign.language.sampling import Generated, Sampling
from mmalign.language.sequences import Sequences
from mmalign.models.references import find_source
from mmalign.registry.catalog import Catalog
from mmalign.registry.plugins import load_plugins

APART = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("--reviews", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=4)
    arguments = parser.parse_args()
    models = {name: load(vars(arguments)[name]) for name in ("before", "after")}
    test = read("test")
    ratio = logps(models["after"], test) - logps(models["before"], test)
    lengths = torch.tensor([len(models["after"].processor.answers(PROMPT, [f" {r.text}"]).answers[0]) for r in test])
    figures: dict[str, object] = {
        "accuracy": round(accuracy(ratio, test), 4),
        "accuracy per token": round(accuracy(ratio / lengths, test), 4),
    }
    for name, model in models.items():
        written = write(model, arguments.reviews, arguments.seed)
        texts = [
            model.processor.decode(ids[: len(ids) - end]) for ids, end in zip(written.ids, written.ended, strict=True)
        ]
        analyzer = SentimentIntensityAnalyzer()
        scores = [analyzer.polarity_scores(text)["compound"] for text in texts]
        error = torch.tensor(scores).std().item() / len(scores) ** 0.5
        figures[f"{name}: sentiment"] = f"{sum(scores) / len(scores):.3f} ± {error:.3f}"
        figures[f"{name}: distinct-2"] = round(distinct_2(texts), 3)
        figures[f"{name}: tokens"] = round(sum(map(len, written.ids)) / len(texts), 1)
        figures[f"{name}: ended"] = f"{sum(written.ended)} of {len(texts)}"
        for text in texts[: arguments.show]:
            print(f"{name}:{text}")
    figures["KL"] = round(divergence(models["after"], models["before"], written), 2)
    print(json.dumps(figures, indent=2, ensure_ascii=False))


def load(reference: str):
    catalog = Catalog(load_plugins())
    source = find_source(reference, catalog)
    backbone = catalog.load(source.entry)
    model = backbone.load(source, backbone.Config())
    model.module.eval()
    return model


@torch.no_grad()
def logps(model, reviews: Sequence[Review]) -> Tensor:
    """[M] log-probability of each sentence behind the prompt."""
    encoded = [model.processor.answers(PROMPT, [f" {review.text}"]) for review in reviews]
    parts = []
    for start in range(0, len(encoded), 64):
        part = encoded[start : start + 64]
        sequences = Sequences.from_lists([item.prompt for item in part], [item.answers for item in part])
        parts.append(sequence_logps(model, sequences))
    return torch.cat(parts)


def accuracy(scores: Tensor, reviews: Sequence[Review]) -> float:
    ratings = torch.tensor([review.rating for review in reviews])
    better = ratings[:, None] - ratings[None, :] >= APART
    difference = (scores[:, None] - scores[None, :])[better]
    return float(((difference > 0).double() + 0.5 * (difference == 0).double()).mean())


def write(model, number: int, seed: int) -> Generated:
    prompt = model.processor.prompt(PROMPT)
    seeds = [stable_hash(seed, place) for place in range(number)]
    return model.generate([prompt] * number, Sampling(80, 1.0, 1.0), seeds)


def distinct_2(texts: Sequence[str]) -> float:
    pairs = [pair for text in texts for words in [text.lower().split()] for pair in itertools.pairwise(words)]
    return len(set(pairs)) / max(1, len(pairs))


@torch.no_grad()
def divergence(after, before, written: Generated) -> float:
    prompt = after.processor.prompt(PROMPT)
    sequences = Sequences.from_lists([prompt] * len(written.ids), [[ids] for ids in written.ids])
    return float((sequence_logps(after, sequences) - sequence_logps(before, sequences)).mean())


if __name__ == "__main__":
    main()
