"""Finds the plugin, file and line that raised an error.

lines = failure_lines(app, error)          # for an unexpected exception
line = ended_by_plugin(app, error)         # for a SystemExit that mmalign did not raise
"""

import traceback

from mmalign.cli.app import App
from mmalign.errors import Raised, raised_in
from mmalign.registry.plugins import BUILTINS, PluginHost

_WHERE = "MMALIGN_DEBUG=1 shows the traceback; mmalign doctor shows the installed versions."


def failure_lines(app: App, error: BaseException) -> list[str]:
    """The message for the user, in lines."""
    blamed = blame(app.host, error)
    cause = f"{type(error).__name__}: {error}"
    if blamed is None:
        return [f"internal error: {cause}", f"This is a fault of mmalign, in {raised_in(error)}. {_WHERE}"]
    name, raised = blamed
    if name in BUILTINS:
        return [f"internal error: {name}, a part of mmalign, failed in {raised}: {cause}", _WHERE]
    hint = f"Is it the plugin's fault? Try: mmalign plugins check {name}. {_WHERE}"
    return [f"error: plugin {name} failed in {raised}: {cause}", hint]


def ended_by_plugin(app: App, error: SystemExit) -> str:
    """The message if a third party's plugin ended the program in a command of mmalign; else "", as its own commands may
    end the program."""
    blamed = blame(app.host, error)
    if blamed is None or blamed[0] in BUILTINS or _runs_own_command(error):
        return ""
    return f"error: plugin {blamed[0]} ended the program in {blamed[1]}: SystemExit: {error.code}"


def blame(host: PluginHost, error: BaseException) -> tuple[str, Raised] | None:
    """The plugin with the innermost frame of a traceback, and that frame; a third party's plugin goes before ours."""
    packages = {}
    for record in host.records:
        module = host.manager.get_plugin(record.name)
        if module is not None:
            packages[module.__name__.partition(".")[0]] = record.name
    ours = {package for package, name in packages.items() if name in BUILTINS}
    raised = raised_in(error, lambda name: name in packages.keys() - ours) or raised_in(error, ours.__contains__)
    return None if raised is None else (packages[raised.package], raised)


def _runs_own_command(error: SystemExit) -> bool:
    """Whether the command belongs to a third party: it is in the frame that follows click's last one."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    packages = [str(frame.f_globals.get("__name__", "")).partition(".")[0] for frame in frames]
    calls = [index for index, package in enumerate(packages) if package == "click"]
    return bool(calls) and (packages[calls[-1] + 1 :] or [""])[0] not in ("mmalign", *BUILTINS)
