"""Collects and runs conformance checks.

for result in run_checks("my_pkg"):
    print(result.outcome, result.name, result.why)
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mmalign.contract.specs import Entry
from mmalign.errors import MmalignError
from mmalign.testing import (
    backbone_checks,
    data_checks,
    engine_checks,
    environment_checks,
    example_checks,
    objective_checks,
    optimizer_checks,
    plugin_checks,
    reward_checks,
)
from mmalign.testing.bench import Check, Skip, Workbench

# Kind of entry -> the checks of such an entry, besides those of its options.
CHECKS: dict[str, Callable[[Entry, Workbench], list[Check]]] = {
    "backbones": backbone_checks.checks,
    "objectives": objective_checks.checks,
    "datasets": data_checks.dataset_checks,
    "examples": example_checks.checks,
    "rewards": reward_checks.checks,
    "environments": environment_checks.checks,
    "engines": engine_checks.checks,
    "evaluations": data_checks.evaluation_checks,
    "optimizers": optimizer_checks.checks,
    "commands": plugin_checks.command_checks,
}


@dataclass(frozen=True)
class Result:
    """outcome: pass, fail, skip, or xfail (failed as expected, for the reason in `why`)."""

    name: str
    outcome: str
    why: str
    seconds: float


def find_checks(name: str, bench: Workbench) -> list[Check]:
    """All checks that apply to a plugin, found without running or importing anything heavy."""
    record, module = bench.find(name)
    checks = [Check("plugin: loads", lambda: plugin_checks.loads(record))]
    if record.status != "loaded":
        return checks
    checks += plugin_checks.checks(record, module, bench)
    for entry in record.entries:
        if entry.kind in CHECKS:
            checks += CHECKS[entry.kind](entry, bench)
    return checks


def run_checks(name: str) -> Iterator[Result]:
    """Run every check of a plugin, yielding results as they come."""
    for check in find_checks(name, Workbench({}, {})):
        yield run_check(check)


def run_check(check: Check, expected_failure: str = "") -> Result:
    """Run one check; no error escapes except KeyboardInterrupt."""
    started = time.perf_counter()
    try:
        check.run()
        outcome, why = "pass", ""
    except Skip as skip:
        outcome, why = "skip", str(skip)
    except AssertionError as error:
        outcome, why = "fail", str(error) or "assertion failed"
    except MmalignError as error:
        outcome, why = "fail", str(error)
    except Exception as error:
        # The code under test is a third party's: any error is its failure, and the other checks still run.
        outcome, why = "fail", f"{type(error).__name__}: {error}"
    if expected_failure and outcome == "fail":
        outcome, why = "xfail", f"{expected_failure} ({why})"
    elif expected_failure and outcome == "pass":
        outcome, why = "fail", f"passes, although it is expected to fail: {expected_failure}"
    return Result(check.name, outcome, why, time.perf_counter() - started)
