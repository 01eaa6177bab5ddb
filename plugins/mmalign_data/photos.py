"""The embedded `photos`: a few sample photographs, each its own class, so that a first `mmalign zero-shot` has images.

mmalign zero-shot --labels "a photo of a <object>"
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict

from mmalign.contract.examples import ImageLabel, ImageRef
from mmalign.errors import DataError

FOLDER = Path(__file__).parent / "photos"


class PhotosConfig(BaseModel):
    """The sample photographs have no options."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Photos:
    """Image-label examples; `classes` are the file names without suffix. There is no validation part."""

    Config: ClassVar[type[BaseModel]] = PhotosConfig

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self._paths = paths
        self.classes = tuple(path.stem for path in paths)

    @classmethod
    def build(cls, config: PhotosConfig, split: str) -> Self | None:
        """All of them as `train`; raises DataError if the installation lacks the files."""
        if split != "train":
            return None
        paths = tuple(sorted(FOLDER.glob("*.jpg")))
        if not paths:
            hint = "Install mmalign again: python -m pip install --force-reinstall mmalign"
            raise DataError(f"{FOLDER} holds no photograph", hint=hint)
        return cls(paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> ImageLabel:
        path = self._paths[index]
        return ImageLabel(key=path.name, image=ImageRef(str(path)), label=index)

    def report(self) -> Mapping[str, Any]:
        """Counts; nothing is skipped."""
        return {"kept": len(self), "skipped": {}, "source": "photos (embedded)", "classes": len(self.classes)}

    def fingerprint(self) -> str:
        """A hash of the files."""
        digest = hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in self._paths))
        return digest.hexdigest()[:16]
