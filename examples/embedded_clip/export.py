"""Write a trained folder in half precision: `python export.py runs/stage2/model clip-lite`.

The folder is written aside and renamed, so that no reader meets half of it. An ATTRIBUTION.md already there is kept.
"""

import shutil
import sys
from pathlib import Path

from mmalign.models.references import find_source
from mmalign.registry.catalog import Catalog
from mmalign.registry.plugins import load_plugins


def export(source: Path, target: Path) -> None:
    from mmalign_clip.open_clip_backbone import OpenClipBackbone, OpenClipConfig

    backbone = OpenClipBackbone.load(find_source(str(source), Catalog(load_plugins())), OpenClipConfig())
    aside = target.with_suffix(".part")
    backbone.save(aside, half=True)
    for file in aside.iterdir():
        file.chmod(0o644)  # safetensors writes for its owner alone
    notice = target / "ATTRIBUTION.md"
    if notice.exists():
        shutil.copy(notice, aside / notice.name)
    if target.exists():
        shutil.rmtree(target)
    aside.rename(target)


if __name__ == "__main__":
    export(Path(sys.argv[1]), Path(sys.argv[2]))
