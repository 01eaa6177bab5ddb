"""The conformance kit finds what is wrong with an environment, and passes a sound one."""

import pytest

from mmalign.contract.specs import Entry, EnvironmentSpec
from mmalign.testing import environment_checks
from mmalign.testing.bench import Workbench
from mmalign.testing.runner import run_check

FOUND = {
    "Sound": {},
    "Raises": {"the same": "step raised ZeroDivisionError", "comes to": "step raised ZeroDivisionError"},
    "Endless": {"comes to": "100 actions '' do not end the episode (example:0)"},
    "StepRandom": {"the same": "give another episode the second time"},
    "SpeaksAfterTheEnd": {"comes to": "the last turn has the observation 'and?', which nobody reads"},
}


@pytest.mark.parametrize("name", FOUND)
def test_each_fault_is_found_and_nothing_else(name: str) -> None:
    spec = EnvironmentSpec(name="faulty", summary="s", target=f"tests.support.faulty_environments:{name}")
    checks = environment_checks.checks(Entry("environments", "my-plugin", spec), Workbench({}, {}))
    results = {check.name.removeprefix("environment faulty: ")[:8]: run_check(check) for check in checks}
    assert {title for title, result in results.items() if result.outcome == "fail"} == set(FOUND[name])
    assert all(why in results[title].why for title, why in FOUND[name].items())
    assert len(results) == 2 and {result.outcome for result in results.values()} <= {"pass", "fail"}
