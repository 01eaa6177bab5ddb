"""The options of text data, for files and hub ids: `mmalign config show sft --dataset ...` prints them."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TextFilesConfig(BaseModel):
    """Options of text data."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str = Field(
        description="A table, a .txt file, a folder of them or of datasets.save_to_disk, a glob, a range "
        "'x/{00..09}.jsonl', or hf:ORG/NAME"
    )
    subset: str = Field("", description="Which configuration of hf:ORG/NAME, where it has several")
    split: str = Field(
        "", description="Split of `path` to train on; empty: train, or everything where `path` has no splits"
    )
    validation: str = Field("", description="A path for validation; empty: a split of `path`, or hold out a part of it")
    validation_split: str = Field("", description="Split for validation; empty: `validation` where there is one")
    holdout: float = Field(
        0.05, ge=0, lt=1, description="Fraction of prompts held out where there is no other validation part (0-1)"
    )
    columns: dict[str, str] = Field({}, description='Columns under other names: {"completion": "answer"}')
    separator: str = Field("", max_length=1, description="Separator of CSV cells, one character; empty: comma or tab")
    pictures: bool = Field(True, description="Read pictures as prompts or answers; false: ignore columns of pictures")
    image_root: str = Field(
        "", description="Folder that paths of pictures start from and must lie in; empty: the table's own"
    )
    alpaca: Literal["prompt", "messages"] = Field(
        "prompt", description="Prompt of rows with an instruction: Alpaca's own text, or a conversation"
    )
    piece: int = Field(
        4000, ge=1, description="Most characters of a .txt file in one document, cut where a paragraph ends"
    )
    max_bad: float = Field(0.01, ge=0, le=1, description="Fraction of rows that may be unusable, such as empty answers")
