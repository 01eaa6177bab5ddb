"""train.compile: refused where a compiled forward gives other losses, before a weight is loaded; elsewhere it runs."""

from types import SimpleNamespace

import pytest
import torch

from mmalign.errors import UsageError
from mmalign.train.build import assemble
from mmalign.train.compiling import check_compile
from mmalign.train.config import TrainConfig
from mmalign.train.layers import load_layers
from mmalign.train.plan import make_plan
from tests.support.pictures import write_pairs

GRID = [(c, p, d) for c in (True, False) for p in ("fp32", "bf16") for d in ("cpu", "cuda", "mps")]


@pytest.mark.parametrize(("compile", "precision", "device"), GRID)
def test_bf16_on_a_gpu_is_refused_and_nothing_else(compile, precision, device) -> None:
    train = TrainConfig(compile=compile, precision=precision)
    if (compile, precision, device) == (True, "bf16", "cuda"):
        with pytest.raises(UsageError, match=r"train\.compile=true with train\.precision=bf16") as error:
            check_compile(train, device)
        assert "train.compile=false" in error.value.hint and "train.precision=fp32" in error.value.hint
    else:
        check_compile(train, device)


def test_it_is_refused_before_weights_and_data_are_opened(catalog, tiny_folder, tmp_path, monkeypatch) -> None:
    names = {"objective": "contrastive", "backbone": str(tiny_folder), "dataset": str(write_pairs(tmp_path / "pairs"))}
    plan = make_plan(catalog, load_layers(sets=["train.compile=true", "train.precision=bf16"], names=names))

    def opened(*_: object) -> None:
        raise AssertionError("something was opened")

    monkeypatch.setattr(plan.backbone_class, "load", opened)
    monkeypatch.setattr(plan.dataset_class, "build", opened)
    on_gpu = SimpleNamespace(device=torch.device("cuda"), world_size=1, rank=0)
    with pytest.raises(UsageError, match="wrong losses on a CUDA GPU"):
        assemble(plan, on_gpu)
