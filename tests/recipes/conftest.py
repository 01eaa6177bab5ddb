"""The table of what the recipes reached, behind the tests' own summary."""

import pytest

_HEADS = ("objective", "held-out figure", "before", "after", "floor", "seconds")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    rows = [value for report in reports for name, value in report.user_properties if name == "recipe"]
    if not rows:
        return
    terminalreporter.write_line("")
    for cells in (_HEADS, ("---",) * len(_HEADS), *rows):
        terminalreporter.write_line("| " + " | ".join(_cell(cell) for cell in cells) + " |")


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
