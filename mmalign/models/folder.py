"""Reads folders that transformers saved, without trust: safetensors only, no code, no tensor missing or left over.

    check_weights(folder)
    module = load_exactly(LlamaForCausalLM, folder)         # float32, on the CPU
    module = draw_weights(AutoModelForCausalLM, config)     # the same, from random weights

Plugins for different model families share this; each checks what else its folders must hold.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign import reading
from mmalign.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from mmalign.contract.source import Source

ADAPTER_CONFIG = "adapter_config.json"
_MODELS = ("model.safetensors", "model.safetensors.index.json", "open_clip_model.safetensors")
_BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError, IndexError)

_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")

_NO_WEIGHTS = ("training_args", "optimizer", "scheduler", "rng_state", "scaler")


def unreadable() -> tuple[type[BaseException], ...]:
    """The errors that transformers and safetensors raise for damaged files, and files that are not what they claim to
    be."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    return (*_BROKEN, SafetensorError, StrictDataclassError)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises CheckpointError."""
    try:
        content: Any = reading.read_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds {type(content).__name__}, not an object")
    return content


def pickled_weights(folder: Path) -> list[str]:
    """Sorted names of files that may hold pickled weights; training state files are ignored."""
    return sorted(
        path.name for path in folder.glob("*") if path.suffix in _PICKLED and not path.name.startswith(_NO_WEIGHTS)
    )


def without_weights(folder: Path, expected: str) -> str:
    """For an error: what is wrong with a folder that lacks the expected file; its weights are pickled, or missing."""
    pickled = pickled_weights(folder)
    if pickled:
        return f"has its weights only as a pickle ({pickled[0]}), which can run code when it is read"
    return f"has no {expected}"


def check_weights(folder: Path) -> None:
    """Raises CheckpointError unless weights are safetensors only, and an index names only files beside it."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = set(read_json(index).get("weight_map", {}).values())
        strange = sorted(name for name in names if Path(name).name != name or not name.endswith(".safetensors"))
        if strange:
            raise CheckpointError(f"{index} names {strange[0]!r}, which is not a safetensors file beside it")
    elif not (folder / "model.safetensors").is_file():
        hint = "Save the model again with save_pretrained, which writes safetensors."
        if not pickled_weights(folder):
            hint += " Or: --set backbone.random_weights=true"
        raise CheckpointError(f"{folder} {without_weights(folder, 'model.safetensors')}", hint=hint)


def load_exactly(cls: Any, folder: Path, *, gguf_file: str = "", **options: Any) -> Any:
    """`cls.from_pretrained` in float32 on the CPU; raises CheckpointError where the weights do not match the config.

    gguf_file: the name of a GGUF file in the folder, to read instead of its safetensors.
    """
    import torch

    if gguf_file:
        options["gguf_file"] = gguf_file
    else:
        check_weights(folder)
        options["use_safetensors"] = True
    try:
        with offline(), quiet():
            module, report = cls.from_pretrained(
                str(folder),
                local_files_only=True,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
                **options,
            )
    except unreadable() as error:
        raise CheckpointError(f"{folder / gguf_file}: the weights cannot be read: {error}") from error
    wrong = [*report["missing_keys"], *(str(key) for key in report["mismatched_keys"]), *report["unexpected_keys"]]
    wrong = sorted(name for name in wrong if not name.endswith(".position_ids"))
    if wrong:
        raise CheckpointError(
            f"{folder / gguf_file}: the weights do not match the config: {', '.join(wrong[:3])}"
            + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""),
            hint="Is it the config of other weights?",
        )
    return module


def draw_weights(cls: Any, config: Any) -> Any:
    """`cls.from_config` in float32 on the CPU, with weights from torch's global generator.

    A config names the precision in which its weights were saved, often float16; by default transformers would draw and
    train the weights in it.
    """
    import torch

    with quiet():
        return cls.from_config(config, dtype=torch.float32)


@contextmanager
def weightless() -> Iterator[None]:
    """Inside the context, a model is built without memory for its weights, to count them; nothing is drawn or
    downloaded."""
    import torch

    with offline(), torch.random.fork_rng(devices=[]), torch.device("meta"):
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Inside the context, transformers shows neither progress bars nor tables of tensors, which this module reports
    itself."""
    from transformers.utils import logging

    drawn, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if drawn:
            logging.enable_progress_bar()


def refuse_random_weights(source: "Source", options: Mapping[str, Any], facts: Mapping[str, Any], outcome: str) -> None:
    """Raise UsageError for a model that was never trained, unless the options ask for random weights.

    options: the backbone's, as given; facts: the description of the loaded backbone, empty before it is loaded;
    outcome: the consequence of random weights, for the message.
    """
    untrained = bool(source.size) or facts.get("pretrained") is False
    if untrained and options.get("random_weights") is not True:
        raise UsageError(
            f"{source.reference} has random weights: {outcome}",
            hint="Train it first (mmalign train --objective pretrain), or give a model with weights: mmalign list "
            "backbones. To use it nevertheless: --set backbone.random_weights=true.",
        )


_CODE_KEYS = frozenset({"auto_map", "trust_remote_code", "_target_", "custom_pipelines"})


_BUILT_IN_ATTENTION = (None, "eager", "sdpa")


def refuse_code(config: Any, path: Path | str) -> None:
    """Raise CheckpointError where a config, at any depth, names code to run.

    An attention implementation other than the built-in ones is a kernel that transformers would fetch and run.
    """
    for key, where, value in _items(config, ""):
        kernel = "attn_implementation" in key and (key.endswith("_internal") or value not in _BUILT_IN_ATTENTION)
        if key in _CODE_KEYS or kernel:
            raise CheckpointError(
                f"{path} asks for code to be run: {where} = {value!r}",
                hint=f"mmalign runs no code that a model folder names. Remove {key!r} if you trust the weights.",
            )


def _items(node: Any, prefix: str) -> Iterator[tuple[str, str, Any]]:
    """(key, path of the key, value) of every mapping in a parsed JSON document."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            where = f"{prefix}.{key}" if prefix else str(key)
            yield str(key), where, value
            yield from _items(value, where)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _items(value, f"{prefix}[{index}]")


@contextmanager
def offline() -> Iterator[None]:
    """Within, whatever asks the hub's client for a file that is not on this machine fails at once."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model."""
    return (folder / ADAPTER_CONFIG).is_file() and not any((folder / name).is_file() for name in _MODELS)
