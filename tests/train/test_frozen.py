"""What frozen roles say, worked out before the first step: equal to a copy's answers, and exact under interruption."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmalign.contract.batch import Batch, Ragged
from mmalign.contract.specs import Role
from mmalign.errors import UsageError
from mmalign.stop import Interrupted
from mmalign.train import run as launch
from mmalign.train.layers import load_layers
from mmalign.train.loop import Loop
from mmalign.train.plan import make_plan
from mmalign.train.reference_cache import FrozenCache, row_digests
from mmalign.train.roles import build_models

OPTIONS = (
    "train.steps=8", "train.batch_size=4", "train.micro_batch_size=2", "train.warmup_steps=1", "train.save_every=3",
    "train.learning_rate=0.003", "data.num_workers=0", "backbone.dropout=0.1",
)  # fmt: skip


@pytest.fixture
def plan(catalog, lm_folders, tmp_path):
    def make(*options: str, objective: str = "dpo"):
        path = tmp_path / "rankings.jsonl"
        words = ["cat", "red car", "tree", "small dog", "fish"]
        rows = [
            {
                "prompt": f"a {i}",
                "completions": [f" {w} {i}" for w in words[: 2 + i % 4]],
                "ranks": [1, 2, 2, 3, 5][: 2 + i % 4],
            }
            for i in range(60)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        names = {"objective": objective, "backbone": str(lm_folders["tiny_gpt2"]), "dataset": str(path)}
        return make_plan(catalog, load_layers(sets=[*OPTIONS, *options], names=names))

    return make


@pytest.fixture
def begin(plan, catalog, tmp_path):
    def start(name: str, *options: str, lines: list[str] | None = None) -> Path:
        say = (lambda line: None) if lines is None else lines.append
        launch.start(plan(*options), catalog, folder=tmp_path / name, device="cpu", say=say)
        return tmp_path / name

    return start


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def test_a_cached_reference_trains_as_a_copy_does(begin) -> None:
    lines: list[str] = []
    cached, copied = begin("cached", lines=lines), begin("copied", "train.frozen_roles=copy")
    assert any("reference: the starting policy; outputs cached for" in line for line in lines)
    for name, tensor in weights(cached).items():
        torch.testing.assert_close(tensor, weights(copied)[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("loses_cache", [False, True])
def test_an_interrupted_run_goes_on_exactly(begin, catalog, tmp_path, monkeypatch, loses_cache) -> None:
    whole = begin("whole")
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(Loop, "_stopping", lambda loop, stop: 15 if loop.step == 5 else None)
        begin("halves")
    cache = tmp_path / "halves" / "frozen-0" / "frozen.safetensors"
    assert cache.is_file()
    if loses_cache:
        cache.write_bytes(cache.read_bytes()[:100])
    lines: list[str] = []
    launch.resume(tmp_path / "halves", catalog, sets=(), allow_change=False, device="cpu", say=lines.append)
    assert any("(0 of them now" in line for line in lines) is not loses_cache
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(tmp_path / "halves")[name]), name


def test_only_what_is_read_is_asked_about_and_once(begin, plan) -> None:
    lines: list[str] = []
    run = begin("short", "train.steps=2", "evaluation.max_examples=1", lines=lines)
    assert any("cached for 9 examples (9 of them now" in line for line in lines), lines  # 2 x 4 and one held out
    with pytest.raises(UsageError, match="needs no frozen model"):
        plan("train.frozen_roles=cache", objective="reward")
    assert (run / "frozen-0").is_dir()


def test_rows_come_back_by_content_with_their_shapes(tmp_path) -> None:
    def compute(batch: Batch) -> dict[str, torch.Tensor | Ragged]:
        asked.append(len(batch))
        rows = batch["text"].rows()
        return {"sum": torch.stack([row.sum() for row in rows]), "twice": Ragged.from_list([2.0 * row for row in rows])}

    asked: list[int] = []
    rows = [torch.tensor([1, 2]), torch.tensor([3]), torch.tensor([1, 2]), torch.tensor([4, 5, 6])]
    batch = Batch({"text": Ragged.from_list(rows), "key": ("same",) * 4})
    cache = FrozenCache.open(tmp_path, "a")
    assert cache.fill([batch.select([0, 1]), batch], compute) == 3 and asked == [2, 1]
    again = FrozenCache.open(tmp_path, "a")
    assert len(again) == 3 and again.fill([batch], compute) == 0
    found = again.columns(batch.select([3, 0, 2]))
    assert found["sum"].tolist() == [15, 3, 3]
    assert [row.tolist() for row in found["twice"].rows()] == [[8, 10, 12], [2, 4], [2, 4]]
    assert len(FrozenCache.open(tmp_path, "b")) == 0, "another key, such as other weights, is another cache"
    assert len(set(row_digests(batch))) == 3


def test_a_fresh_adapter_needs_no_copy(load_lm, lm_folders) -> None:
    pytest.importorskip("peft", reason="adapters need peft")
    from mmalign.language.derive import sequence_logps
    from mmalign.language.sequences import Sequences

    roles = (Role(name="policy", needs=()), Role(name="reference", needs=(), trains=False))
    models = build_models(roles, load_lm(lm_folders["tiny_llama"], lora={"rank": 2}))
    plain = load_lm(lm_folders["tiny_llama"])
    with torch.no_grad():
        for _, parameter in models.trainable():
            parameter.add_(0.1)
        sequences = Sequences.from_lists([torch.tensor([5, 6])], [[torch.tensor([7, 8]), torch.tensor([9])]])
        policy, reference, expected = (
            sequence_logps(m, sequences) for m in (models["policy"], models["reference"], plain)
        )
    assert torch.equal(reference, expected) and not torch.allclose(policy, expected, atol=1e-3)
    assert len(list(models.modules())) == 1, "no second model stays in memory"
