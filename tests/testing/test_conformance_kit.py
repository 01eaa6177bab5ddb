"""The kit finds each planted fault, passes sound code, and says which."""

import json

import pytest

from mmalign.cli import run
from mmalign.testing import conformance
from mmalign.testing.bench import Check, Skip, Workbench
from mmalign.testing.runner import Result, find_checks, run_check

PLUGIN = """
from mmalign import ObjectiveSpec, Role, hookimpl

@hookimpl
def register_objectives():
    roles = (Role(name="policy", needs=("encode_image", "encode_text", "contrastive_head")),)
    return [ObjectiveSpec(name="{name}", summary="s", target="tests.support.faulty_objectives:{cls}", roles=roles,
                          examples={{"main": ("image-text",)}})]
"""
MODEL = "tiny-open-clip"


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory):
    """One tiny model for all cases."""
    from mmalign.testing.models import tiny_open_clip

    return tiny_open_clip(tmp_path_factory.mktemp("kit") / MODEL)


def results(install, shared_folder, cls: str) -> dict[str, Result]:
    install("faulty", PLUGIN.format(name="faulty", cls=cls))
    bench = Workbench({}, {})
    bench._written[MODEL] = shared_folder
    chosen = [
        c
        for c in find_checks("faulty", bench)
        if c.name.startswith(("objective faulty:", f"objective faulty on {MODEL}"))
    ]
    return {check.name.partition(": ")[2]: run_check(check) for check in chosen}


FAULTS = {
    "Sound": set(),
    "LocalMean": {"1x8 equals 4x2"},
    "ByPosition": {"the order of examples does not matter"},
    "Uncoupled": {"1x8 equals 4x2"},
    "ScalarOutput": {"finite, with a count for each term"},
    "NotFinite": {"finite, with a count for each term", "four rows overfit"},
    "WrongCount": {"finite, with a count for each term", "gradients only in trainable roles", "four rows overfit"},
    "Climbs": {"four rows overfit"},
    "Forgets": {"resuming is bit-equal"},
    "Undescribed": {"every option is described", "options round-trip through YAML"},
}


@pytest.mark.parametrize("cls", FAULTS)
def test_each_fault_is_found_and_nothing_else(cls: str, install, shared_folder) -> None:
    found = results(install, shared_folder, cls)
    assert len(found) == 8
    failed = {name for name, result in found.items() if result.outcome == "fail"}
    # A loss that is not finite, or that is zero, fails what depends on it too.
    if cls in ("NotFinite", "WrongCount", "Forgets", "ScalarOutput"):
        assert failed >= FAULTS[cls]
    else:
        assert failed == FAULTS[cls], {name: found[name].why for name in failed}


def test_the_family_of_each_tiny_model_is_known_before_it_is_written(shared_folder) -> None:
    from mmalign.testing.subjects import source_of

    bench = Workbench({}, {})
    bench._written[MODEL] = shared_folder
    for name in bench.model_names:
        source = source_of(name, bench)
        assert bench.family(name) == (source.entry, source.family), name


def test_an_objective_that_fits_no_tiny_model_says_so(install) -> None:
    needs = '"score_sequences", "token_logps"'  # no view has both
    install("lonely", PLUGIN.format(name="lonely", cls="Sound").replace('"encode_text"', needs))
    last = find_checks("lonely", Workbench({}, {}))[-1]
    result = run_check(last)
    assert (result.name, result.outcome) == ("objective lonely: runs on a tiny model", "skip")
    assert "score_sequences" in result.why and "models=" in result.why


def test_outcomes() -> None:
    def fails() -> None:
        raise AssertionError("too small")

    def crashes() -> None:
        raise KeyError("x")

    def skips() -> None:
        raise Skip("not here")

    def outcome(function, expected: str = "") -> tuple[str, str]:
        result = run_check(Check("c", function), expected)
        return result.outcome, result.why

    assert outcome(lambda: None) == ("pass", "")
    assert outcome(fails) == ("fail", "too small")
    assert outcome(crashes) == ("fail", "KeyError: 'x'")
    assert outcome(skips) == ("skip", "not here")
    assert outcome(fails, "known") == ("xfail", "known (too small)")
    assert outcome(lambda: None, "known") == ("fail", "passes, although it is expected to fail: known")


def test_a_plugin_that_is_heavy_to_import_is_told_so(install, capsys) -> None:
    install("heavy", "import pydantic\n" + PLUGIN.format(name="heavy", cls="Sound"))
    bench = Workbench({}, {})
    checks = {check.name: check for check in find_checks("heavy", bench)}
    result = run_check(checks["plugin: imports nothing heavy"])
    assert (result.outcome, result.why.partition(":")[0]) == ("fail", "importing plug_heavy imports pydantic")


def test_plugins_check_prints_one_document_and_its_exit_code(install, capsys) -> None:
    install("empty", "from mmalign import hookimpl\n")
    assert run(["plugins", "check", "empty", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["counts"] == {"pass": 3, "fail": 1, "xfail": 0, "skip": 0}
    failed = [check for check in document["checks"] if check["outcome"] == "fail"]
    assert failed[0]["why"] == "no hook returned a spec"
    install("broken", "import no_such_module_anywhere")
    assert run(["-q", "plugins", "check", "broken"]) == 1
    assert "No module named 'no_such_module_anywhere'" in capsys.readouterr().out
    assert run(["-q", "plugins", "check", "never_installed_anywhere"]) == 1


def test_expected_failures_must_name_a_check(install) -> None:
    install("faulty", PLUGIN.format(name="faulty", cls="Sound"))
    case = conformance("faulty", expected_failures={"no such check": "why"})
    with pytest.raises(AssertionError, match="names no check"):
        case(check=Check("c", lambda: None))
