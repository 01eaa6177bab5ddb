"""One process or many: the only file that imports accelerate, and that only under a launcher.

    torchrun --nproc-per-node 2 -m mmalign train ...        (or: accelerate launch -m mmalign train ...)

accelerate starts the process group. `sum_gradients`, not DDP, sums gradients once per step, after the last micro-batch:
it allows parameters without a gradient in some steps (an unused decoder, a bias under InfoNCE). Sharded launches (FSDP,
DeepSpeed) are refused until their checkpoints resume exactly.
"""

import os
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn

from mmalign.device import choose_device
from mmalign.errors import UsageError

_BUCKET = 25_000_000


class Processes:
    """The processes of a run. With one, every method is the identity and nothing is imported."""

    def __init__(self, device: str = "auto") -> None:
        self.world_size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        if self.world_size == 1:
            self.device = choose_device(device)
            return
        for engine in ("FSDP", "DEEPSPEED"):
            if os.environ.get(f"ACCELERATE_USE_{engine}", "").lower() in ("1", "true"):
                raise UsageError(f"{engine} launches are not supported yet", hint="Launch with plain torchrun.")
        # The functions of this module keep the current group as a default argument. If open_clip or torch.compile
        # imported it later, they would keep the group's threads alive beyond `close` and abort the interpreter at exit.
        import torch.distributed.nn.functional
        from accelerate import PartialState

        # The others wait while the main process evaluates and saves, maybe longer than the default ten minutes.
        cpu = device == "cpu" or not torch.cuda.is_available()
        self.device = torch.device(PartialState(cpu=cpu, timeout=timedelta(hours=6)).device or "cpu")

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its sum over processes; one that no process has stays None."""
        if self.world_size == 1:
            return
        parameters = [parameter for parameter in parameters if parameter.requires_grad]
        present = self.sum(torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.int32))
        wanted = [p for p, count in zip(parameters, present.tolist(), strict=True) if count]
        for parameter in wanted:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for dtype in sorted({parameter.dtype for parameter in wanted}, key=str):
            for bucket in _buckets([p.grad for p in wanted if p.dtype == dtype and p.grad is not None]):
                flat = torch.cat([gradient.flatten() for gradient in bucket])
                torch.distributed.all_reduce(flat)
                for gradient, summed in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                    gradient.copy_(summed.view_as(gradient))

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over processes, the same on all."""
        if self.world_size == 1:
            return tensor
        moved = tensor.to(self.device, copy=True)  # NCCL reduces on its own device only
        torch.distributed.all_reduce(moved)
        return moved.to(tensor.device)

    def gather(self, tensor: Tensor) -> Tensor:
        """Join equally long tensors in rank order, detached."""
        if self.world_size == 1:
            return tensor.detach()
        tensor = tensor.detach().contiguous()
        parts = [torch.empty_like(tensor) for _ in range(self.world_size)]
        torch.distributed.all_gather(parts, tensor)
        return torch.cat(parts)

    def gather_objects(self, value: Any) -> list[Any]:
        """One value from each process, in rank order, on all."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        if self.world_size > 1:
            torch.distributed.barrier()

    def close(self) -> None:
        if self.world_size > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _buckets(tensors: list[Tensor]) -> list[list[Tensor]]:
    """Consecutive groups of about 25 million elements: few messages, little extra memory."""
    buckets: list[list[Tensor]] = []
    size = _BUCKET
    for tensor in tensors:
        if size >= _BUCKET:
            buckets.append([])
            size = 0
        buckets[-1].append(tensor)
        size += tensor.numel()
    return buckets
