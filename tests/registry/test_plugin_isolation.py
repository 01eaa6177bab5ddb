"""However a plugin misbehaves, the program and the other plugins go on, and its record says what happened."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmalign.cli import run
from mmalign.registry import plugins
from mmalign.registry.catalog import Catalog
from mmalign.registry.plugins import BUILTINS, load_plugins
from tests.support.hostile_plugins import GOOD, HOSTILE
from tests.support.plugin_sites import write_plugin


@pytest.fixture(autouse=True)
def _short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMALIGN_PLUGIN_TIMEOUT", "0.3")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_plugin_costs_itself_only(name: str, install, capsys) -> None:
    source, why, status = HOSTILE[name]
    install(name, source)
    install("zz-good", GOOD)
    began = time.perf_counter()
    host = load_plugins()
    assert time.perf_counter() - began < 5
    record = host.record(name)
    assert record.status == status
    assert why in " ".join([record.why, *record.warnings])
    assert host.record("zz-good").status == "loaded"
    assert all(host.record(builtin).status == "loaded" for builtin in BUILTINS)
    catalog = Catalog(host)
    assert catalog.find("objectives", "good-objective").plugin == "zz-good"
    assert catalog.find("objectives", "contrastive").plugin == "mmalign_objectives"
    assert capsys.readouterr().out == ""


def test_help_and_list_work_beside_all_of_them(tmp_path: Path) -> None:
    site = tmp_path / "site"
    for name, (source, _, _) in HOSTILE.items():
        write_plugin(site, name, source)
    write_plugin(site, "zz-good", GOOD)
    paths = os.pathsep.join([str(site), *(path for path in sys.path if path)])
    environment = {**os.environ, "PYTHONPATH": paths, "MMALIGN_PLUGIN_TIMEOUT": "0.3"}
    for arguments in (["--help"], ["list", "objectives"], ["plugins", "list", "--json"]):
        done = subprocess.run(
            [sys.executable, "-m", "mmalign", *arguments], env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        lines = [line for line in done.stdout.splitlines() if line]
        assert lines[0] not in ("", "NOISE ON STDOUT")
        if arguments[0] == "list":
            assert "good-objective" in done.stdout and "contrastive" in done.stdout
            warned = [name for name in HOSTILE if f"plugin {name}" in done.stderr]
            assert warned == [name for name, (_, why, _) in HOSTILE.items() if why]
        if arguments[0] == "plugins":
            statuses = {plugin["name"]: plugin["status"] for plugin in json.loads(done.stdout)["plugins"]}
            assert {name: statuses[name] for name in HOSTILE} == {n: status for n, (_, _, status) in HOSTILE.items()}


def test_an_alarm_leaves_no_trace(install) -> None:
    before = signal.getsignal(signal.SIGALRM)
    install("endless", HOSTILE["endless-loop"][0])
    assert load_plugins().record("endless").why == "_TooSlow: still loading after 0.3 s"
    assert signal.getsignal(signal.SIGALRM) is before and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_an_alarm_comes_once(install) -> None:
    """What swallows it goes on, and loads where it comes to an end."""
    install("stubborn", f"import time\ntry:\n    time.sleep(9)\nexcept BaseException:\n    time.sleep(0.4)\n{GOOD}")
    record = load_plugins().record("stubborn")
    assert record.status == "loaded" and record.import_seconds > 0.7


def test_a_slow_plugin_is_warned_of_and_a_slow_built_in_is_not(install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_SLOW_SECONDS", 0.0)
    install("slow", GOOD)
    host = load_plugins()
    [warning] = host.record("slow").warnings
    assert re.fullmatch(r"takes \d+\.\d s to load: move heavy imports into its targets", warning)
    assert not [record for record in host.records if record.name in BUILTINS and record.warnings]


def test_a_taken_plugin_name_is_refused(install) -> None:
    install("mmalign_clip", GOOD, module="plug_taken")
    records = [record for record in load_plugins().records if record.name == "mmalign_clip"]
    first, second = records
    assert (first.status, first.source) == ("loaded", "built-in")
    assert (second.status, second.why) == ("failed", "another plugin has this name")


def test_environment_chooses_plugins(install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("one", GOOD)
    install("two", GOOD)
    monkeypatch.setenv("MMALIGN_LOAD_PLUGINS", "")
    assert [record.name for record in load_plugins().records] == list(BUILTINS)
    monkeypatch.setenv("MMALIGN_LOAD_PLUGINS", "two")
    assert {r.name: r.status for r in load_plugins().records if r.source != "built-in"} == {
        "one": "disabled",
        "two": "loaded",
    }
    monkeypatch.delenv("MMALIGN_LOAD_PLUGINS")
    monkeypatch.setenv("MMALIGN_DISABLE_PLUGINS", "two, three")
    assert load_plugins().record("two").why == "disabled by the user"
    assert "plug_two" not in sys.modules or load_plugins().record("two").entries == []


def test_disable_works_without_importing_a_plugin_that_hangs(install, capsys) -> None:
    install("endless", HOSTILE["endless-loop"][0])
    began = time.perf_counter()
    assert run(["plugins", "disable", "endless"]) == 0
    assert time.perf_counter() - began < 0.25  # below the limit: it was never imported
    assert "plug_endless" not in sys.modules
    assert run(["plugins", "list", "--json"]) == 0
    out = capsys.readouterr().out
    statuses = {p["name"]: p["status"] for p in json.loads(out[out.index("{") :])["plugins"]}
    assert statuses["endless"] == "disabled"
    assert run(["plugins", "enable", "endless"]) == 0
    assert load_plugins().record("endless").status == "failed"


def test_strict_mode_raises(install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("broken", HOSTILE["import-error"][0])
    monkeypatch.setenv("MMALIGN_STRICT_PLUGINS", "1")
    with pytest.raises(ModuleNotFoundError):
        load_plugins()


def test_a_failing_event_hook_warns_and_the_others_run(install) -> None:
    install("angry", "from mmalign import hookimpl\n@hookimpl\ndef run_started(run):\n    raise ValueError('no')")
    install("calm", "from mmalign import hookimpl\nseen = []\n@hookimpl\ndef run_started(run):\n    seen.append(run)")
    warnings = load_plugins().notify("run_started", run="the run")
    assert len(warnings) == 1 and warnings[0].startswith("plugin angry: run_started failed: ValueError: no (")
    assert "(plug_angry.py:4)" in warnings[0]
    assert sys.modules["plug_calm"].seen == ["the run"]


@pytest.mark.parametrize(("number", "behind"), [(2, "mmalign"), (0, "the plugin"), ("x", "the plugin")])
def test_a_plugin_for_another_contract_is_not_loaded_and_says_why(install, number, behind) -> None:
    install("other", f"contract_version = {number!r}")
    install("same", "contract_version = 1")
    host = load_plugins()
    record = host.record("other")
    assert record.status == "failed" and host.record("same").status == "loaded"
    assert f"written for version {number} of the contract" in record.why and f"upgrade {behind} (" in record.why
