"""A small captioned data set on disk: coloured squares and circles, `pairs.csv` with columns image and caption."""

import csv
from pathlib import Path

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
