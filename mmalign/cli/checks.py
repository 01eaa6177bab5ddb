"""The checks behind `mmalign doctor`."""

import importlib.metadata
import os
import platform
import re
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmalign.registry.plugins import PluginHost
from mmalign.version import __version__

# package -> (first release with the fix, the vulnerability)
FLOORS: dict[str, tuple[str, str]] = {
    "torch": ("2.10", "CVE-2026-24747: memory corruption in the weights_only unpickler"),
    "transformers": ("5.3", "CVE-2026-4372: code execution from config.json"),
    "jinja2": ("3.1.6", "CVE-2025-27516: sandbox escape"),
    "pillow": ("13.0", "CVE-2026-112403: heap overflow in the JPEG decoder"),
    "safetensors": ("0.8", "header checks"),
    "gradio": ("6.20", "CVE-2026-59806"),
    "vllm": ("0.14.1", "CVE-2026-24779: request forgery"),
    "mlflow": ("3.9", "CVE-2025-14279: DNS rebinding, and CVE-2026-2393: request forgery"),
}
_PYTHON_FLOORS = {(3, 11): (3, 11, 13), (3, 12): (3, 12, 11), (3, 13): (3, 13, 4)}
_PACKAGES = (
    "torch", "torchvision", "open_clip_torch", "transformers", "accelerate", "safetensors", "pillow", "pluggy",
    "click", "pydantic", "pyyaml", "rich", "numpy", "matplotlib", "jinja2", "pyarrow",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """An installed package and its floor, the lowest release without known vulnerabilities."""

    package: str
    installed: str
    floor: str
    reason: str
    below: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def security() -> list[Finding]:
    """One finding for each installed package that has a floor."""
    findings = []
    for package, (floor, reason) in FLOORS.items():
        installed = installed_version(package)
        if installed:
            below = release(installed) < release(floor)
            findings.append(Finding(package, installed, floor, reason, below))
    return findings


def installation(host: PluginHost) -> tuple[dict[str, Any], list[str]]:
    """Facts by section, and a list of problems."""
    problems = []
    python_floor = _PYTHON_FLOORS.get(sys.version_info[:2])
    note = ""
    if python_floor and sys.version_info[:3] < python_floor:
        fixed = ".".join(map(str, python_floor))
        note = f" (tarfile's filter is unsafe before {fixed}; mmalign reads tar files and never extracts them)"
    versions = {"mmalign": __version__, "python": platform.python_version() + note, "system": platform.platform()}
    for package in _PACKAGES:
        versions[package] = installed_version(package) or "missing"
        if versions[package] == "missing":
            problems.append(f"{package} is not installed")
    plugins = {}
    for record in host.records:
        plugins[record.name] = f"{record.status}{f': {record.why}' if record.why else ''}"
        if record.status == "failed":
            problems.append(f"plugin {record.name}: {record.why}")
        problems += [f"plugin {record.name}: {warning}" for warning in record.warnings]
    writable = {}
    for name, folder in folders().items():
        writable[name], problem = _writable(folder)
        problems += [f"{name}: {problem}"] if problem else []
    return {"versions": versions, "devices": devices(), "folders": writable, "plugins": plugins}, problems


def devices() -> dict[str, Any]:
    """The torch build and its devices; imports torch."""
    try:
        import torch
    except ImportError as error:
        return {"torch": f"cannot be imported: {error}"}
    facts: dict[str, Any] = {
        "torch build": f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}",
        "cpu": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
    }
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
        facts[f"cuda:{index}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {bf16}"
    if torch.backends.mps.is_available():
        facts["mps"] = "available"
    return facts


def folders() -> dict[str, Path]:
    """The folders that mmalign writes to by default: its cache and the current folder (runs/)."""
    from mmalign.models.digest import cache_folder

    return {"cache": cache_folder() / "classifiers", "working folder": Path.cwd()}


def installed_version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def release(version: str) -> tuple[int, ...]:
    """The release numbers without trailing zeros: "2.10.0+cu128" -> (2, 10). A pre-release sorts below its release."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(number) for number in match.group().split(".")] if match else [0]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    if match and re.match(r"[-_.]?(?:a|b|rc|dev|alpha|beta|pre)", version[match.end() :]):
        numbers[-1] -= 1
        numbers.append(sys.maxsize)
    return tuple(numbers)


def _writable(folder: Path) -> tuple[str, str]:
    """The result of a write test as text, and the problem or ""."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"mmalign")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return f"{folder}: {error.strerror}", f"{folder} cannot be written: {error.strerror}"
    text = f"{folder}: writable, {free / 2**30:.1f} GiB free"
    return text, f"only {free / 2**20:.0f} MiB free in {folder}" if free < 2**28 else ""
