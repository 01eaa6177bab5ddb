"""What a terminal would obey is shown and not sent, wherever text of data, files and plugins comes to it."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from mmalign.cli import run
from mmalign.cli.app import App, emit, emit_data, emit_json
from mmalign.cli.table import table
from mmalign.errors import MmalignError
from mmalign.printable import Printable, json_text, printable
from tests.support.hostile_text import ESC, EVIL, obeyed

Capture = pytest.CaptureFixture[str]


def test_every_unsafe_character_is_escaped_and_every_other_one_is_left() -> None:
    """Of the first plane all, where the unsafe ones are, and a sample of the others."""
    for code in (*range(0x11000), *range(0x11000, sys.maxunicode, 97)):
        c = chr(code)
        expected = c.encode("unicode_escape").decode() if obeyed(c) else c
        assert printable(c, lines=True) == expected, hex(code)
    assert printable("a\tb\nc") == r"a\tb\nc" and printable("a\tb\nc", lines=True) == "a\tb\nc"
    assert printable("👩\u200d🚀 ש\u200f 日本\u3000語") == "👩\u200d🚀 ש\u200f 日本\u3000語"
    assert printable(Printable(f"{ESC}[32mgreen")) == f"{ESC}[32mgreen", "our own colours"


@pytest.mark.parametrize("text", [EVIL, "\ud83d", "ok é", "\u202e"])
def test_json_keeps_the_content(text: str) -> None:
    line = json_text({"text": text})
    assert not obeyed(line) and json.loads(line) == {"text": text}


def _raise(text: str) -> None:
    raise MmalignError(f"no {text}", hint=f"try {text}")


def _bug(text: str) -> None:
    raise ZeroDivisionError(text)


def _click(text: str) -> None:
    raise click.UsageError(text)


WAYS: dict[str, Callable[[str], object]] = {
    "say": lambda text: App().say(text),
    "warn": lambda text: App().warn(text),
    "emit": emit,
    "table": lambda text: emit(table(["name"], [[text]])),
    "json": lambda text: emit_json({"text": text}),
    "error": _raise,
    "internal error": _bug,
    "usage error": _click,
}


@pytest.mark.parametrize("way", WAYS)
def test_no_way_to_the_terminal_sends_them(way: str, monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> None:
    """Asked to keep colours, as on a terminal: click takes escapes out of what goes elsewhere."""
    monkeypatch.setattr(click.utils, "should_strip_ansi", lambda *arguments: False)
    monkeypatch.setattr("mmalign.cli._invoke", lambda *arguments: WAYS[way](EVIL) or 0)
    run([])
    captured = capfd.readouterr()
    shown = captured.out + captured.err
    assert "red" in shown and "end" in shown and not obeyed(shown), repr(shown)


def test_what_was_asked_for_is_exact_in_a_pipe_alone(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(click.utils, "should_strip_ansi", lambda *arguments: False)
    emit_data(EVIL)
    assert capsys.readouterr().out == f"{EVIL}\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    emit_data(EVIL)
    assert not obeyed(capsys.readouterr().out)


def test_names_of_files_and_options_of_the_user_are_shown(tmp_path: Path, capsys: Capture) -> None:
    assert run(["list", f"obj{ESC}[2J"]) == 2
    assert run(["train", "--objective", "contrastive", "--backbone", f"./{EVIL}"]) == 2
    assert not obeyed(capsys.readouterr().err)
