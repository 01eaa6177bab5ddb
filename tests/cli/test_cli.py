"""The command line in-process: documents, exit codes, help, completion, redaction."""

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from mmalign import __version__
from mmalign.cli import run
from mmalign.cli.app import App
from mmalign.cli.root import COMMANDS, root
from mmalign.cli.table import table
from mmalign.errors import DataError, IncompatibleError, NonFiniteError, UsageError

Capture = pytest.CaptureFixture[str]


def leaves() -> list[list[str]]:
    """Every command as its words, groups opened."""
    context = click.Context(root, info_name="mmalign", obj=App())
    found = []
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        if isinstance(command, click.Group):
            found += [[name, sub] for sub in command.commands]
        else:
            found.append([name])
    return found


@pytest.mark.parametrize("words", [[], ["plugins"], ["config"], *leaves()], ids=" ".join)
def test_help_is_short_and_has_examples(words: list[str], capsys: Capture) -> None:
    assert run([*words, "-h"]) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) <= 40
    assert "mmalign" in text
    assert "Example" in text or words in (["plugins"], ["config"]) or "Install it" in text


@pytest.mark.parametrize("words", leaves(), ids=" ".join)
def test_every_command_has_json(words: list[str], capsys: Capture) -> None:
    assert run([*words, "--help"]) == 0
    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        (["list"], {"kinds"}),
        (["list", "objectives"], {"kind", "items"}),
        (["list", "objective"], {"kind", "items"}),
        (["list", "rewards"], {"kind", "items"}),
        (["show", "contrastive", "--options"], {"name", "items"}),
        (["show", "clip-lite"], {"name", "items"}),
        (["matrix"], {"items"}),
        (["matrix", "contrastive"], {"items"}),
        (["plugins", "list"], {"plugins"}),
        (["plugins", "show", "mmalign_clip"], {"plugin"}),
        (["config", "show", "contrastive"], {"objective", "sections", "recipe", "values", "reasons"}),
        (["config", "schema"], {"objective", "json_schema"}),
        (["doctor", "--security"], {"security", "problems"}),
        (["completion", "fish"], {"shell", "script", "install"}),
    ],
)
def test_json_is_one_document_on_stdout(arguments: list[str], keys: set[str], capsys: Capture) -> None:
    assert run([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document.pop("schema") == 1
    assert set(document) == keys


def test_lists_have_names_and_summaries(capsys: Capture) -> None:
    assert run(["list", "objectives"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["NAME", "PLUGIN", "TAKES", "SUMMARY"]
    assert any(row.split()[:4] == ["contrastive", "mmalign_objectives", "image-text,", "text-pair"] for row in rows)


def test_lists_without_a_kind_name_all(capsys: Capture) -> None:
    from mmalign.contract.specs import KINDS
    from mmalign.registry.catalog import Catalog
    from mmalign.registry.plugins import load_plugins

    catalog = Catalog(load_plugins())
    assert run(["list"]) == 0
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in capsys.readouterr().out.splitlines()[1:]}
    assert list(rows) == [kind for kind in KINDS if kind != "commands"]
    for kind in rows:
        names = [entry.spec.name for entry in catalog.entries(kind)]
        assert rows[kind] == [str(len(names)), ", ".join(names) or "-"]
    assert run(["list", "objective"]) == 0
    singular = capsys.readouterr().out
    assert run(["list", "objectives"]) == 0
    assert capsys.readouterr().out == singular
    assert run(["list", "objectve"]) == 2
    assert "Did you mean objectives?" in capsys.readouterr().err


def test_matrix_of_one_objective_gives_reasons(capsys: Capture, install) -> None:
    source = """
from mmalign import ObjectiveSpec, Role, hookimpl

@hookimpl
def register_objectives():
    return [ObjectiveSpec(name="writes", summary="s", target="m:T", roles=(Role(name="policy", needs=("generate",)),),
                          examples={"main": ("image-text",)})]
"""
    install("writer", source)
    assert run(["matrix", "writes"]) == 0
    out = capsys.readouterr().out
    assert "missing generate" in out and "as a language model of one token" in out
    assert run(["matrix", "--json"]) == 0
    cells = json.loads(capsys.readouterr().out)["items"]
    writes = {cell["family"]: cell["verdict"] for cell in cells if cell["objective"] == "writes"}
    assert writes["reward-model"] == "no" and writes["open-clip"] == "derived"
    assert writes["causal-lm"] == "no", "it reads no pictures"
    verdicts = {(cell["backbone"], cell["verdict"]) for cell in cells if cell["objective"] == "contrastive"}
    of_texts = {(name, "derived") for name in ("causal-lm", "gpt-1", "gpt-2", "gpt-mini", "llama", "smollm2-135m")}
    others = verdicts - of_texts - {("reward-model", "no")}
    assert of_texts < verdicts and {verdict for _, verdict in others} == {"yes"}
    assert run(["matrix", "clip-lite", "--json"]) == 0
    words = [item["verdict"] for item in json.loads(capsys.readouterr().out)["items"]]
    assert len(words) >= 14 and sum(word != "no" for word in words) >= 12
    assert run(["matrix", "gpt-mini"]) == 0
    assert "as an encoder of texts" in capsys.readouterr().out


def test_defaults_with_line_breaks_keep_to_their_row(capsys: Capture) -> None:
    assert run(["show", "reflection", "--options"]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  revise")]
    assert r'"\nA better answer:\n"' in row and row.endswith("critique")


def test_config_show_prints_a_file_that_train_accepts(capsys: Capture, tmp_path: Path) -> None:
    from mmalign.config.section import SECTIONS
    from mmalign.train.layers import load_layers

    assert run(["-q", "config", "show", "contrastive"]) == 0
    path = tmp_path / "c.yaml"
    path.write_text(capsys.readouterr().out, encoding="utf-8")
    layers = load_layers(files=[path])
    assert {name for name in SECTIONS if not layers[name]} == {"streams", "rollout"}, "nothing of theirs by default"
    assert (layers["objective"]["name"], layers["backbone"]["name"]) == ("contrastive", "clip-lite")


# Exit codes -----------------------------------------------------------------------------------------------------------


@click.command()
@click.argument("what")
def fail(what: str) -> int:
    """Fail in one of many ways."""
    errors = {
        "usage": UsageError("bad words", hint="say better ones"),
        "incompatible": IncompatibleError("no"),
        "data": DataError("empty"),
        "nonfinite": NonFiniteError("NaN"),
        "disk": OSError(28, "No space left on device", "/full"),
        "bug": ZeroDivisionError("oops"),
        "interrupt": KeyboardInterrupt(),
        "pipe": BrokenPipeError(),
        "exit": SystemExit(5),
    }
    if what == "returned":
        return 3
    raise errors[what]


@pytest.mark.parametrize(
    ("what", "code", "text"),
    [
        ("usage", 2, "error: bad words\nsay better ones\n"),
        ("incompatible", 2, "error: no\n"),
        ("data", 3, "error: empty\n"),
        ("nonfinite", 4, "error: NaN\n"),
        ("disk", 1, "error: /full: No space left on device\n"),
        ("bug", 1, "internal error: ZeroDivisionError: oops\n"),
        ("interrupt", 130, "interrupted\n"),
        ("pipe", 141, ""),
        ("exit", 5, ""),
        ("returned", 3, ""),
    ],
)
def test_exit_codes(what: str, code: int, text: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setitem(COMMANDS, "fail", (f"{__name__}:fail", ""))
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    assert run(["fail", what]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(text) and bool(captured.err) == bool(text)
    assert "Traceback" not in captured.err


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setitem(COMMANDS, "fail", (f"{__name__}:fail", ""))
    monkeypatch.setenv("MMALIGN_DEBUG", "1")
    assert run(["fail", "bug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f'"{sys.executable}" -m mmalign config schema | head -1'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("{\n", "")


def test_version_and_no_command(capsys: Capture) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"mmalign {__version__}\n"
    assert run([]) == 2


# Completion -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("mmalign zer", {"zero-shot"}),
        ("mmalign matrix contr", {"contrastive"}),
        ("mmalign list obj", {"objectives"}),
        ("mmalign config show contr", {"contrastive"}),
        ("mmalign train --objective contr", {"contrastive"}),
        ("mmalign train --dry", {"--dry-run"}),
        ("mmalign plugins dis", {"disable"}),
    ],
)
def test_completion(words: str, expected: set[str], monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("_MMALIGN_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    assert run([]) == 0
    assert {line.partition(",")[2] for line in capsys.readouterr().out.splitlines()} == expected


def test_completion_scripts_are_valid_bash() -> None:
    script = subprocess.run(
        [sys.executable, "-m", "mmalign", "completion", "bash"], capture_output=True, text=True, check=True
    ).stdout
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    assert "complete -o nosort -F _mmalign_completion mmalign" in script


def test_tables_align_and_cut_nothing_in_a_pipe() -> None:
    long = "word " * 60
    lines = table(["name", "text"], [["a", "x"], ["longer", long.strip()]]).splitlines()
    assert lines[0] == "NAME    TEXT"
    assert lines[1] == "a       x"
    assert lines[2].endswith(long.strip())
