"""The conformance kit: checks that a plugin works with all others. A third party's whole test file:

    from mmalign.testing import conformance

    test_plugin = conformance("my_pkg")

`mmalign plugins check my_pkg` runs the same checks and prints a table.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def conformance(
    name: str,
    *,
    models: Mapping[str, Callable[[Path], Path]] | None = None,
    datasets: Mapping[str, Mapping[str, Any]] | None = None,
    rewards: Mapping[str, Mapping[str, Any]] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    slow: str = "",
) -> Callable[..., None]:
    """A parametrised pytest test, one case for each check, for the plugin or module `name`.

    models: tiny models of the plugin's own families, {"my-tiny": writer}; a writer fills a new folder and returns it.
    datasets: options for data sets that cannot be built without, {"my-data": {"path": "tests/x.csv"}}. rewards: the
    same for rewards; a value may name a tiny model of the kit, such as {"path": "tiny-llama"}. expected_failures:
    {check name: reason}; such a check fails the test if it passes. slow: a regular expression; checks whose name it
    matches get pytest's marker `slow`, which the test suite declares and leaves out by default.
    """
    import re

    import pytest

    from mmalign.testing.bench import Workbench
    from mmalign.testing.runner import find_checks, run_check

    bench = Workbench(models or {}, datasets or {}, rewards or {})
    checks = find_checks(name, bench)
    reasons = dict(expected_failures or {})
    unknown = sorted(set(reasons) - {check.name for check in checks})

    def case(check: Any) -> Any:
        return pytest.param(
            check, id=check.name, marks=[pytest.mark.slow] if slow and re.search(slow, check.name) else []
        )

    @pytest.mark.parametrize("check", [case(check) for check in checks])
    def test_conformance(check: Any) -> None:
        assert not unknown, f"expected_failures names no check: {unknown}"
        result = run_check(check, reasons.get(check.name, ""))
        if result.outcome == "skip":
            pytest.skip(result.why)
        if result.outcome == "xfail":
            pytest.xfail(result.why)
        assert result.outcome == "pass", result.why

    return test_conformance
