"""Recognise out-of-memory errors, and suggest options that need less memory.

with explained(plan, lambda: 16, "in step 3"):
    ...                                                # ShortageError, with options that take less
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mmalign.contract.capabilities import Capability
from mmalign.errors import ShortageError
from mmalign.train.plan import Plan

_SAID_SO = ("can't allocate memory", "out of memory", "DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED")
_NUM_OPTIONS = 3


def is_shortage(error: BaseException) -> bool:
    """Whether an error, Python's or torch's, says that memory ran out on the CPU or a GPU."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID_SO)


@contextmanager
def explained(plan: Plan, micro_batch: Callable[[], int], where: str) -> Iterator[None]:
    """Turn out-of-memory errors into ShortageError. micro_batch: returns the examples per forward pass. where: ends the
    message."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        first = str(error).strip().splitlines()[:1] or [type(error).__name__]
        hint = "\n".join(ways_out(plan, micro_batch()))
        raise ShortageError(f"too little memory {where}: {first[0]}", hint=hint) from error


def ways_out(plan: Plan, micro_batch: int) -> list[str]:
    """Lines on options that need less memory; those that do not change the losses come first."""
    train, backbone = plan.train, plan.configs["backbone"]
    ways = []
    if micro_batch > 1:
        ways.append(f"--set train.micro_batch_size={micro_batch // 2} (now {micro_batch}; same losses, more passes)")
    if not train.gradient_checkpointing and plan.source.family.modalities == {"text"}:
        ways.append("--set train.gradient_checkpointing=true (the same losses, a third slower)")
    if Capability.ADAPTER_SWITCH in plan.source.family.provides and not backbone.lora.rank:
        ways.append("--set backbone.lora.rank=16 in a new run (gradients and moments of an adapter only)")
    if "context_length" in type(backbone).model_fields:
        ways.append("--set backbone.context_length=N in a new run (shorter examples; what is cut off is counted)")
    if train.precision == "fp32":
        ways.append("--set train.precision=bf16 (activations of half the size, on a GPU)")
    if train.batch_size > 1:
        ways.append(f"--set train.batch_size={train.batch_size // 2} in a new run")
    return ["These need less memory:", *(f"  {way}" for way in ways[:_NUM_OPTIONS])]
