"""Texts to token ids: CLIP's byte pairs, or the tokenizer files of a folder. Both count the tokens that they cut off.

ClipTokenizer(context_length=77).text("a photo of a cat")     # TokenizedText(ids [T], num_lost 0)
FileTokenizer.load(folder, context_length=64, ...)
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

import torch

from mmalign.contract.backbone import TokenizedText
from mmalign.errors import CheckpointError, PluginError
from mmalign.models.folder import offline, refuse_code
from mmalign.reading import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

TOKENIZER_FILE, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"

CLIP_VOCABULARY, CLIP_END = 49408, 49407

_UNREADABLE = (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, ImportError, RecursionError)

_TOKENIZER_OPTIONS = {"clean", "strip_sep_token"}

_DEFAULT_CLEAN = "whitespace"  # open_clip's for tokenizers other than CLIP's


class TextTokenizer(Protocol):
    """pad_id fills rows up to a common length; end_id closes every row; num_tokens is the size of the vocabulary."""

    @property
    def context_length(self) -> int: ...

    @property
    def pad_id(self) -> int: ...

    @property
    def end_id(self) -> int: ...

    @property
    def num_tokens(self) -> int: ...

    def text(self, text: str) -> TokenizedText: ...

    def save(self, folder: Path) -> None: ...


@dataclass(frozen=True)
class ClipTokenizer:
    """OpenAI's byte pairs as open_clip ships them; a text that is too long loses its end but gets the end token."""

    context_length: int
    pad_id: int = 0
    end_id: int = CLIP_END
    num_tokens: int = CLIP_VOCABULARY

    def text(self, text: str) -> TokenizedText:
        import open_clip

        # With room for the longest possible text nothing is cut, so tokens can be counted: a token spans at least one
        # byte, and cleaning (unescaping, Unicode repair, lower case) makes no text four times as long.
        row = open_clip.tokenize([text], context_length=4 * len(text.encode("utf-8", "replace")) + 8)[0]
        ids = row[: int((row == self.end_id).nonzero()[-1]) + 1]
        num_lost = max(0, len(ids) - self.context_length)
        if num_lost:
            ids = torch.cat([ids[: self.context_length - 1], ids[-1:]])
        return TokenizedText(ids.clone(), num_lost)

    def save(self, folder: Path) -> None:
        """Nothing to write: open_clip has the byte pairs, and uses them where no tokenizer is named."""


@dataclass(frozen=True)
class FileTokenizer:
    """A transformers tokenizer with the files that it came from.

    clean: how open_clip cleans a text first ("whitespace", "lower", "canonicalize"), or "" for not at all.
    strip_id: an id that open_clip replaces by 0 (`strip_sep_token`), or -1.
    files: name -> content of the tokenizer files, which `save` writes back unchanged.
    """

    tokenizer: "PreTrainedTokenizerBase"
    files: Mapping[str, bytes]
    context_length: int
    pad_id: int
    end_id: int
    clean: str = ""
    strip_id: int = -1

    @classmethod
    def load(cls, folder: Path, context_length: int, clean: str = "", strip_separator: bool = False) -> Self:
        """Read a folder's tokenizer as transformers does; raises CheckpointError. Never touches the network."""
        from transformers import AutoTokenizer

        path = folder / TOKENIZER_CONFIG
        if not path.is_file():
            raise CheckpointError(
                f"{folder} has no tokenizer: {TOKENIZER_CONFIG} is missing",
                hint="Copy the tokenizer files of the model into the folder, or save it again with mmalign.",
            )
        try:
            refuse_code(read_json(path), path)
            with offline():
                tokenizer: Any = AutoTokenizer.from_pretrained(
                    str(folder), local_files_only=True, trust_remote_code=False
                )
            # The empty text shows what closes every row
            end_id = tokenizer("", verbose=False)["input_ids"][-1]
        except _UNREADABLE as error:
            raise CheckpointError(f"{folder}: the tokenizer cannot be read: {error}") from error
        if tokenizer.pad_token_id is None or tokenizer.padding_side != "right":
            raise CheckpointError(
                f"{folder}: the tokenizer needs a padding token, and padding on the right",
                hint=f"Set pad_token and padding_side in {TOKENIZER_CONFIG}.",
            )
        strip_id = tokenizer.sep_token_id if strip_separator else -1
        return cls(tokenizer, _tokenizer_files(folder), context_length, tokenizer.pad_token_id, end_id, clean, strip_id)

    @property
    def num_tokens(self) -> int:
        return len(self.tokenizer)

    def text(self, text: str) -> TokenizedText:
        if self.clean:
            from open_clip.tokenizer import get_clean_fn

            text = get_clean_fn(self.clean)(text)
        ids = self._encode(text)
        num_lost = max(0, len(ids) - self.context_length)
        if num_lost:
            ids = self.tokenizer(text, truncation=True, max_length=self.context_length)["input_ids"]
        return TokenizedText(torch.tensor([0 if i == self.strip_id else i for i in ids], dtype=torch.int64), num_lost)

    def _encode(self, text: str) -> list[int]:
        """All ids. The Rust tokenizer underneath, where there is one, is called directly, ten times as fast."""
        if not self.tokenizer.is_fast:
            return self.tokenizer(text, verbose=False)["input_ids"]
        backend = cast("PreTrainedTokenizerFast", self.tokenizer).backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        return backend.encode(text).ids

    def save(self, folder: Path) -> None:
        for name, content in self.files.items():
            (folder / name).write_bytes(content)


def tokenizer_from_files(folder: Path, text_cfg: Mapping[str, Any]) -> FileTokenizer:
    """The tokenizer of a folder with the cleaning that a `text_cfg` states; raises CheckpointError."""
    options = text_cfg.get("tokenizer_kwargs") or {}
    unknown = sorted({*options, *(["tokenizer_mode"] if text_cfg.get("tokenizer_mode") else [])} - _TOKENIZER_OPTIONS)
    if unknown:
        raise CheckpointError(
            f"{folder}: tokenizer options {', '.join(unknown)} are not supported",
            hint=f"Supported: {', '.join(sorted(_TOKENIZER_OPTIONS))}.",
        )
    clean, strip = options.get("clean", _DEFAULT_CLEAN), bool(options.get("strip_sep_token"))
    return FileTokenizer.load(folder, text_cfg["context_length"], clean, strip)


def _tokenizer_files(folder: Path) -> dict[str, bytes]:
    names = (TOKENIZER_FILE, TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json")
    others = ("vocab.json", "merges.txt", "vocab.txt", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
    return {name: (folder / name).read_bytes() for name in (*names, *others) if (folder / name).is_file()}


VOCABULARY = "vocabulary.txt"


def read_vocabulary(folder: Path) -> tuple[str, ...]:
    """The names in vocabulary.txt, one a line; empty without that file."""
    path = folder / VOCABULARY
    if not path.is_file():
        return ()
    return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())


def write_vocabulary(folder: Path, names: tuple[str, ...]) -> None:
    """Write vocabulary.txt; nothing for no names."""
    if names:
        (folder / VOCABULARY).write_text("\n".join(names) + "\n", encoding="utf-8")


def imagenet_names() -> tuple[str, ...]:
    """open_clip's IMAGENET_CLASSNAMES, from its file of plain data: importing open_clip itself takes seconds."""
    package = importlib.util.find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        raise PluginError("open_clip is not installed", hint="python -m pip install open_clip_torch")
    path = Path(package.submodule_search_locations[0]) / "zero_shot_metadata.py"
    spec = importlib.util.spec_from_file_location("mmalign_clip_zero_shot_metadata", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return tuple(module.IMAGENET_CLASSNAMES)
