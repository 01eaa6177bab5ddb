"""A folder without the weights expected in it: what is said of pickles, and of what trainers leave beside them."""

from pathlib import Path

import pytest

from mmalign.errors import CheckpointError
from mmalign.models.folder import check_weights, pickled_weights


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "model.pkl"])
def test_pickles_are_named_and_not_read(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"not to be read")
    with pytest.raises(CheckpointError, match=rf"only as a pickle \({name}\), which can run code"):
        check_weights(tmp_path)


def test_what_trainers_leave_beside_weights_is_no_weights(tmp_path: Path) -> None:
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth", "scaler.pt"):
        (tmp_path / name).touch()
    assert pickled_weights(tmp_path) == []
    with pytest.raises(CheckpointError, match=r"has no model.safetensors(.|\n)*random_weights"):
        check_weights(tmp_path)
