"""`mmalign doctor`: describes the installation for a bug report, without environment variables or secrets."""

import sys
from typing import Any

import click

from mmalign.cli.app import App, emit, emit_json, json_option, pass_app, quiet_option
from mmalign.errors import EXIT_FAILED


@click.command("doctor", epilog="\b\nExamples:\n  mmalign doctor\n  mmalign doctor --security --json")
@click.option(
    "--security", is_flag=True, help="Only compare versions with the releases that fixed known vulnerabilities."
)
@json_option
@quiet_option
@pass_app
def command(app: App, security: bool, as_json: bool) -> int:
    """Check this installation: versions, devices, disk, caches, plugins; exit 1 if something is wrong."""
    from mmalign.cli import checks
    from mmalign.cli.redact import redact
    from mmalign.cli.table import table

    findings = checks.security()
    sections: dict[str, Any] = {"security": [finding.as_dict() for finding in findings]}
    problems = [f"{f.package} {f.installed} is below {f.floor}: {f.reason}" for f in findings if f.below]
    if not security:
        facts, failures = checks.installation(app.host)
        sections, problems = facts | sections, failures + problems
    if as_json:
        emit_json(redact({**sections, "problems": problems}))
    else:
        for title, values in redact(sections).items():
            if isinstance(values, dict):
                emit(f"{title}\n{table(['  what', 'value'], [['  ' + k, v] for k, v in values.items()])}\n")
        rows = [[f.package, f.installed or "-", f.floor, "below" if f.below else "ok"] for f in findings]
        emit(table(["package", "installed", "floor", "state"], rows))
        emit("\n" + "\n".join(redact([f"problem: {text}" for text in problems]) or ["No problem found."]))
    if problems:
        app.say(f"To upgrade: {sys.executable} -m pip install --upgrade PACKAGE")
    return EXIT_FAILED if problems else 0
