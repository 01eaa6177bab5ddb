"""`mmalign matrix contrastive`: which objective runs on which backbone, or which capabilities are missing."""

from typing import TYPE_CHECKING

import click

from mmalign.cli.app import App, CatalogName, emit, emit_json, json_option, pass_app, quiet_option

if TYPE_CHECKING:
    from mmalign.contract.specs import Entry
    from mmalign.registry.catalog import Catalog


@click.command(
    "matrix", epilog="\b\nExamples:\n  mmalign matrix\n  mmalign matrix contrastive --json\n  mmalign matrix clip-lite"
)
@click.argument("name", required=False, metavar="[OBJECTIVE or BACKBONE]", type=CatalogName("objectives", "backbones"))
@json_option
@quiet_option
@pass_app
def command(app: App, name: str | None, as_json: bool) -> None:
    """Show every backbone family against every objective, or one OBJECTIVE or BACKBONE with the reasons.

    yes: it runs. derived: it runs on values that mmalign computes from the backbone's methods, as on a CLIP through a
    list of candidate texts. no: it does not run.
    """
    from mmalign.cli.table import table
    from mmalign.registry.compat import matrix, suggest

    catalog = app.catalog
    chosen = _find(catalog, name) if name else None
    cells = [cell for cell in matrix(catalog) if chosen is None or chosen in (cell[0], cell[2])]
    if as_json:
        items = [
            {
                "backbone": catalog.display_name(backbone),
                "family": family.name,
                "objective": catalog.display_name(entry),
                "verdict": verdict.word,
                "derived": verdict.derived,
                "missing": sorted(verdict.missing),
                "unread_modalities": sorted(verdict.modalities),
                "unread_kinds": list(verdict.unread),
                "view": verdict.view.name if verdict.view else "",
            }
            for backbone, family, entry, verdict in cells
        ]
        emit_json({"items": items})
    elif chosen is not None:
        of_backbone = chosen.kind == "backbones"
        rows = [
            [
                catalog.display_name(objective if of_backbone else backbone),
                family.name,
                verdict.word,
                f"{verdict.explain()} {suggest(verdict.missing, catalog)}".strip(),
            ]
            for backbone, family, objective, verdict in cells
        ]
        emit(table(["objective" if of_backbone else "backbone", "family", "runs", "why"], rows))
    else:
        objectives = list(dict.fromkeys(catalog.display_name(cell[2]) for cell in cells))
        words = {(cell[0].qualified, cell[1].name, catalog.display_name(cell[2])): cell[3].word for cell in cells}
        pairs = {(cell[0].qualified, cell[1].name): cell[0] for cell in cells}
        rows = [
            [catalog.display_name(entry), key[1], *(words[*key, name] for name in objectives)]
            for key, entry in pairs.items()
        ]
        emit(table(["backbone", "family", *objectives], rows))
        app.say("Reasons: mmalign matrix OBJECTIVE")


def _find(catalog: "Catalog", name: str) -> "Entry":
    """The objective of that name, else the backbone; raises UsageError."""
    return catalog.lookup("objectives", name) or catalog.lookup("backbones", name) or catalog.find("objectives", name)
