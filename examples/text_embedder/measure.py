"""Find a word by its definition: language models trained as encoders of texts, beside TF-IDF and BM25.

    pip install scikit-learn rank-bm25
    python measure.py --work work                    # the baselines and `mmalign train -c embedder`, three seeds
    python measure.py --work work --smollm2          # SmolLM2-135M with LoRA, one seed (mmalign[smollm2,lora])

All search the same 2,000 held-out words of the data set `wordnet` with the definition of each, and the other way round.
The shares have 95% intervals (Wilson); ties count against whoever ties.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from mmalign_data.wordnet import WordNet, WordNetConfig

from mmalign.evaluate.intervals import with_interval

SEEDS = (0, 1, 2)
SMOLLM2 = (
    "--objective contrastive --backbone smollm2-135m --dataset wordnet --set backbone.lora.rank=16 "
    "--set backbone.embedder.pooling=mean --set train.steps=90 --set train.batch_size=128 "
    "--set train.learning_rate=3e-4 --set train.warmup_steps=9 --set evaluation.max_examples=2000"
).split()
FORWARD, BACKWARD = "query_to_document_r10", "document_to_query_r10"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for runs")
    parser.add_argument("--smollm2", action="store_true", help="train SmolLM2-135M instead of gpt-mini")
    given = parser.parse_args()
    print("| | word by its definition, recall@10 | definition by its word, recall@10 |\n|---|---|---|")
    if given.smollm2:
        show_run("SmolLM2-135M", given.work / "smollm2", [*SMOLLM2, "--seed", "0"])
        return
    for name, scores in baselines():
        line(name, *(interval(hits, len(scores)) for hits in found(scores)))
    for seed in SEEDS:
        show_run(f"gpt-mini, seed {seed}", given.work / f"gpt-mini-{seed}", ["-c", "embedder", "--seed", str(seed)])


def baselines() -> list[tuple[str, np.ndarray]]:
    """[2000, 2000] scores of each definition (row) with each word (column)."""
    from rank_bm25 import BM25Okapi
    from sklearn.feature_extraction.text import TfidfVectorizer

    train, held_out = (WordNet.build(WordNetConfig(), split) for split in ("train", "validation"))
    pairs = [held_out[index] for index in range(len(held_out))]
    definitions, words = [pair.anchor for pair in pairs], [pair.positive for pair in pairs]
    texts = [side for index in range(len(train)) for side in (train[index].anchor, train[index].positive)]
    scores = []
    for name, options in (
        ("TF-IDF of words", {}),
        ("TF-IDF of parts of words, 3 to 5 letters", {"analyzer": "char_wb", "ngram_range": (3, 5)}),
    ):
        vectors = TfidfVectorizer(**options).fit(texts)
        scores.append((name, (vectors.transform(definitions) @ vectors.transform(words).T).toarray()))
    index = BM25Okapi([word.lower().split() for word in words])
    scores.append(("BM25", np.stack([index.get_scores(text.lower().split()) for text in definitions])))
    return scores


def found(scores: np.ndarray) -> tuple[int, int]:
    """How many rows, and how many columns, have fewer than ten others that score as high as their own."""
    own = np.diag(scores)
    ahead = (scores >= own[:, None]).sum(1) - 1, (scores >= own[None, :]).sum(0) - 1
    return int((ahead[0] < 10).sum()), int((ahead[1] < 10).sum())


def interval(hits: float, total: int) -> dict[str, float]:
    return with_interval("share", hits, total)


def show_run(name: str, folder: Path, arguments: list[str]) -> None:
    """Train, unless that was done before, and print the shares before and after."""
    if not (folder / "run.json").is_file():
        subprocess.run([sys.executable, "-m", "mmalign", "train", *arguments, "--out", str(folder)], check=True)
    summary: dict[str, Any] = json.loads((folder / "run.json").read_text())["summary"]
    for when in ("before", "after"):
        figures = {key.removeprefix("text-retrieval/"): value for key, value in summary[when].items()}
        cells = [
            {end: figures[f"{side}{end and '_'}{end}"] for end in ("", "low", "high")} for side in (FORWARD, BACKWARD)
        ]
        line(f"{name}, {when}", *({f"share{end and '_'}{end}": value for end, value in cell.items()} for cell in cells))


def line(name: str, *cells: dict[str, float]) -> None:
    shown = [f"{cell['share']:.1%} ({cell['share_low']:.1%} to {cell['share_high']:.1%})" for cell in cells]
    print(f"| {name} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
