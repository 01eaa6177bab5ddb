"""A named pipe, a socket, a device, an endless file or a deep nest, wherever a path is given: refused at once."""

import json
import os
import shutil
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from mmalign_answers.texts import read_texts
from mmalign_data.paths import expand
from mmalign_data.rows import json_rows
from mmalign_pipeline.answers import read_answers
from mmalign_zero_shot.labels import read_labels

from mmalign import reading
from mmalign.cli import run
from mmalign.config.yaml_reader import read_yaml
from mmalign.contract.examples import ImageRef
from mmalign.data.images import open_image
from mmalign.errors import CheckpointError, DataError, UsageError
from mmalign.models.folder import read_json
from mmalign.models.gguf import read_architecture
from mmalign.testing.models import tiny_open_clip
from mmalign.train import checkpoint
from mmalign.train.run_folder import Run

DEEP = 20_000


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    listening = socket.socket(socket.AF_UNIX)
    before = Path.cwd()
    os.chdir(path.parent)  # a socket's name may have 108 bytes
    listening.bind(path.name)
    os.chdir(before)
    listening.close()


def make_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


ODD = {"a named pipe": make_pipe, "a socket": make_socket, "a device": make_device}
READERS: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "config": (read_yaml, UsageError, "x.yaml"),
    "labels": (lambda path: read_labels([f"@{path}"]), UsageError, "x.txt"),
    "prompts": (lambda path: list(read_texts([f"@{path}"], "prompt")), UsageError, "x.txt"),
    "data set": (lambda path: expand(str(path)), DataError, "x.jsonl"),
    "lines of a folder": (lambda path: list(json_rows(path)), DataError, "x.jsonl"),
    "answers": (read_answers, DataError, "x.jsonl"),
    "model config": (read_json, CheckpointError, "config.json"),
    "GGUF": (read_architecture, CheckpointError, "x.gguf"),
    "picture": (lambda path: open_image(ImageRef(str(path))), DataError, "x.png"),
    "run": (lambda path: Run.reopen(path.parent), UsageError, "run.json"),
    "manifest": (lambda path: checkpoint.verify(path.parent), CheckpointError, "manifest.json"),
}


@pytest.fixture(autouse=True)
def soon() -> Iterator[None]:
    """What hangs fails."""

    def late(*_: object) -> None:
        raise TimeoutError("it waits for what never comes")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("place", READERS)
def test_what_is_no_regular_file_is_refused(tmp_path: Path, place: str, kind: str) -> None:
    read, expected, name = READERS[place]
    ODD[kind](tmp_path / name)
    with pytest.raises(expected, match="not a regular file"):
        read(tmp_path / name)


def test_a_file_that_the_kernel_makes_up_does_not_wait(tmp_path: Path) -> None:
    pipe = tmp_path / "x"
    os.mkfifo(pipe)
    real = os.stat
    changed = os.stat(__file__)
    with pytest.MonkeyPatch.context() as patch:  # a pipe that took the file's place after the first look
        patch.setattr(os, "stat", lambda path: changed if str(path) == str(pipe) else real(path))
        with pytest.raises(OSError, match="named pipe"):
            reading.read_bytes(pipe)


def test_sizes_and_depths_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        for depth in (reading.MAX_DEPTH + 1, 900, DEEP):
            path.write_text(opening * depth + "1" + closing * depth)
            with pytest.raises(ValueError, match="nested over 100 levels deep"):
                reading.read_json(path)
    path.write_text("[" * 100 + "1" + "]" * 100)
    assert reading.read_json(path) is not None
    with pytest.raises(ValueError, match="over 50 bytes"):
        reading.read_json(path, 50)


@pytest.mark.parametrize("depth", [60, 400, 2_000])
def test_a_deep_config_is_refused_with_its_line(tmp_path: Path, depth: int, capsys) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("train:\n  steps: " + "[" * depth + "]" * depth)
    with pytest.raises(UsageError, match="nested"):
        read_yaml(path)
    assert run(["train", "--objective", "contrastive", "--config", str(path), "--dry-run"]) == 2
    assert run(["train", "--objective", "contrastive", "--set", f"train.steps={'[' * depth}{']' * depth}"]) == 2
    assert "internal error" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["open_clip_config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("kind", [*ODD, "deep"])
def test_an_odd_model_folder_is_refused(tmp_path: Path, model: Path, name: str, kind: str, capsys) -> None:
    folder = shutil.copytree(model, tmp_path / "model")
    (folder / name).unlink(missing_ok=True)
    if kind == "deep":
        (folder / name).write_text('{"a":' * DEEP + "1" + "}" * DEEP)
    else:
        ODD[kind](folder / name)
    picture = tmp_path / "x.png"
    picture.write_bytes(b"")
    code = run(["zero-shot", "--backbone", str(folder), "--labels", "a", "--labels", "b", str(picture)])
    err = capsys.readouterr().err
    assert "internal error" not in err and code in (1, 2, 3), (code, err)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_open_clip(tmp_path_factory.mktemp("model") / "tiny")


@pytest.mark.parametrize(
    "name", ["/dev/zero", "../outside", "/etc/hostname", "state.json/", "more.safetensors", "pipe", ""]
)
def test_a_manifest_may_name_the_checkpoints_own_files_alone(tmp_path: Path, name: str) -> None:
    tensors = {"w": torch.ones(4)}
    for step in (1, 2):
        checkpoint.save(tmp_path, checkpoint.Checkpoint(step, tensors, tensors, tensors, {}))
    newest = tmp_path / "step-000002"
    os.mkfifo(newest / "pipe")
    manifest = reading.read_json(newest / "manifest.json")
    manifest["files"][name] = {"size": 0, "sha256": "0" * 64}
    (newest / "manifest.json").write_text(json.dumps(manifest))
    said: list[str] = []
    found = checkpoint.newest(tmp_path, said.append)
    assert found is not None and found.step == 1 and "step-000002 is damaged" in said[0]


@pytest.mark.parametrize("part", ["model.safetensors", "state.json"])
@pytest.mark.parametrize("kind", ODD)
def test_a_part_of_a_checkpoint_that_is_no_file_is_passed_over(tmp_path: Path, part: str, kind: str) -> None:
    tensors = {"w": torch.ones(4)}
    for step in (1, 2):
        checkpoint.save(tmp_path, checkpoint.Checkpoint(step, tensors, tensors, tensors, {}))
    (tmp_path / "step-000002" / part).unlink()
    ODD[kind](tmp_path / "step-000002" / part)
    found = checkpoint.newest(tmp_path, lambda line: None)
    assert found is not None and found.step == 1


@pytest.mark.parametrize("content", ["[]", "{}", '{"status": 3}', "null", "[" * DEEP, '{"status": "running"}'])
def test_a_run_that_says_nothing_usable_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    (tmp_path / "config.yaml").write_text("train: {}\n")
    for look in (Run.reopen, Run.observe):
        with pytest.raises(UsageError, match="holds no run"):
            look(tmp_path)
    assert stat.S_ISREG((tmp_path / "run.json").stat().st_mode)
