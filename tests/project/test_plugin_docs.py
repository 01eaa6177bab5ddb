"""docs/plugins.md is true: its snippets run, and its table has the columns that the encoder makes."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmalign.cli import run
from mmalign.contract.batch import Batch
from mmalign.contract.examples import (
    Completion,
    ImageLabel,
    ImageRef,
    ImageText,
    LabelledCompletion,
    Preference,
    Prompt,
    Ranking,
    Text,
    TextLabel,
    TextPair,
)
from mmalign.contract.objective import Objective
from mmalign.data.collate import Encoder, collate
from mmalign.errors import PluginError
from mmalign.train.step import checked_counts, checked_loss, checked_outputs
from tests.support.project import ROOT

PAGE = ROOT / "docs" / "plugins.md"
TEXT = PAGE.read_text()


@pytest.fixture
def haiku(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the page's package, installed."""
    from tests.support.plugin_sites import write_plugin

    site = tmp_path / "site"
    blocks = re.findall(r"```python\n# (haiku/\w+\.py)\n(.*?)```", TEXT, re.S)
    assert [name for name, _ in blocks] == [f"haiku/{name}.py" for name in ("__init__", "data", "focal", "lines")]
    write_plugin(site, "haiku", "", module="haiku")
    (site / "haiku.py").unlink()
    for name, code in blocks:
        (site / name).parent.mkdir(exist_ok=True)
        (site / name).write_text(code)
    monkeypatch.syspath_prepend(str(site))
    yield site / "haiku"
    for name in [name for name in sys.modules if name.partition(".")[0] == "haiku"]:
        del sys.modules[name]


def _train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    from mmalign.testing.models import tiny_gpt2

    model = str(tiny_gpt2(tmp_path / "tiny"))
    sets = ["train.steps=2", "train.batch_size=4", "data.num_workers=0", "dataset.size=16"]
    options = [part for value in sets for part in ("--set", value)]
    named = ["--backbone", model, "--out", str(tmp_path / "run"), "--json"]
    code = run(["train", "--objective", "focal", "--dataset", "counting", *named, *options])
    return code, *capsys.readouterr()


def test_a_broken_objective_is_named_by_the_run(
    haiku: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = haiku / "focal.py"
    file.write_text(file.read_text().replace('batch["sequences"])}', 'batch["sequences"]).mean()}'))
    code, _, err = _train(tmp_path, capsys)
    assert code == 1 and "haiku.focal:Focal: forward must return [" in err and "its columns: key, num_left_out" in err


def test_the_snippets_train(haiku: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _train(tmp_path, capsys)
    assert code == 0, err
    after = json.loads(out)["after"]
    assert after["heldout/examples"] == 4 and 0 < after["heldout/probability"] < 1
    from mmalign.registry.catalog import Catalog
    from mmalign.registry.plugins import load_plugins

    catalog = Catalog(load_plugins())
    lines = catalog.load(catalog.find("rewards", "lines"))
    assert lines(lines.Config()).score(type("Answers", (), {"texts": ("a", "a\nb\nc\nd")})()) == [1.0, 3.0]


def _documented() -> dict[str, set[str]]:
    rows = re.findall(r"^\| `([\w-]+)` \| (.*?) \|", TEXT, re.M)
    return {kind: {"key", *re.findall(r"`(\w+)`", columns)} for kind, columns in rows}


def test_the_table_has_the_columns_of_every_kind(tmp_path: Path) -> None:
    from PIL import Image

    from mmalign.models.references import find_source
    from mmalign.registry.catalog import Catalog
    from mmalign.registry.plugins import load_plugins
    from mmalign.testing.models import tiny_gpt2, tiny_open_clip

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    image = ImageRef(str(tmp_path / "a.png"))
    examples = [
        ImageText("k", image, "a cat"),
        ImageLabel("k", image, 0),
        Text("k", "a cat"),
        TextLabel("k", "a cat", 1),
        TextPair("k", "a cat", "a dog"),
        Prompt("k", "a"),
        Completion("k", "a", " cat"),
        LabelledCompletion("k", "a", " cat", True),
        Preference("k", "a", " cat", " dog"),
        Ranking("k", "a", (" cat", " dog"), (1.0, 2.0)),
    ]
    catalog = Catalog(load_plugins())

    def processor(folder: Path) -> Any:
        source = find_source(str(folder), catalog)
        backbone = catalog.load(source.entry)
        return backbone.load(source, backbone.Config()).processor

    readers = {True: processor(tiny_open_clip(tmp_path / "clip")), False: processor(tiny_gpt2(tmp_path / "lm"))}
    made = {}
    for entry in catalog.entries("examples"):
        kind = catalog.load(entry)
        encoder = Encoder(readers["image" in entry.spec.modalities], kind, seed=0)
        [example] = [example for example in examples if type(example) is kind]
        made[entry.spec.name] = set(collate([encoder.encode(example, 0, 0, train=False)]).columns)
    assert made == _documented() and len(made) == len(examples)


# What a broken objective is told --------------------------------------------------------------------------------------


class Broken(Objective):
    def forward(self, models: Any, batch: Any) -> Any: ...

    def loss(self, outputs: Any, batch: Any) -> Any: ...

    def count(self, batch: Any) -> Any: ...


def test_a_column_that_is_not_there_names_those_that_are() -> None:
    import torch

    batch = Batch({"image": torch.zeros(2, 3), "key": ("a", "b")})
    with pytest.raises(KeyError) as caught:
        batch["imgae"]
    assert str(caught.value).startswith("the batch has no column 'imgae'; its columns: image, key")
    with pytest.raises(KeyError, match="none, as in the loss of a coupled objective"):
        Batch({}, size=2)["image"]


def test_what_a_method_returns_is_named_with_the_plugin_and_what_is_right() -> None:
    import torch

    objective, batch = Broken(None), Batch({"key": ("a", "b"), "text": ("c", "d")})
    faults = (
        (lambda: checked_outputs(objective, torch.zeros(2), batch), "a mapping of tensors", "shape [2]"),
        (lambda: checked_outputs(objective, {"x": 1.0}, batch), "a mapping of tensors", "{'x': float}"),
        (lambda: checked_outputs(objective, {"x": torch.zeros(3, 2)}, batch), "[2, ...]", "'x' of shape [3, 2]"),
        (lambda: checked_outputs(objective, {"x": torch.tensor(1.0)}, batch), "columns: key, text", "shape []"),
        (lambda: checked_loss(objective, torch.zeros(())), "{term: sum over examples}", "a tensor of shape []"),
        (lambda: checked_loss(objective, ({"x": torch.zeros(2)}, {})), "a 0-D tensor", "a tensor of shape [2]"),
        (lambda: checked_loss(objective, ({}, {"m": 1.0})), "(sum, count)", "the metric 'm' as float"),
        (lambda: checked_counts(objective, None), "a denominator for each term", "NoneType"),
    )
    for call, wanted, got in faults:
        with pytest.raises(PluginError) as caught:
            call()
        message = caught.value.message
        assert message.startswith(f"{__name__}:Broken: ") and wanted in message and got in message, message
    good = {"x": torch.zeros(2, 5)}
    assert checked_outputs(objective, good, batch) is good
