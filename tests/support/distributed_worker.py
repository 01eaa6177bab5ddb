"""One process of the two-process test, under RANK and WORLD_SIZE.

python -m tests.support.distributed_worker MODEL OUT
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from mmalign.models.references import find_source
from mmalign.registry.catalog import Catalog
from mmalign.registry.plugins import load_plugins
from mmalign.train.distributed import Processes
from mmalign.train.roles import Models
from mmalign.train.step import Engine, StepModule, accumulate
from tests.support.clip_batches import make_batch

CASES = [("infonce", 0), ("infonce", 2), ("infonce", 3), ("sigmoid", 2)]


def gradients_of(folder: Path, processes: Processes, loss: str, micro: int) -> dict[str, torch.Tensor]:
    """This process's share of the batch of eight, through the real engine; gradients after synchronisation.

    Under InfoNCE the bias is a parameter without a gradient.
    """
    from mmalign_objectives.contrastive import Contrastive

    catalog = Catalog(load_plugins())
    source = find_source(str(folder), catalog)
    backbone_class = catalog.load(source.entry)
    backbone = backbone_class.load(source, backbone_class.Config(init_logit_bias=-3.0))
    backbone.module.double()
    objective = Contrastive(Contrastive.Config(loss=loss))
    models = Models({"policy": backbone}, {"policy"})
    models.train(freeze_batchnorm=True)
    phases = {"main": (objective,)}
    forward = StepModule(phases, models)
    engine = Engine(objective, phases, forward, processes, processes.device, objective.weights)
    share = 8 // processes.world_size
    batch = make_batch(backbone).select(range(processes.rank * share, (processes.rank + 1) * share))
    result = accumulate(engine, [batch], micro)
    tensors = {name: parameter.grad for name, parameter in models.trainable() if parameter.grad is not None}
    return {"loss": result.loss.reshape(1), **tensors}


def main() -> None:
    processes = Processes("cpu")
    out = {}
    for loss, micro in CASES:
        for name, value in gradients_of(Path(sys.argv[1]), processes, loss, micro).items():
            out[f"{loss}-{micro}/{name}"] = value.contiguous()
    save_file(out, f"{sys.argv[2]}-{processes.rank}.safetensors")
    processes.close()
    tasks = Path("/proc/self/task").glob("*/comm")  # none but on Linux
    assert not [name for name in (task.read_text().strip() for task in tasks) if "gloo" in name]


if __name__ == "__main__":
    main()
