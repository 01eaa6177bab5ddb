"""What checks are made of: `Check`, `Skip` for a check that does not apply, and `Workbench` with plugins and models."""

import importlib
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mmalign.contract.specs import Entry, Family
from mmalign.registry.catalog import Catalog
from mmalign.registry.plugins import PluginHost, PluginRecord, load_plugins

_OPEN_CLIP = ("open_clip", {"model_cfg": {"vision_cfg": {}, "text_cfg": {}}})
# The kit's own models (in mmalign.testing.models): the prefix of the format, and the keys of the config that determine
# the family. So checks choose their models before any is written.
TINY_MODELS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "tiny-open-clip": _OPEN_CLIP,
    "tiny-open-clip-bn": _OPEN_CLIP,
    "tiny-siglip-like": _OPEN_CLIP,
    "tiny-transformers-clip": ("hf", {"model_type": "clip", "architectures": ["CLIPModel"]}),
    "tiny-transformers-siglip": ("hf", {"model_type": "siglip", "architectures": ["SiglipModel"]}),
    "tiny-llama": ("hf", {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}),
    "tiny-gpt2": ("hf", {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}),
    "tiny-bloom": ("hf", {"model_type": "bloom", "architectures": ["BloomForCausalLM"]}),
    "tiny-reward-model": (
        "hf",
        {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "LABEL_0"}},
    ),
}


class Skip(Exception):
    """Raised by a check that does not apply; the message says why."""


@dataclass(frozen=True)
class Check:
    """One property to verify. `run` returns on success, and raises AssertionError, Skip or any other error."""

    name: str
    run: Callable[[], None]


class Workbench:
    """The plugins and tiny models that checks share. Models are written once, into a folder that is deleted with this
    object."""

    def __init__(
        self,
        models: Mapping[str, Callable[[Path], Path]],
        datasets: Mapping[str, Mapping[str, Any]],
        rewards: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    ) -> None:
        self.own_models = dict(models)
        self.datasets = dict(datasets)
        self.rewards = dict(rewards)
        self.folder = Path(tempfile.mkdtemp(prefix="mmalign-check-"))
        self._written: dict[str, Path] = {}
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    @cached_property
    def host(self) -> PluginHost:
        return load_plugins()

    @property
    def catalog(self) -> Catalog:
        return Catalog(self.host)

    @property
    def model_names(self) -> list[str]:
        return [*TINY_MODELS, *self.own_models]

    def model_names_for(self, prefixes: Sequence[str]) -> list[str]:
        """The kit's models that a backbone with these prefixes may read, and all models that the plugin brings."""
        return [*(name for name, (prefix, _) in TINY_MODELS.items() if prefix in prefixes), *self.own_models]

    def family(self, name: str) -> tuple[Entry, Family] | None:
        """The backbone and family of a tiny or embedded model, without writing or reading it. None for a model that the
        plugin brings, and for one that no family or several families claim."""
        entries = self.catalog.entries("backbones")
        if name in self.own_models:
            return None
        if name not in TINY_MODELS:
            entry = self.catalog.find("backbones", name)
            return (entry, entry.spec.families[0]) if len(entry.spec.families) == 1 else None
        prefix, config = TINY_MODELS[name]
        able = [entry for entry in entries if prefix in entry.spec.prefixes]
        claims = [(entry, family) for entry in able for family in entry.spec.families if family.matches(config)]
        return claims[0] if len(claims) == 1 else None

    def model(self, name: str) -> Path:
        """The folder of a tiny model, written on first use."""
        if name not in self._written:
            from mmalign.testing import models

            write = self.own_models.get(name) or vars(models)[name.replace("-", "_")]
            self._written[name] = write(self.folder / name)
        return self._written[name]

    def find(self, name: str) -> tuple[PluginRecord, Any]:
        """The record and module of a plugin, by plugin name or module name; an uninstalled module is added as a
        plugin."""
        manager = self.host.manager
        for record in self.host.records:
            module = manager.get_plugin(record.name)
            if name == record.name or (module is not None and name == module.__name__):
                return record, module
        record = self.host.add(name, "module", "", lambda: importlib.import_module(name))
        return record, manager.get_plugin(name)
