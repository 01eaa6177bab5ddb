"""Whose code raised: which plugin, in which file and line.

lines = failure_lines(app, error)          # of an exception that nobody expected
line = ended_by_plugin(app, error)         # of a SystemExit that is none of the program's
"""

import traceback

from mmalign.cli.app import App
from mmalign.errors import Raised, raised_in
from mmalign.registry.plugins import BUILTINS, PluginHost

_WHERE = "MMALIGN_DEBUG=1 shows the whole way there; mmalign doctor says what runs."


def failure_lines(app: App, error: BaseException) -> list[str]:
    """What a user is told."""
    blamed = blame(app.host, error)
    what = f"{type(error).__name__}: {error}"
    if blamed is None:
        return [f"internal error: {what}", f"This is a fault of mmalign, in {raised_in(error)}. {_WHERE}"]
    name, raised = blamed
    if name in BUILTINS:
        return [f"internal error: {name}, a part of mmalign, failed in {raised}: {what}", _WHERE]
    hint = f"Is it the plugin's fault? Try: mmalign plugins check {name}. {_WHERE}"
    return [f"error: plugin {name} failed in {raised}: {what}", hint]


def ended_by_plugin(app: App, error: SystemExit) -> str:
    """What to say where a plugin's code ended the program in a command of ours; its own commands may end it."""
    blamed = blame(app.host, error)
    if blamed is None or blamed[0] in BUILTINS or _runs_own_command(error):
        return ""
    return f"error: plugin {blamed[0]} ended the program in {blamed[1]}: SystemExit: {error.code}"


def blame(host: PluginHost, error: BaseException) -> tuple[str, Raised] | None:
    """(plugin, where): the innermost code of a plugin that an exception passed; a third party's before ours."""
    packages = {}
    for record in host.records:
        module = host.manager.get_plugin(record.name)
        if module is not None:
            packages[module.__name__.partition(".")[0]] = record.name
    ours = {package for package, name in packages.items() if name in BUILTINS}
    raised = raised_in(error, lambda name: name in packages.keys() - ours) or raised_in(error, ours.__contains__)
    return None if raised is None else (packages[raised.package], raised)


def _runs_own_command(error: SystemExit) -> bool:
    """Whether the command, which is what click calls last, is a third party's."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    packages = [str(frame.f_globals.get("__name__", "")).partition(".")[0] for frame in frames]
    calls = [place for place, package in enumerate(packages) if package == "click"]
    return bool(calls) and (packages[calls[-1] + 1 :] or [""])[0] not in ("mmalign", *BUILTINS)
