"""`mmalign list objectives`: what the core and the plugins offer, from specs alone."""

from typing import Any

import click

from mmalign.cli.app import App, Choice, emit_json, json_option, pass_app, quiet_option

_KINDS = ("backbones", "objectives", "datasets", "rewards", "environments", "engines", "evaluations")


@click.command(
    "list",
    epilog="\b\nExamples:\n  mmalign list objectives\n  mmalign list backbones --json",
)
@click.argument("kind", type=Choice(_KINDS), metavar="KIND")
@json_option
@quiet_option
@pass_app
def command(app: App, kind: str, as_json: bool) -> None:
    """Print every one of a KIND: backbones, objectives, datasets, rewards, environments, engines or evaluations."""
    from mmalign.cli.describe import facts, headline
    from mmalign.cli.table import table

    catalog = app.catalog
    entries = catalog.entries(kind)
    if as_json:
        items: list[dict[str, Any]] = [{"name": catalog.display_name(entry), **facts(entry)} for entry in entries]
        emit_json({"kind": kind, "items": items})
    elif entries:
        rows = [[catalog.display_name(e), e.plugin, headline(e), e.spec.summary] for e in entries]
        click.echo(table(["name", "plugin", "takes", "summary"], rows))
    else:
        app.say(f"No plugin offers {kind} yet.")
