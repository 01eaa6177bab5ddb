"""Fetches files of a hub repository from the cache or the network, and only those requested.

    folder = fetch("org/model", ["config.json"], ["*.safetensors", *TOKENIZER_PATTERNS])

Without a network, a file that is not cached raises a CheckpointError that says what to do.
"""

from pathlib import Path

from mmalign.errors import CheckpointError

TOKENIZER_PATTERNS = ["tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model"]
CHAT_TEMPLATE = "chat_template.jinja"  # transformers' name for it beside the tokenizer's files


def fetch(repository: str, needed: list[str], wanted: list[str] | None = None) -> Path:
    """Download the needed and wanted files, or take them from the cache; returns the snapshot's folder."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    files = ", ".join(needed) or "its config"
    hint = f"Without a network, give a local folder: --backbone ./folder ({files} and the weights)."
    try:
        folder = Path(snapshot_download(repository, allow_patterns=[*needed, *(wanted or [])]))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{repository} is not on this machine and could not be downloaded: {error}", hint=hint
        ) from error
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{repository} has no {', '.join(missing)} (or it is not on this machine and cannot be downloaded)",
            hint=hint,
        )
    return folder
