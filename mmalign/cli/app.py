"""Shared by all commands: the App object, the options --json and --quiet, and parameter types with completion.

    @click.command()
    @click.option("--objective", type=CatalogName("objectives"))
    @json_option
    @quiet_option
    @pass_app
    def command(app: App, objective: str, as_json: bool) -> int | None:
        entry = app.catalog.find("objectives", objective)

Data goes to stdout, messages to stderr. A command returns None (exit 0) or its exit code, and raises MmalignError.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import click

from mmalign.errors import UsageError, did_you_mean
from mmalign.printable import json_text, printable

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem
    from rich.console import Console

    from mmalign.config.section import Section
    from mmalign.registry.catalog import Catalog
    from mmalign.registry.plugins import PluginHost


class App:
    """One call of the program. Its properties load on first use."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet

    @cached_property
    def host(self) -> "PluginHost":
        """All loaded plugins; prints nothing about plugins that failed."""
        from mmalign.registry.plugins import load_plugins

        return load_plugins()

    @cached_property
    def catalog(self) -> "Catalog":
        """The catalog; prints one line on stderr for each plugin that failed and for each warning."""
        from mmalign.registry.catalog import Catalog

        for record in self.host.records:
            if record.status == "failed":
                self.warn(f"plugin {record.name} failed and is not used: {first_line(record.why)}")
            for warning in record.warnings:
                self.warn(f"plugin {record.name}: {warning}")
        return Catalog(self.host)

    @cached_property
    def console(self) -> "Console":
        """A rich console on stderr for progress; silent with --quiet."""
        from rich.console import Console

        return Console(stderr=True, quiet=self.quiet)

    def say(self, text: str) -> None:
        """Print a message on stderr; nothing with --quiet."""
        if not self.quiet:
            click.echo(printable(text, lines=True), err=True, color=_colour())

    def warn(self, text: str) -> None:
        """Print a warning on stderr, also with --quiet."""
        click.echo(f"warning: {printable(text, lines=True)}", err=True)


pass_app = click.make_pass_decorator(App, ensure=True)


def _set_quiet(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(App).quiet = True


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --json, the argument `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")(function)


def quiet_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --quiet, which sets App.quiet."""
    return click.option(
        "-q",
        "--quiet",
        is_flag=True,
        expose_value=False,
        callback=_set_quiet,
        help="Print no progress and no messages.",
    )(function)


def emit_json(document: dict[str, Any]) -> None:
    """Print one document on stdout, with its schema version."""
    click.echo(json_text({"schema": 1, **document}, indent=2))


def emit(text: str = "") -> None:
    """Print text for people on stdout; terminal commands in it are escaped."""
    click.echo(printable(text, lines=True), color=_colour())


def _colour() -> bool | None:
    """False if NO_COLOR is set; None lets click decide."""
    return False if "NO_COLOR" in os.environ else None


def emit_data(text: str) -> None:
    """Print requested data on stdout: unchanged to a file or a pipe, like `emit` on a terminal."""
    click.echo(printable(text, lines=True) if sys.stdout.isatty() else text)


def first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""


class Choice(click.Choice[str]):
    """One of a few words; the error for another word suggests the closest."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        suggestion = did_you_mean(str(value), map(str, self.choices))
        return f"{value!r} is not one of {', '.join(map(str, self.choices))}. {suggestion}".strip()


class CatalogName(click.ParamType):
    """The name of a catalog entry, with shell completion. The command looks the entry up, not this type."""

    def __init__(self, *kinds: str) -> None:
        self.kinds = kinds
        self.name = kinds[0][:-1] if len(kinds) == 1 else "name"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> "list[CompletionItem]":
        from click.shell_completion import CompletionItem

        from mmalign.registry.catalog import Catalog

        catalog = Catalog(ctx.ensure_object(App).host)
        names = {catalog.display_name(entry): entry.spec.summary for k in self.kinds for entry in catalog.entries(k)}
        return [CompletionItem(name, help=text) for name, text in sorted(names.items()) if name.startswith(incomplete)]


def backbone_settings(sets: Sequence[str], command: str) -> Mapping[str, Any]:
    """The section `backbone` of --set; raises UsageError if --set has another section."""
    if not sets:
        return {}
    return settings_of(sets, command, ("backbone",))["backbone"]


def settings_of(sets: Sequence[str], command: str, sections: Sequence[str]) -> "Mapping[str, Section]":
    """These sections of --set; raises UsageError for another section, and for NAME.name, which has its own option."""
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
