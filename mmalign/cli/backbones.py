"""What commands that use one backbone share: its source checked against what they need, and its `--set` options."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmalign.errors import UsageError

if TYPE_CHECKING:
    from mmalign.cli.app import App
    from mmalign.config.section import Section
    from mmalign.contract.evaluation import Runtime
    from mmalign.contract.source import Source
    from mmalign.registry.catalog import Catalog


def require_source(catalog: "Catalog", reference: str, needs: Sequence[str], command: str) -> "Source":
    """The backbone's source; raises IncompatibleError where its family lacks what the command needs."""
    from mmalign.models.references import resolve
    from mmalign.registry.compat import require_needs

    source = resolve(reference, catalog)
    require_needs(command, needs, source.family, reference, catalog)
    return source


def load_backbone(
    app: "App", source: "Source", settings: Mapping[str, Any], runtime: "Runtime", *, if_random: str = ""
) -> Any:
    """The model on its device, with a word on what is not plain of it; raises UsageError for wrong options, and what
    its loader raises. if_random: what comes of random weights, where the command refuses them unless asked for."""
    from mmalign.config.validate import build
    from mmalign.models.folder import refuse_random_weights

    if if_random:
        refuse_random_weights(source, settings, {}, if_random)
    backbone_class = app.catalog.load(source.entry)
    hint = f"All options: mmalign show {source.entry.spec.name} --options"
    backbone = backbone_class.load(source, build(backbone_class.Config, settings, "backbone", hint=hint))
    if if_random:
        refuse_random_weights(source, settings, backbone.describe(), if_random)
    backbone.module.to(runtime.device)
    for note in filter(None, (source.note, backbone.describe().get("note"))):
        app.say(note)
    return backbone


def backbone_settings(sets: Sequence[str], command: str) -> Mapping[str, Any]:
    """The section `backbone` of --set; raises UsageError for any other."""
    return settings_of(sets, command, ("backbone",))["backbone"]


def settings_of(sets: Sequence[str], command: str, sections: Sequence[str]) -> "Mapping[str, Section]":
    """Some sections of --set; raises UsageError for any other, and for a name, which has a flag of its own."""
    from mmalign.train.layers import load_layers

    layers = load_layers(sets=sets)
    others = [f"section {name}" for name, section in layers.items() if section and name not in sections]
    named = [f"{name}.name" for name in sections if "name" in layers[name]]
    if others or named:
        keys = " or ".join(f"{name}.key=value" for name in sections)
        raise UsageError(
            f"{command} takes no {(others or named)[0]} in --set", hint=f"Use --backbone MODEL, and --set {keys}."
        )
    return {name: layers[name] for name in sections}
