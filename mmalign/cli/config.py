"""`mmalign config show contrastive` and `mmalign config schema`: every option of a run, for people and for editors."""

from collections.abc import Mapping
from typing import Any

import click

from mmalign.cli.app import App, CatalogName, emit_json, json_option, pass_app, quiet_option
from mmalign.specs import Entry


@click.group("config")
def command() -> None:
    """Print the options of a run: as commented YAML to edit, or as JSON schema for an editor."""


def _choices(function: Any) -> Any:
    for kind in ("dataset", "backbone"):
        option = click.option(f"--{kind}", default=None, type=CatalogName(f"{kind}s"), help=f"Not the default {kind}.")
        function = option(function)
    return function


@command.command(
    "show",
    epilog="\b\nExamples:\n"
    "  mmalign config show contrastive > mine.yaml\n"
    "  mmalign train --objective contrastive -c mine.yaml",
)
@click.argument("objective", type=CatalogName("objectives"))
@_choices
@json_option
@quiet_option
@pass_app
def show(app: App, objective: str, backbone: str | None, dataset: str | None, as_json: bool) -> None:
    """Print every section that OBJECTIVE runs with, as YAML: each option with its meaning, type and value."""
    from mmalign.config.load import load_layers, recipe_path
    from mmalign.config.schema import commented_yaml, field_rows

    entries = find_entries(app, objective, backbone, dataset)
    layers = load_layers(recipe=recipe_path(entries["objective"].spec.name))
    models = section_models(app, entries)
    if as_json:
        sections = {
            where: {"name": entries[where].spec.name if where in entries else None, "options": field_rows(model)}
            for where, model in models.items()
        }
        emit_json({"objective": objective, "sections": sections, "recipe": layers})
        return
    names = {where: app.catalog.display_name(entry) for where, entry in entries.items()}
    names |= {"backbone": backbone or names["backbone"], "dataset": dataset or names["dataset"]}
    parts = [commented_yaml(model, w, name=names.get(w, ""), values=layers[w]) for w, model in models.items()]
    click.echo("\n".join(parts), nl=False)


@command.command("schema", epilog="\b\nExample:\n  mmalign config schema contrastive > schema.json")
@click.argument("objective", required=False, type=CatalogName("objectives"))
@_choices
@json_option
@quiet_option
@pass_app
def schema(app: App, objective: str | None, backbone: str | None, dataset: str | None, as_json: bool) -> None:
    """Print the JSON schema of a config file: with OBJECTIVE all its sections, else what every objective shares."""
    import json

    from mmalign.config.schema import json_schema

    entries = find_entries(app, objective, backbone, dataset) if objective else {}
    document = json_schema(section_models(app, entries))
    # The document is JSON Schema with or without --json; --json adds the envelope that all commands share.
    if as_json:
        emit_json({"objective": objective, "json_schema": document})
    else:
        click.echo(json.dumps(document, indent=2))


def find_entries(app: App, objective: str, backbone: str | None, dataset: str | None) -> dict[str, Entry]:
    """The objective, and the backbone and data set that it takes when a run names none."""
    from mmalign.sources import resolve

    catalog = app.catalog
    chosen = catalog.find("objectives", objective)
    kind = next(iter(chosen.spec.examples["main"]))
    return {
        "objective": chosen,
        "backbone": resolve(backbone, catalog).entry if backbone else catalog.default("backbones", kind),
        "dataset": catalog.find("datasets", dataset) if dataset else catalog.default("datasets", kind),
    }


def section_models(app: App, entries: Mapping[str, Entry]) -> dict[str, Any]:
    """Section -> its pydantic model; imports what is named."""
    from mmalign.train.config import DataConfig, EvaluationConfig, RolloutConfig, TrainConfig

    named = {where: app.catalog.load_config(entry) for where, entry in entries.items()}
    if not entries or entries["objective"].spec.online:
        named["rollout"] = RolloutConfig
    return {**named, "train": TrainConfig, "data": DataConfig, "evaluation": EvaluationConfig}
