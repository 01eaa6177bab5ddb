"""`mmalign config show contrastive`, `config schema` and `config recipes`: every option of a run, for people and for
editors, and the packaged recipes."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from mmalign.cli.app import App, CatalogName, emit, emit_json, json_option, pass_app, quiet_option
from mmalign.config.section import FIXED_SECTIONS, NAMED_SECTIONS, OPEN_SECTIONS, section_model
from mmalign.contract.specs import Entry


@click.group("config")
def command() -> None:
    """Print the options of a run, as commented YAML to edit or as JSON schema for an editor; or list the recipes."""


def _choices(function: Any) -> Any:
    for kind in ("dataset", "backbone"):
        option = click.option(f"--{kind}", default=None, type=CatalogName(f"{kind}s"), help=f"Not the default {kind}.")
        function = option(function)
    return function


@command.command(
    "show",
    epilog="\b\nExamples:\n"
    "  mmalign config show contrastive > mine.yaml\n"
    "  mmalign train --objective contrastive -c mine.yaml\n"
    "  mmalign config show dpo --backbone ./SmolLM2-135M --dataset pairs.jsonl",
)
@click.argument("objective", type=CatalogName("objectives"))
@click.option("--backbone", metavar="MODEL", help="As in train; with another than the recipe's, defaults are shown.")
@click.option("--dataset", metavar="DATA", help="As in train; with another than the recipe's, defaults are shown.")
@click.option(
    "-c",
    "--config",
    "configs",
    multiple=True,
    type=click.Path(path_type=Path),
    help="YAML file, or a packaged recipe's name; repeatable.",
)
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="One option, as in train; repeatable.")
@json_option
@quiet_option
@pass_app
def show(
    app: App,
    objective: str,
    backbone: str | None,
    dataset: str | None,
    configs: tuple[Path, ...],
    sets: tuple[str, ...],
    as_json: bool,
) -> None:
    """Print what `mmalign train` with the same options would run with, as YAML: each option with its meaning, type and
    value."""
    from mmalign.config.schema import field_rows
    from mmalign.train.options import recipe_of, run_layers
    from mmalign.train.plan import make_plan

    asked = {"objective": objective, "backbone": backbone, "dataset": dataset}
    layers, notes = run_layers(app.catalog, {k: v for k, v in asked.items() if v is not None}, configs, sets)
    plan = make_plan(app.catalog, layers)
    entries = {
        "objective": plan.objective,
        "backbone": plan.source.entry,
        "dataset": plan.dataset,
        "optimizer": plan.optimizer,
    }
    models = section_models(app, entries)
    if as_json:
        names = {where: entry.spec.name for where, entry in entries.items()}
        sections = {where: {"name": names.get(where), "options": field_rows(model)} for where, model in models.items()}
        emit_json(
            {
                "objective": objective,
                "sections": sections,
                "recipe": layers,
                "values": plan.to_dict(),
                "reasons": dict(plan.reasons),
            }
        )
        return
    for note in notes:
        app.say(note)
    recipe = recipe_of(objective)
    own = backbone is None and dataset is None and not configs
    click.echo("\n".join([_heading(objective, recipe.name if recipe else "", own), *_sections(plan, models)]), nl=False)


def _heading(objective: str, recipe: str, own: bool) -> str:
    if not own:
        return f"# {objective} on the model and data named; mmalign train with the same options runs with these.\n"
    what = f"the packaged recipe {recipe}, tuned to its own model and data" if recipe else "defaults: it has no recipe"
    return f"# {objective}: {what}.\n# On yours: mmalign config show {objective} --backbone MODEL --dataset DATA\n"


def _sections(plan: Any, models: Mapping[str, Any]) -> list[str]:
    """Each as commented YAML, of a `mmalign.train.plan.Plan`."""
    import yaml

    from mmalign.config.schema import commented_yaml

    values = plan.to_dict()
    sections = []
    for where, model in models.items():
        reasons = plan.reasons if where == "train" else {}
        name = values[where].get("name", "") if where in NAMED_SECTIONS else ""
        sections.append(commented_yaml(model, where, name=name, values=values[where], reasons=reasons))
    named = {name: values[name] for name in OPEN_SECTIONS if name in values}
    return [*sections, *([yaml.safe_dump(named, sort_keys=False, allow_unicode=True)] if named else [])]


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


@command.command("recipes", epilog="\b\nExample:\n  mmalign config recipes\n  mmalign train -c pasted-objects")
@json_option
@quiet_option
@pass_app
def recipes(app: App, as_json: bool) -> None:
    """Print the packaged recipes: the command that runs each, and what it teaches."""
    from mmalign.cli.table import table
    from mmalign.train.layers import packaged_recipes

    items = [{"name": path.stem, **_told(path.read_text(encoding="utf-8"))} for path in packaged_recipes()]
    if as_json:
        emit_json({"recipes": items})
    else:
        emit(table(["name", "command", "summary"], [list(item.values()) for item in items]))


def _told(recipe: str) -> dict[str, str]:
    """The command and the first clause of a recipe's opening comment."""
    lines = [line.removeprefix("#").strip() for line in recipe.splitlines()]
    end = next(number for number, line in enumerate(recipe.splitlines()) if not line.startswith("#"))
    return {"command": lines[0], "summary": re.split(r"[.:] ", " ".join(lines[1:end]))[0].rstrip(".")}


def find_entries(app: App, objective: str, backbone: str | None, dataset: str | None) -> dict[str, Entry]:
    """The objective, and the backbone and data set that it takes when a run names none."""
    from mmalign.data.find import find_dataset
    from mmalign.models.references import find_source
    from mmalign.train.plan import DEFAULT_OPTIMIZER

    catalog = app.catalog
    chosen = catalog.find("objectives", objective)
    kind = next(iter(chosen.spec.examples["main"]))
    return {
        "objective": chosen,
        "backbone": find_source(backbone, catalog).entry if backbone else catalog.default("backbones", kind),
        "dataset": find_dataset(catalog, dataset, chosen.spec.examples["main"], {})[0],
        "optimizer": catalog.find("optimizers", DEFAULT_OPTIMIZER),
    }


def section_models(app: App, entries: Mapping[str, Entry]) -> dict[str, Any]:
    """Section -> its pydantic model; imports what is named."""
    named = {where: app.catalog.load_config(entry) for where, entry in entries.items()}
    feeds = not entries or entries["objective"].spec.online
    return named | {name: section_model(name) for name in FIXED_SECTIONS if feeds or name != "rollout"}
