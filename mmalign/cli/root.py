"""The root of the command line: the commands of the core and of plugins, each imported when it is called."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from mmalign.cli.app import App, quiet_option
from mmalign.errors import MmalignError, UsageError, did_you_mean
from mmalign.version import __version__

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from mmalign.contract.specs import CommandSpec

# group -> name -> (module:attribute of a click command, its summary)
BUILT_IN: dict[str, dict[str, tuple[str, str]]] = {
    "Use": {
        "train": ("mmalign.cli.train:command", "Train or align a model with any objective."),
    },
    "Look up": {
        "list": ("mmalign.cli.list_:command", "List backbones, objectives, datasets and the rest."),
        "show": ("mmalign.cli.show:command", "Show what one of them needs, provides and takes."),
        "matrix": ("mmalign.cli.matrix:command", "Show which objective runs on which backbone."),
        "config": ("mmalign.cli.config:command", "Print every option as commented YAML, or the JSON schema."),
    },
    "Look after": {
        "plugins": ("mmalign.cli.plugins:command", "List, check and disable plugins."),
        "doctor": ("mmalign.cli.doctor:command", "Check this installation: versions, devices, disk, plugins."),
        "completion": ("mmalign.cli.completion:command", "Print the completion script for your shell."),
    },
}
COMMANDS = {name: entry for group in BUILT_IN.values() for name, entry in group.items()}
_FIRST = ("generate", "score", "evaluate")  # commands of plugins that help shows before the core's own

_EPILOG = """\b
Examples:
  mmalign zero-shot --labels "a photo of a <object>" photo.jpg
  mmalign train --objective contrastive --dry-run
  mmalign matrix contrastive

\b
Exit codes: 0 ok, 1 failed, 2 wrong usage, 3 no usable data, 4 a loss, reward or
  figure became NaN or infinite, 130 stopped by Ctrl-C, 143 by SIGTERM.
Environment: MMALIGN_LOAD_PLUGINS, MMALIGN_DISABLE_PLUGINS (names, by comma),
  MMALIGN_DEBUG=1 (tracebacks), NO_COLOR."""


class Root(click.Group):
    """Commands by name, imported when they are called. If a plugin's command has the name of a core command, the core's
    is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for names in self._by_group(ctx).values() for name in names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            module, _, attribute = COMMANDS[cmd_name][0].partition(":")
            return vars(import_module(module))[attribute]
        catalog = ctx.ensure_object(App).catalog
        if not any(entry.is_called(cmd_name) for entry in catalog.entries("commands")):
            return None
        command = catalog.load(catalog.find("commands", cmd_name))
        if not isinstance(command, click.Command):
            raise MmalignError(f"command {cmd_name}: its target is {type(command).__name__}, not a click command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            near = did_you_mean(args[0], self.list_commands(ctx))
            raise UsageError(f"unknown command {args[0]!r}", hint=f"{near} Try: mmalign --help".strip())
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in self._by_group(ctx).items():
            with formatter.section(title):
                formatter.write_dl(list(names.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            return click.Command.shell_complete(self, ctx, incomplete)
        texts = [item for names in self._by_group(ctx).values() for item in names.items()]
        return [CompletionItem(name, help=text) for name, text in texts if name.startswith(incomplete)]

    def _by_group(self, ctx: click.Context) -> dict[str, dict[str, str]]:
        """Heading -> name -> summary, as `mmalign --help` shows them."""
        groups = {title: {name: text for name, (_, text) in names.items()} for title, names in BUILT_IN.items()}
        for name, spec in self._from_plugins(ctx).items():
            groups.setdefault(spec.group, {})[name] = spec.summary
        return {title: dict(sorted(names.items(), key=lambda item: _rank(item[0]))) for title, names in groups.items()}

    def _from_plugins(self, ctx: click.Context) -> "dict[str, CommandSpec]":
        catalog = ctx.ensure_object(App).catalog
        return {
            entry.qualified if entry.spec.name in COMMANDS else catalog.display_name(entry): entry.spec
            for entry in catalog.entries("commands")
        }


def _rank(name: str) -> int:
    return _FIRST.index(name) if name in _FIRST else len(_FIRST)


def _print_version(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"mmalign {__version__}")
        ctx.exit()


@click.group(
    cls=Root,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)
@quiet_option
def root() -> None:
    """Train, align and use CLIP encoders and GPT-style language models through one plugin registry."""
