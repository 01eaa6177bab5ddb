"""Reward against distance: PPO, RLOO, DPO and best-of-n on one task, in one picture: `python frontier.py --work work`.

The task is that of the DPO paper's figure 2 (Rafailov 2023): write reviews in good spirits without leaving the starting
model. The reward is VADER's sentiment, -1 to 1; the distance is KL(policy || start) in nats a review. Each method is
run at several strengths of its tie to the start:

ppo     kl_coef, what a nat costs at each token
rloo    beta, what a nat costs at each answer
dpo     beta, on the starting model's own reviews, 32 at a time, ranked by VADER
best-of-n  the best of n reviews of the starting model, whose KL is at most log n - (n - 1)/n

Writes work/frontier.csv and work/frontier.png; runs that are there are not made again. All models write the same number
of reviews with the same random numbers. An hour or two on two cores; --methods and --quick take less.
"""

import argparse
import csv
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "embedded_gpt"))
from measure import distinct_2, divergence, load, write

START = "gpt-mini"
STRENGTHS = {
    "ppo": ("objective.kl_coef", (0.3, 0.15, 0.07, 0.03, 0.01)),
    "rloo": ("objective.beta", (0.3, 0.15, 0.07, 0.03, 0.01)),
    "dpo": ("objective.beta", (2.0, 0.7, 0.3, 0.1, 0.03)),
}
BEST_OF = (1, 2, 4, 8, 16, 32, 64)
COLUMNS = ("method", "strength", "kl", "reward", "reward_error", "distinct_2", "reviews")
RANKED, RANKINGS = 32, 160


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--methods", nargs="+", choices=[*STRENGTHS, "best-of-n"], default=[*STRENGTHS, "best-of-n"])
    parser.add_argument("--steps", type=int, default=40, help="of each run")
    parser.add_argument("--reviews", type=int, default=512, help="written by each model to measure it")
    parser.add_argument("--quick", action="store_true", help="2 steps and 32 reviews: whether it runs")
    given = parser.parse_args()
    if given.quick:
        given.steps, given.reviews = 2, 32
    given.work.mkdir(parents=True, exist_ok=True)
    analyzer, start = SentimentIntensityAnalyzer(), load(START)
    rows: list[dict[str, Any]] = []
    for method in given.methods:
        points = best_of_n(start, analyzer, given) if method == "best-of-n" else trained(method, start, analyzer, given)
        for point in points:
            rows.append({"method": method, **point})
            print(json.dumps(rows[-1]), flush=True)
            write_results(rows, given.work)


def trained(method: str, start: Any, analyzer: Any, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    option, strengths = STRENGTHS[method]
    for strength in strengths:
        folder = given.work / f"{method}-{strength:g}"
        sets = {option: strength, "train.steps": given.steps}
        if method == "dpo":
            sets |= {"dataset.holdout": 0.05, "objective.length_normalised": "false", "train.batch_size": 2}
        if not (folder / "model").exists():
            options = [part for name, value in sets.items() for part in ("--set", f"{name}={value}")]
            data = ["--backbone", START, "--dataset", str(ranked(start, analyzer, given))] if method == "dpo" else []
            command = [sys.executable, "-m", "mmalign", "train", "--objective", method, *data, *options]
            subprocess.run([*command, "--out", str(folder)], check=True)
        yield {"strength": strength, **measured(load(str(folder / "model")), start, analyzer, given.reviews)}


def measured(model: Any, start: Any, analyzer: Any, reviews: int) -> dict[str, Any]:
    """Of `reviews` that the model writes at temperature 1."""
    written = write(model, reviews, seed=1)
    texts = texts_of(model, written)
    scores = torch.tensor([analyzer.polarity_scores(text)["compound"] for text in texts])
    return {
        "kl": round(divergence(model, start, written), 3),
        "reward": round(float(scores.mean()), 4),
        "reward_error": round(float(scores.std()) / reviews**0.5, 4),
        "distinct_2": round(distinct_2(texts), 4),
        "reviews": reviews,
    }


def best_of_n(start: Any, analyzer: Any, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The best of every n; the KL is the bound (Stiennon 2020, appendix G.3), which is near where few scores tie."""
    texts = texts_of(start, write(start, given.reviews * 8, seed=2))
    scores = torch.tensor([analyzer.polarity_scores(text)["compound"] for text in texts])
    for n in BEST_OF:
        groups = len(scores) // n
        if not groups:
            return
        best = scores[: groups * n].view(groups, n).max(1)
        chosen = [texts[group * n + place] for group, place in enumerate(best.indices.tolist())]
        error = float(best.values.std()) / groups**0.5 if groups > 1 else math.nan
        yield {
            "strength": n,
            "kl": round(math.log(n) - (n - 1) / n, 3),
            "reward": round(float(best.values.mean()), 4),
            "reward_error": round(error, 4),
            "distinct_2": round(distinct_2(chosen[: given.reviews]), 4),
            "reviews": groups,
        }


def ranked(start: Any, analyzer: Any, given: argparse.Namespace) -> Path:
    """The starting model's own reviews, ranked by VADER: made once."""
    path = given.work / "ranked.jsonl"
    number = 4 if given.quick else RANKINGS
    if not path.exists():
        texts = texts_of(start, write(start, number * RANKED, seed=3))
        with path.open("w", encoding="utf-8") as file:
            for place in range(0, len(texts), RANKED):
                group = [text for text in dict.fromkeys(texts[place : place + RANKED]) if text.strip()]
                ranks = [1 - analyzer.polarity_scores(text)["compound"] for text in group]
                file.write(json.dumps({"prompt": "Movie review:", "completions": group, "ranks": ranks}) + "\n")
    return path


def texts_of(model: Any, written: Any) -> list[str]:
    rows = zip(written.ids, written.ended, strict=True)
    return [model.processor.decode(ids[: len(ids) - ended]) for ids, ended in rows]


def write_results(rows: list[dict[str, Any]], folder: Path) -> None:
    with (folder / "frontier.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    for method in dict.fromkeys(row["method"] for row in rows):
        points = sorted((row["kl"], row["reward"], row["reward_error"]) for row in rows if row["method"] == method)
        kl, reward, error = zip(*points, strict=True)
        axes.errorbar(kl, reward, yerr=error, marker="o", markersize=4, capsize=2, linewidth=1.2, label=method)
    axes.set(xlabel="KL(policy || start), nats a review", ylabel="mean VADER score")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(folder / "frontier.png", dpi=150)


if __name__ == "__main__":
    main()
