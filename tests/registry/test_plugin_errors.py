"""What a plugin's code raises names the plugin, the file and the line; what ends the program is no success."""

import pytest

from mmalign.cli import run
from mmalign.contract.examples import Text
from mmalign.data.collate import Encoder
from mmalign.data.loader import Order, Stream, Sweep
from mmalign.errors import DataError, UsageError
from mmalign.registry.plugins import load_plugins

COMMAND = """
import click
from mmalign import CommandSpec, hookimpl

@hookimpl
def register_commands():
    return [CommandSpec(name="odd", summary="s", target="{module}:command")]

@click.command()
def command():
    {body}
"""
EVALUATION = """
import click
from mmalign import EvaluationSpec, hookimpl

@hookimpl
def run_started(run):
    {body}
"""


@pytest.fixture
def odd(install):
    """odd(body): a plugin whose command runs it."""

    def make(body: str) -> None:
        install("odd-plugin", COMMAND.format(module="plug_odd_plugin", body=body))

    return make


@pytest.mark.parametrize("body", ["raise KeyError('x')", "return 1 / 0", "import json; json.loads('{')"])
def test_an_error_names_the_plugin_the_file_and_the_line(odd, capsys, body: str, tmp_path) -> None:
    odd(body)
    assert run(["odd"]) == 1
    err = capsys.readouterr().err
    line = COMMAND.splitlines().index("    {body}") + 1
    assert err.startswith("error: plugin odd-plugin failed in ") and f"plug_odd_plugin.py:{line} (command)" in err
    assert "mmalign plugins check odd-plugin" in err and "Traceback" not in err


def test_the_whole_way_is_shown_on_request(odd, capsys, monkeypatch) -> None:
    monkeypatch.setenv("MMALIGN_DEBUG", "1")
    odd("raise KeyError('x')")
    assert run(["odd"]) == 1 and "Traceback" in capsys.readouterr().err


def test_a_plugins_command_may_end_the_program(odd, capsys) -> None:
    odd("raise SystemExit(7)")
    assert run(["odd"]) == 7 and capsys.readouterr().err == ""


def test_a_plugin_that_ends_the_program_elsewhere_has_failed(install, capsys, monkeypatch) -> None:
    """Nobody asked for exit code 0 while a command of ours was at work."""
    install("leaver", "def leave():\n    raise SystemExit(0)\n")
    import plug_leaver  # type: ignore[import-not-found]

    monkeypatch.setattr("mmalign.cli.list_.emit_json", lambda document: plug_leaver.leave())
    monkeypatch.setattr("mmalign_answers.generate.require_source", lambda *arguments: plug_leaver.leave())
    for command in (["list", "objectives", "--json"], ["generate", "--backbone", "gpt-mini", "Once"]):
        assert run(command) == 1
        err = capsys.readouterr().err
        assert "plugin leaver ended the program in " in err and "plug_leaver.py:2 (leave)" in err


@pytest.mark.parametrize("body", ["raise KeyError('x')", "raise SystemExit(3)"])
def test_a_hook_that_fails_is_told_with_its_line(install, body: str) -> None:
    install("hooked", EVALUATION.format(body=body))
    [warning] = load_plugins().notify("run_started", run=None)
    line = EVALUATION.splitlines().index("    {body}") + 1
    assert "plugin hooked: run_started failed" in warning and f"(plug_hooked.py:{line})" in warning


class Broken:
    """A data set of three examples, the second of which raises."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> object:
        raise self.error


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("make", [Stream, Sweep])
def test_a_data_set_that_raises_names_itself_and_its_line(make, workers: int) -> None:
    encoder = Encoder(None, Text, 0)
    dataset = Broken(KeyError("x"))
    rest = (Order(3, 0), 2) if make is Stream else (2,)
    with pytest.raises(
        DataError, match=r"data set Broken \(of .*test_plugin_errors\), example \d: KeyError: 'x'"
    ) as told:
        next(iter(make(dataset, encoder, *rest, num_workers=workers)))
    assert "test_plugin_errors.py:" in told.value.message
    assert "Traceback" not in told.value.message and told.value.__cause__ is not None


def test_an_error_of_the_project_comes_out_of_a_worker_as_it_is() -> None:
    wrong = UsageError("asked wrongly", hint="Ask rightly.")
    with pytest.raises(UsageError, match=r"^asked wrongly") as told:
        next(Stream(Broken(wrong), Encoder(None, Text, 0), Order(3, 0), 2, num_workers=1))
    assert told.value.hint == "Ask rightly."
