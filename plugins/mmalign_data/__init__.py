"""The built-in data: readers of image-text and image-label files, and the embedded sets."""

from mmalign import DatasetSpec, hookimpl


@hookimpl
def register_datasets() -> list[DatasetSpec]:
    return [
        DatasetSpec(
            name="emoji",
            summary="Embedded: 1,906 drawings of the Noto font with names and tags",
            target="mmalign_data.emoji:Emoji",
            kind="image-text",
            default_for=("image-text",),
        ),
        DatasetSpec(
            name="photos",
            summary="Embedded: a few sample photographs, each its own class",
            target="mmalign_data.photos:Photos",
            kind="image-label",
            default_for=("image-label",),
        ),
        DatasetSpec(
            name="image-text",
            summary="Images with captions: CSV, TSV, JSONL, parquet, webdataset tars, or a folder",
            target="mmalign_data.image_text:ImageTextFiles",
            kind="image-text",
            reads_files=True,
        ),
        DatasetSpec(
            name="image-label",
            summary="Images in one folder per class",
            target="mmalign_data.image_label:ImageFolders",
            kind="image-label",
            reads_files=True,
        ),
    ]
