"""Make the embedded `emoji` data: Noto's drawings with names and tags, from two npm packages.

    python examples/embedded_data/prepare_emoji.py --out plugins/mmalign_data/emoji

Writes emoji.zip (stored WebP files, 64 px) and emoji.jsonl (one glyph a line: name, texts, tags, group, family, offset,
size); the same packages give the same bytes with the same Pillow. Needs npm and Pillow.
"""

import argparse
import io
import json
import re
import subprocess
import tarfile
import tempfile
import zipfile
from pathlib import Path

from PIL import Image

ART, TAGS = "emoji-datasource-google@16.0.0", "emojibase-data@17.0.0"
QUALITY = 90
# Variants of one drawing go to the same side of the split: who does it, and which way they face.
_VARIANT = re.compile(
    r"\b(man|men|woman|women|person|people|boy|girl|male|female|prince|princess|mr|mrs|mx|facing right)\b|[^a-z0-9 ]"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        art, tags = fetch(ART, scratch), fetch(TAGS, scratch)
        with tarfile.open(art) as archive:
            glyphs = json.loads(read(archive, "package/emoji.json"))
            with tarfile.open(tags) as other:
                labels = {bare(row["hexcode"]): row for row in json.loads(read(other, "package/en/data.json"))}
            rows = describe(glyphs, labels)
            write(out, rows, {row["file"]: read(archive, f"package/img/google/64/{row['file']}") for row in rows})
    print(f"{len(rows)} glyphs, {sum(path.stat().st_size for path in out.glob('emoji.*')):,} bytes")


def fetch(package: str, folder: str) -> Path:
    """Download one package by name and version; return its archive."""
    done = subprocess.run(["npm", "pack", package, "--silent"], cwd=folder, check=True, capture_output=True, text=True)
    return Path(folder) / done.stdout.strip().splitlines()[-1]


def read(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.extractfile(name)
    assert member is not None, name
    return member.read()


def bare(hexcode: str) -> str:
    """A code-point sequence without variation selectors, on which the two packages differ."""
    return "-".join(part for part in hexcode.upper().split("-") if part != "FE0F")


def describe(glyphs: list[dict], labels: dict[str, dict]) -> list[dict]:
    """One row a glyph in Unicode's order; skin-tone swatches left out (tone variants are not in the list at all)."""
    rows = []
    for glyph in sorted(glyphs, key=lambda glyph: glyph["sort_order"]):
        label = labels.get(bare(glyph["unified"]))
        if not glyph["has_img_google"] or glyph["category"] == "Component" or label is None:
            continue
        name = readable(label["label"])
        texts = [name]
        if glyph["category"] != "Flags":
            texts += [text for text in map(short_name, glyph["short_names"]) if text and text.lower() != name.lower()]
        family = " ".join(_VARIANT.sub(" ", name.lower()).split()) or "people"
        row = {"name": name, "texts": list(dict.fromkeys(texts)), "tags": label.get("tags", [])}
        rows.append({**row, "group": glyph["category"], "family": family, "file": glyph["image"]})
    return rows


def readable(label: str) -> str:
    """CLDR's "flag: Kenya", "keycap: 1" and "woman: red hair" as one would say them."""
    label = label.replace("flag: ", "flag of ").replace("keycap: ", "keycap ")
    return re.sub(r"^(\w+): ((?:[\w ]+ )?(?:hair|beard|bald))$", r"\1 with \2", label).replace(
        "with bald", "who is bald"
    )


def short_name(name: str) -> str:
    """A short name as words, or "" where it is a code rather than a name."""
    words = re.split(r"[-_]", name)
    return " ".join(words) if all(word.isalpha() and len(word) > 2 for word in words) else ""


def write(out: Path, rows: list[dict], images: dict[str, bytes]) -> None:
    """Store the pictures uncompressed (WebP does not shrink further), so that an offset and a size find each."""
    with zipfile.ZipFile(out / "emoji.zip", "w", zipfile.ZIP_STORED) as archive:
        for row in rows:
            buffer = io.BytesIO()
            Image.open(io.BytesIO(images[row["file"]])).convert("RGBA").save(buffer, "WEBP", quality=QUALITY, method=6)
            member = zipfile.ZipInfo(Path(row.pop("file")).with_suffix(".webp").name, (1980, 1, 1, 0, 0, 0))
            archive.writestr(member, buffer.getvalue())
            row["offset"] = member.header_offset + len(member.FileHeader())
            row["size"] = len(buffer.getvalue())
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (out / "emoji.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
