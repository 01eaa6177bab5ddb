"""`mmalign show contrastive`: one entry of the catalog, of any kind."""

import json
from typing import Any

import click

from mmalign.cli.app import App, CatalogName, emit, emit_json, json_option, pass_app, quiet_option
from mmalign.contract.specs import KINDS, Entry
from mmalign.errors import UsageError, did_you_mean


@click.command("show", epilog="\b\nExamples:\n  mmalign show contrastive\n  mmalign show contrastive --options")
@click.argument("name", type=CatalogName(*KINDS))
@click.option("--options", is_flag=True, help="List its options too (imports its code, which may take seconds).")
@json_option
@quiet_option
@pass_app
def command(app: App, name: str, options: bool, as_json: bool) -> None:
    """Show what NAME, an entry of any kind (`mmalign list KIND`), needs, provides and takes."""
    from mmalign.cli.describe import facts, text

    entries = find_any(app, name)
    tables = [option_rows(app, entry) if options else None for entry in entries]
    if as_json:
        pairs = zip(entries, tables, strict=True)
        emit_json({"name": name, "items": [facts(e) | ({} if t is None else {"options": t}) for e, t in pairs]})
        return
    for entry, entry_options in zip(entries, tables, strict=True):
        emit(text(entry))
        if entry_options is not None:
            emit(_options_text(entry_options))
    if not options:
        app.say(f"Options: mmalign show {name} --options")


def find_any(app: App, name: str) -> list[Entry]:
    """The entries of that bare or qualified name, of all kinds; raises UsageError with the closest names."""
    entries = [entry for kind in KINDS for entry in app.catalog.entries(kind)]
    matches = [entry for entry in entries if entry.is_called(name)]
    if not matches:
        known = [form for entry in entries for form in (entry.spec.name, entry.qualified)]
        raise UsageError(
            f"no entry has the name {name!r}", hint=f"{did_you_mean(name, known)} Try: mmalign list KIND".strip()
        )
    return matches


def option_rows(app: App, entry: Entry) -> list[dict[str, Any]]:
    """The options of an entry's Config; empty if its kind has none, such as commands."""
    if not entry.spec.configurable:
        return []
    from mmalign.config.schema import field_rows

    return field_rows(app.catalog.load_config(entry))


def _default(row: dict[str, Any]) -> Any:
    """The default; a string with line breaks as JSON, because a row of a table is one line."""
    value = "required" if row["required"] else row["default"]
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) and "\n" in value else value


def _options_text(rows: list[dict[str, Any]]) -> str:
    from mmalign.cli.table import table

    if not rows:
        return "\n  no options"
    cells = [["  " + row["key"], row["type"], _default(row), row["description"]] for row in rows]
    return "\n" + table(["  option", "type", "default", "meaning"], cells)
