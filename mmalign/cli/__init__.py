"""The command line: `mmalign COMMAND`, or `run(["list", "objectives"])` in a program. Commands are imported on use."""

import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from mmalign.errors import EXIT_FAILED, MmalignError
from mmalign.printable import printable
from mmalign.stop import Interrupted, exit_code, interruption_behind

if TYPE_CHECKING:
    from mmalign.cli.app import App

EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 130, 141


def run(argv: Sequence[str]) -> int:
    """Run one command and return its exit code. Errors go to stderr, with a traceback if MMALIGN_DEBUG is set."""
    from mmalign.cli.app import App

    app = App()
    try:
        code = _invoke(list(argv), app)
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
        # The reader closed the pipe (`mmalign list objectives | head -1`); stdout becomes /dev/null, so that Python's
        # flush at exit does not fail too.
        if sys.stdout is sys.__stdout__:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_BROKEN_PIPE
    except SystemExit as error:
        return _exit(error, app)
    except Exception as error:
        interruption = interruption_behind(error)
        return _report(error, app) if interruption is None else exit_code(interruption)


def _invoke(argv: list[str], app: "App") -> int:
    from mmalign.cli.root import root

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


def _report(error: Exception, app: "App") -> int:
    if os.environ.get("MMALIGN_DEBUG"):
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
    from mmalign.cli.failures import failure_lines

    for line in failure_lines(app, error):
        _tell(line)
    return EXIT_FAILED


def _exit(error: SystemExit, app: "App") -> int:
    from mmalign.cli.failures import ended_by_plugin

    if "host" in vars(app) and (message := ended_by_plugin(app, error)):
        _tell(message)
        return EXIT_FAILED
    return error.code if isinstance(error.code, int) else EXIT_FAILED if error.code else 0


def _tell(text: str) -> None:
    """Print on stderr, with unsafe characters escaped: an error may quote data, a file name or a plugin."""
    click.echo(printable(text, lines=True), err=True)
