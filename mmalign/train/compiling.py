"""Refuse `train.compile` where it fails or gives wrong losses. `check_compile` runs before anything is loaded.

check_compile(train, "cuda")
check_passes(train, coupled=True, world_size=1)
"""

from mmalign.errors import UsageError
from mmalign.train.config import TrainConfig


def check_compile(train: TrainConfig, device: str) -> None:
    """Raise UsageError for a precision in which the compiled forward differs from the plain one. device: its type.

    Under bf16 on CUDA the first loss of DPO was 0.83 where ln 2 = 0.69 is right, and rewards ended in NaN; in fp32 the
    losses are equal (measured on an H200).
    """
    if train.compile and train.precision == "bf16" and device == "cuda":
        raise UsageError(
            "train.compile=true with train.precision=bf16 gives wrong losses on a CUDA GPU",
            hint="Change one of them: --set train.compile=false, or --set train.precision=fp32",
        )


def check_passes(train: TrainConfig, coupled: bool, world_size: int) -> None:
    """Raise UsageError for an objective that reads its batch twice. coupled: as `Objective.coupled`."""
    if coupled and (world_size > 1 or 0 < train.micro_batch_size < train.batch_size):
        raise UsageError(
            "train.compile cannot replay the random state of a coupled objective's second pass",
            hint="Leave train.micro_batch_size at 0 on one process, or train.compile at false.",
        )
