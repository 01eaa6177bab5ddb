"""One process or many: the only file that imports accelerate, and that only under a launcher.

    torchrun --nproc-per-node 2 -m mmalign train ...        (or: accelerate launch -m mmalign train ...)

Gradients are synchronised by DDP. Sharded (FSDP2) launches are refused until their checkpoints resume exactly.
"""

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmalign.data.batch import Batch
from mmalign.errors import UsageError
from mmalign.evaluate.runtime import choose_device
from mmalign.objective import Objective
from mmalign.train.models import Models


class StepModule(nn.Module):
    """An objective's forward as a module, so that DDP and torch.compile can wrap it. Registers the trained roles."""

    def __init__(self, objective: Objective, models: Models) -> None:
        super().__init__()
        self.roles = nn.ModuleDict(models.trained_modules())
        self._run: Callable[[Batch], Mapping[str, Tensor]] = lambda batch: objective.forward(models, batch)

    def forward(self, batch: Batch) -> Mapping[str, Tensor]:
        return self._run(batch)


class Processes:
    """The processes of a run. With one, every method is the identity and nothing is imported."""

    def __init__(self, device: str = "auto") -> None:
        self.world_size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self._accelerator: Any = None
        if self.world_size > 1:
            if os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true"):
                raise UsageError("FSDP launches are not supported yet", hint="Launch with plain torchrun (DDP).")
            from accelerate import Accelerator

            self._accelerator = Accelerator(cpu=device == "cpu" or not torch.cuda.is_available())
            self.device = self._accelerator.device
        else:
            self.device = choose_device(device)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """Make gradients synchronise in backward; a module without trainable parameters stays as it is."""
        trains = any(parameter.requires_grad for parameter in module.parameters())
        return self._accelerator.prepare_model(module) if self._accelerator and trains else module

    def no_sync(self, module: nn.Module, active: bool) -> contextlib.AbstractContextManager[Any]:
        """Leave gradients local in this backward."""
        if active and isinstance(module, nn.parallel.DistributedDataParallel):
            return module.no_sync()
        return contextlib.nullcontext()

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
