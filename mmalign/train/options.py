"""The options of a new run: the packaged recipe if it fits, then files, then --set and the name flags.

    layers, notes = run_layers(catalog, {"objective": "dpo", "dataset": "pairs.jsonl"}, files=(), sets=())
    plan = make_plan(catalog, layers)                 # what `mmalign train` does, and `mmalign config show` prints

A recipe is tuned to one model and one data set. With others it is left out as a whole, and a note says so. Where a
packaged recipe is among the files, it stands in the place of the objective's.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmalign.config.section import Section
from mmalign.registry.catalog import Catalog
from mmalign.train.layers import is_packaged, load_layers, recipe_path

_TUNED = ("backbone", "dataset")


def run_layers(
    catalog: Catalog, names: Mapping[str, str], files: Sequence[Path] = (), sets: Sequence[str] = ()
) -> tuple[dict[str, Section], list[str]]:
    """(section -> options, sentences on what was left out); raises UsageError. names: the flags, by section."""
    layers = load_layers(files=files, sets=sets, names=names)
    objective, notes = layers["objective"].get("name"), []
    if objective:
        catalog.find("objectives", objective)  # before recipe_of, which finds the files of pipelines too
    recipe = recipe_of(objective) if objective and not any(map(is_packaged, files)) else None
    if recipe is not None:
        note = _left_out(layers, recipe)
        if note:
            notes.append(note)
        else:
            layers = load_layers(recipe=recipe, files=files, sets=sets, names=names)
    for name, section in layers.items():
        if section.dropped:
            options = ", ".join(f"{name}.{key} ({origin})" for key, origin in section.dropped.items())
            notes.append(f"not used, because they were set for another {name}: {options}; set them again with --set")
    return layers, notes


def recipe_of(objective: str) -> Path | None:
    """The packaged recipe of an objective, by its name or PLUGIN/NAME."""
    return recipe_path(objective.rpartition("/")[2])


def _left_out(layers: Mapping[str, Section], recipe: Path) -> str:
    """Why the recipe does not fit, or an empty text."""
    tuned = load_layers(files=[recipe])
    asked = {section: str(layers[section].get("name") or "") for section in _TUNED}
    others = {section: name for section, name in asked.items() if name and name != tuned[section].get("name")}
    if not others:
        return ""
    whose = " and ".join(str(tuned[section].get("name")) for section in _TUNED)
    return f"the packaged recipe {recipe.name} is tuned to {whose}, so it is left out: options have their defaults"
