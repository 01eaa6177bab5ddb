"""`mmalign list` and `mmalign list objectives`: the entries of the core and the plugins, from specs alone."""

from typing import Any

import click

from mmalign.cli.app import App, Choice, emit, emit_json, json_option, pass_app, quiet_option
from mmalign.contract.specs import KINDS

_KINDS = tuple(kind for kind in KINDS if kind != "commands")  # `mmalign --help` lists those


class _Kind(Choice):
    """A kind in the plural or the singular: `objectives`, `objective`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return super().convert(f"{value}s" if f"{value}s" in _KINDS else value, param, ctx)


@click.command(
    "list",
    help=f"""Print all entries of one KIND: {", ".join(_KINDS[:-1])} or {_KINDS[-1]}.

    Without KIND, print the names of all kinds.
    """,
    epilog="\b\nExamples:\n  mmalign list\n  mmalign list objectives\n  mmalign list backbones --json",
)
@click.argument("kind", type=_Kind(_KINDS), required=False, metavar="[KIND]")
@json_option
@quiet_option
@pass_app
def command(app: App, kind: str | None, as_json: bool) -> None:
    from mmalign.cli.describe import facts
    from mmalign.cli.table import table

    catalog = app.catalog
    if kind is None:
        _all_kinds(app, as_json)
        return
    entries = catalog.entries(kind)
    if as_json:
        items: list[dict[str, Any]] = [{"name": catalog.display_name(entry), **facts(entry)} for entry in entries]
        emit_json({"kind": kind, "items": items})
    elif entries:
        rows = [[catalog.display_name(e), e.plugin, e.spec.headline(), e.spec.summary] for e in entries]
        emit(table(["name", "plugin", "takes", "summary"], rows))
    else:
        app.say(f"No plugin offers {kind} yet.")


def _all_kinds(app: App, as_json: bool) -> None:
    """Print each kind with the number and the names of its entries."""
    from mmalign.cli.table import table

    catalog = app.catalog
    names = {kind: [catalog.display_name(entry) for entry in catalog.entries(kind)] for kind in _KINDS}
    if as_json:
        emit_json({"kinds": names})
        return
    emit(
        table(["kind", "number", "names"], [[kind, len(each), ", ".join(each) or "-"] for kind, each in names.items()])
    )
    app.say("Entries of one kind: mmalign list KIND; all facts of one entry: mmalign show NAME")
