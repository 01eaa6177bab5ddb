"""The command line: `mmalign COMMAND`, or `run(["list", "objectives"])` in a program. Every command loads on use."""

import io
import os
import sys
from collections.abc import Sequence

import click

from mmalign.errors import EXIT_FAILED, MmalignError
from mmalign.printable import printable
from mmalign.train.signals import Interrupted, exit_code, interruption_behind

EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 130, 141


def run(argv: Sequence[str]) -> int:
    """Run one command and return its exit code. Errors go to stderr, with a traceback only if MMALIGN_DEBUG is set."""
    try:
        code = _invoke(list(argv))
        sys.stdout.flush()
        return code
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        _tell(shown.getvalue().removesuffix("\n"))
        return error.exit_code
    except Interrupted as interruption:
        return exit_code(interruption)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader went away (`mmalign list objectives | head -1`); keep Python's own flush at exit quiet too.
        if sys.stdout is sys.__stdout__:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_BROKEN_PIPE
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else EXIT_FAILED if error.code else 0
    except Exception as error:
        interruption = interruption_behind(error)
        return _report(error) if interruption is None else exit_code(interruption)


def _invoke(argv: list[str]) -> int:
    from mmalign.cli.app import App
    from mmalign.cli.root import root

    app = App()
    instruction = os.environ.get("_MMALIGN_COMPLETE")
    if instruction:
        from click.shell_completion import shell_complete

        return shell_complete(root, {"obj": app}, "mmalign", "_MMALIGN_COMPLETE", instruction)
    try:
        with root.make_context("mmalign", argv, obj=app) as context:
            result = root.invoke(context)
    except click.exceptions.Exit as done:
        return done.exit_code
    return result if isinstance(result, int) else 0


def _report(error: Exception) -> int:
    if os.environ.get("MMALIGN_DEBUG"):
        import traceback

        traceback.print_exception(error)
    if isinstance(error, MmalignError):
        _tell(f"error: {error.message}")
        if error.hint:
            _tell(error.hint)
        return error.exit_code
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        _tell(f"error: {where}{error.strerror}")
        return EXIT_FAILED
    _tell(f"internal error: {type(error).__name__}: {error}")
    click.echo(
        "This is a fault of mmalign or of a plugin. MMALIGN_DEBUG=1 shows where; mmalign doctor says what runs.",
        err=True,
    )
    return EXIT_FAILED


def _tell(text: str) -> None:
    """On stderr; an error may quote data, a file name or a plugin."""
    click.echo(printable(text, lines=True), err=True)
