"""Every `mmalign` command that a README shows parses."""

import re
import shlex

import click
import pytest

from mmalign.cli.app import App
from mmalign.cli.root import root
from tests.support.project import ROOT

READMES = [ROOT / "README.md", *sorted(ROOT.glob("examples/*/README.md"))]


def _commands() -> list[str]:
    blocks = [block for path in READMES for block in re.findall(r"```sh\n(.*?)```", path.read_text(), re.S)]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = [match.group(0) for line in lines for match in [re.search(r"mmalign (?!-h).*", line)] if match]
    return [line for line in found if line.split()[1] in root.list_commands(click.Context(root, obj=App()))]


@pytest.mark.parametrize("line", sorted(set(_commands())))
def test_the_command_parses(line: str) -> None:
    name, *rest = shlex.split(line, comments=True)[1:]
    # With the root's settings: click keeps the help option that a command first had, with or without -h, for good.
    with click.Context(root, info_name="mmalign", obj=App(), **root.context_settings) as context:
        command = root.get_command(context, name)
        assert command is not None
        with command.make_context(name, rest, parent=context):  # parses; nothing is run
            pass


def test_there_are_commands_to_check() -> None:
    assert len(_commands()) >= 6
