"""Folders as `datasets` 5.2 writes them with save_to_disk, made with pyarrow alone."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

_STATE = {
    "_fingerprint": "58d778cd8bb66c2f",
    "_format_columns": None,
    "_format_kwargs": {},
    "_format_type": None,
    "_output_all_columns": False,
    "_split": None,
}


def save_dataset(folder: Path, rows: list[dict[str, Any]], shards: int = 1, split: str | None = None) -> Path:
    """Dataset.save_to_disk(folder, num_shards=shards): contiguous shards, batches of 1,000 rows."""
    folder.mkdir(parents=True)
    table, names = pa.Table.from_pylist(rows), []
    size = -(-len(rows) // shards)
    for shard in range(shards):
        names.append(f"data-{shard:05d}-of-{shards:05d}.arrow")
        with pa.OSFile(str(folder / names[-1]), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table.slice(shard * size, size), max_chunksize=1000)
    state = {"_data_files": [{"filename": name} for name in names], **_STATE, "_split": split}
    (folder / "state.json").write_text(json.dumps(state, indent=2))
    info = {"citation": "", "description": "", "features": {}, "homepage": "", "license": ""}
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2))
    return folder


def save_dict(folder: Path, **splits: list[dict[str, Any]]) -> Path:
    """DatasetDict.save_to_disk(folder)."""
    for name, rows in splits.items():
        save_dataset(folder / name, rows, split=name)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    return folder


def chat_pairs(count: int, tag: str = "") -> list[dict[str, Any]]:
    """TRL's conversational preferences with an explicit prompt."""

    def turn(role: str, content: str) -> list[dict[str, str]]:
        return [{"role": role, "content": content}]

    return [
        {
            "prompt": turn("user", f"Q{tag}{i}"),
            "chosen": turn("assistant", f"A{i}"),
            "rejected": turn("assistant", f"B{i}"),
        }
        for i in range(count)
    ]
