"""A small captioned data set on disk: coloured squares and circles, `pairs.csv` with columns image and caption; and
tables of pictures as prompts or answers."""

import csv
import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

COLOURS = ("red", "green", "blue", "black", "white")
SHAPES = ("square", "circle")


def write_pairs(folder: Path, copies: int = 5) -> Path:
    """Write copies x 5 colours x 2 shapes; return the CSV."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for copy in range(copies):
        for colour in COLOURS:
            for shape in SHAPES:
                image = Image.new("RGB", (40, 40), (128 + copy, 128, 128))
                box = (4 + copy, 6, 28 + copy, 30)
                draw = ImageDraw.Draw(image)
                (draw.rectangle if shape == "square" else draw.ellipse)(box, fill=colour)
                name = f"{colour}-{shape}-{copy}.png"
                image.save(folder / name)
                rows.append((name, f"a photo of a {colour} {shape}, number {copy}"))
    path = folder / "pairs.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "caption"), *rows])
    return path


def write_rows(folder: Path) -> dict[str, str]:
    """Tables of pictures as prompts, and of pictures as answers."""
    write_pairs(folder, copies=4)
    pictures = [(f"{c}-{s}-{copy}.png", f"a {c} {s}") for copy in range(4) for c in COLOURS for s in SHAPES]
    rows: dict[str, list[Any]] = {name: [] for name in ("texts", "pictures", "prompts")}
    for number, (file, name) in enumerate(pictures):
        other, other_name = pictures[(number + 7) % len(pictures)]
        answers = {"completion": name, "label": True, "chosen": name, "rejected": other_name}
        rows["texts"].append({"image": file, **answers})
        rows["pictures"].append({"prompt": name, "chosen": {"path": file}, "rejected": {"path": other}})
        rows["prompts"].append({"prompt": {"type": "image", "image": file}, "answer": name})
    for name, table in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    return {name: str(folder / f"{name}.jsonl") for name in rows}
