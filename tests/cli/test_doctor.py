"""`mmalign doctor`: floors, facts for a bug report, and no secret in any of them."""

import json
import os
from pathlib import Path

import pytest

from mmalign import __version__
from mmalign.cli import checks, run
from mmalign.cli.redact import redact

Capture = pytest.CaptureFixture[str]

BELOW = {
    "torch": "2.9.1",
    "transformers": "5.2.9",
    "jinja2": "3.1.5",
    "pillow": "12.9.0",
    "safetensors": "0.7.9",
    "gradio": "6.19.4",
    "vllm": "0.14.0",
    "mlflow": "3.8.1",
}


def test_doctor_names_each_of_eight_versions_below_their_floor(monkeypatch, capsys: Capture) -> None:
    monkeypatch.setattr(checks, "installed_version", BELOW.get)
    assert run(["doctor", "--security", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert {f["package"]: f["below"] for f in document["security"]} == dict.fromkeys(BELOW, True)
    assert len(document["problems"]) == 8
    monkeypatch.setattr(checks, "installed_version", lambda package: checks.FLOORS[package][0])
    assert run(["doctor", "--security"]) == 0


@pytest.mark.parametrize(
    ("low", "high"),
    [
        ("2.9", "2.10"),
        ("2.10rc1", "2.10"),
        ("2.9.1+cu128", "2.10"),
        ("5.2.99", "5.3"),
        ("3.1.5", "3.1.6"),
        ("13", "13.0.1"),
    ],
)
def test_releases_are_ordered(low: str, high: str) -> None:
    assert checks.release(low) < checks.release(high)
    assert checks.release("2.10") == checks.release("2.10.0") == checks.release("2.10+cpu")


def test_doctor_is_ready_for_a_bug_report_and_leaks_nothing(monkeypatch, capsys: Capture, install) -> None:
    for index, secret in enumerate(SECRETS):
        monkeypatch.setenv(f"CANARY_{index}", secret)
    install("leaky", f"raise ValueError({' '.join(SECRETS)!r})")
    assert run(["doctor"]) == 1
    first = capsys.readouterr()
    assert run(["doctor", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert {"versions", "devices", "folders", "plugins", "security", "problems"} <= set(document)
    assert document["versions"]["mmalign"] == __version__
    assert str(Path(os.environ["MMALIGN_CACHE"])) in document["folders"]["cache"]
    assert any("leaky" in problem for problem in document["problems"])
    text = first.out + json.dumps(document)
    assert [secret for secret in PLAIN if secret in text] == []


PLAIN = [
    "hunter2hunter2",
    "hf_AbCdEfGhIjKlMnOpQrStUv",
    "ghp_0123456789abcdefghijABCDEFGHIJ012345",
    "sk-proj-abcdefghijklmnop1234",
    "AKIAIOSFODNN7EXAMPLE",
    "xoxb-123456789012-abcdefghijkl",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcDEF_123",
    "s3cr3tvalue",
    "p4ssw0rdvalue",
    "bearervalue12345",
    "glpat-abcdefgh12345678",
    "keyvalue98765",
]
SECRETS = [
    f"https://me:{PLAIN[0]}@host/x",
    *PLAIN[1:7],
    f"token={PLAIN[7]}",
    f"password: {PLAIN[8]}",
    f"Bearer {PLAIN[9]}",
    PLAIN[10],
    f"api_key={PLAIN[11]}",
]


@pytest.mark.parametrize(("text", "secret"), list(zip(SECRETS, PLAIN, strict=True)), ids=map(str, range(12)))
def test_twelve_secrets_are_redacted(text: str, secret: str) -> None:
    for value in (text, {"log": [f"ran with {text} today"]}, {"note": (text, 1)}):
        assert secret not in json.dumps(redact(value))
    assert secret not in json.dumps(redact({"hf_token": secret, "nested": {"api_key": secret}}))


def test_redaction_leaves_ordinary_text_alone() -> None:
    text = "context_length: 77, tokenizer: bpe, num_tokens=12, https://example.org/x, task-force, commit 8996ea1"
    assert redact({"a": text, "tokens": 12}) == {"a": text, "tokens": 12}
