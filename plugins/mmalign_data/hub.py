"""Data sets of the Hugging Face hub, by id, through the package `datasets` (the extra mmalign[datasets]).

    fetch("trl-lib/ultrafeedback_binarized", subset="")     # {"train": [Path("….arrow")], "test": [...]}

The package downloads, converts and caches; the Arrow streams in its cache are read like any others. From release 4 on
it runs no code from a repository.
"""

import functools
from pathlib import Path

from mmalign.errors import DataError, UsageError

PREFIX = "hf"
_SAVE = "datasets.load_dataset({!r}).save_to_disk('FOLDER')"


@functools.lru_cache(maxsize=8)  # the parts of a run share one download
def fetch(name: str, subset: str) -> dict[str, list[Path]]:
    """The files of each split; raises DataError, and UsageError where the package is missing."""
    reference = f"{PREFIX}:{name}"
    try:
        import datasets  # pyrefly: ignore[missing-import]
    except ImportError as error:
        raise UsageError(
            f"{reference}: reading data of the hub needs the package datasets, which is not installed",
            hint=f'python -m pip install "mmalign[datasets]"; or, where it is installed, {_SAVE.format(name)}, '
            "and give that folder: it is read without the package.",
        ) from error
    try:
        loaded = datasets.load_dataset(name, subset or None, keep_in_memory=False)
    except ConnectionError as error:
        raise DataError(
            f"{reference} is not on this machine and could not be downloaded: {_first_line(error)}",
            hint=f"On a machine with a network: {_SAVE.format(name)}; then copy the folder and give it: "
            "--dataset ./FOLDER",
        ) from error
    except Exception as error:  # its own errors, those of its file formats, ValueError, RuntimeError
        which = f" (subset {subset})" if subset else ""
        raise DataError(
            f"{reference}{which} cannot be loaded: {_first_line(error)}",
            hint="Check the name at https://huggingface.co/datasets; one of several configurations: "
            "--set dataset.subset=NAME",
        ) from error
    return {str(split): [Path(file["filename"]) for file in data.cache_files] for split, data in loaded.items()}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
