"""`mmalign plugins new|list|show|check|disable|enable`: these work with broken plugins, and the last two even with a
plugin that hangs on import."""

import importlib.metadata
import os
from collections import Counter
from pathlib import Path
from typing import Any

import click

from mmalign.cli.app import App, emit, emit_json, first_line, json_option, pass_app, quiet_option
from mmalign.errors import EXIT_FAILED, UsageError, did_you_mean
from mmalign.registry.plugins import BUILTINS, ENTRY_POINT_GROUP, disabled_plugins, set_disabled


@click.group("plugins")
def command() -> None:
    """Write, list, show, check, disable and enable plugins. Installing a plugin is trusting it: its code runs here."""


@command.command("new", epilog="\b\nExample:\n  mmalign plugins new my-plugin")
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path), metavar="FOLDER", help="A new folder for it. Default: NAME.")
@json_option
@quiet_option
@pass_app
def new(app: App, name: str, out: Path | None, as_json: bool) -> None:
    """Write a plugin to start from: an objective, a data set and a reward that work, and their tests."""
    from mmalign.cli.new_plugin import check_name, next_commands, write_plugin

    check_name(name, app.host)
    folder = Path(name) if out is None else out.expanduser()
    files, commands = write_plugin(name, folder), next_commands(name, folder)
    if as_json:
        emit_json({"plugin": name, "folder": str(folder), "files": [str(file) for file in files], "next": commands})
        return
    for file in files:
        emit(str(file))
    app.say("\n".join(["next:", *(f"  {command}" for command in commands)]))


@command.command("list", epilog="\b\nExample:\n  mmalign plugins list --json")
@json_option
@quiet_option
@pass_app
def list_(app: App, as_json: bool) -> None:
    """List all plugins, built-in and installed: status and why, contributions, import time."""
    from mmalign.cli.table import table

    records = app.host.records
    if as_json:
        emit_json({"plugins": [record.as_dict() for record in records]})
        return
    rows = []
    for record in records:
        counts = Counter(entry.spec.noun for entry in record.entries)
        offers = ", ".join(f"{count} {noun}{'s' if count > 1 else ''}" for noun, count in counts.items())
        notes = "; ".join(note for note in (offers, first_line(record.why), *record.warnings) if note)
        took = f"{record.import_seconds * 1000:.0f} ms"
        rows.append([record.name, record.version or "-", record.status, took, record.source, notes])
    emit(table(["name", "version", "status", "import", "source", "offers or fails with"], rows))


@command.command("show", epilog="\b\nExample:\n  mmalign plugins show mmalign_clip")
@click.argument("name")
@json_option
@quiet_option
@pass_app
def show(app: App, name: str, as_json: bool) -> None:
    """Show one plugin and everything that it contributes."""
    record = app.host.record(name)
    if as_json:
        emit_json({"plugin": record.as_dict()})
        return
    emit(f"{record.name} {record.version}".rstrip())
    emit(f"  source: {record.source}\n  status: {record.status}{f', {record.why}' if record.why else ''}")
    for warning in record.warnings:
        emit(f"  warning: {warning}")
    for entry in record.entries:
        emit(f"  {entry.spec.noun} {entry.spec.name}: {entry.spec.summary}")


@command.command("check", epilog="\b\nExample:\n  mmalign plugins check my-plugin")
@click.argument("name")
@json_option
@quiet_option
@pass_app
def check(app: App, name: str, as_json: bool) -> int:
    """Run the conformance checks on the plugin or module NAME; exit 1 if one fails."""
    from mmalign.cli.table import table
    from mmalign.testing.runner import run_checks

    # The libraries that write the tiny models draw progress bars.
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    results = []
    for result in run_checks(name):
        results.append(result)
        app.say(f"{result.outcome:5} {result.name} ({result.seconds:.1f} s)")
    counts = {word: sum(result.outcome == word for result in results) for word in ("pass", "fail", "xfail", "skip")}
    if as_json:
        emit_json({"plugin": name, "counts": counts, "checks": [vars(result) for result in results]})
    else:
        emit(table(["check", "result", "why"], [[r.name, r.outcome, first_line(r.why)] for r in results]))
        emit(", ".join(f"{count} {word}" for word, count in counts.items() if count))
    return EXIT_FAILED if counts["fail"] else 0


@command.command("disable", epilog="\b\nExample:\n  mmalign plugins disable my-plugin")
@click.argument("name")
@json_option
@quiet_option
@pass_app
def disable(app: App, name: str, as_json: bool) -> None:
    """Disable a plugin: it is no longer loaded. Does not import it."""
    _switch(app, name, True, as_json)


@command.command("enable", epilog="\b\nExample:\n  mmalign plugins enable my-plugin")
@click.argument("name")
@json_option
@quiet_option
@pass_app
def enable(app: App, name: str, as_json: bool) -> None:
    """Enable a disabled plugin."""
    _switch(app, name, False, as_json)


def _switch(app: App, name: str, off: bool, as_json: bool) -> None:
    # Names come from the installed metadata, so that a plugin that hangs on import can be disabled.
    installed = {point.name for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)}
    if name in BUILTINS:
        raise UsageError(f"{name} is built in and always enabled", hint="Only third-party plugins can be disabled.")
    if name not in installed and (off or name not in disabled_plugins()):
        hint = f"{did_you_mean(name, installed)} Try: mmalign plugins list".strip()
        raise UsageError(f"no plugin {name!r} is installed", hint=hint)
    set_disabled(name, off)
    still_off = name in disabled_plugins()
    if as_json:
        state: dict[str, Any] = {"plugin": name, "disabled": still_off}
        emit_json(state)
    else:
        emit(f"{name} is {'disabled' if still_off else 'enabled'}")
    if still_off and not off:
        app.warn("MMALIGN_DISABLE_PLUGINS in the environment still disables it")
