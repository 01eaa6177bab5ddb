"""Two steps of PPO on so many processes, once each. Forks, so that all is imported once.

    python -m tests.support.online_worker OUT 1 2

OUT/WORLD-RANK.safetensors: the advantages of each step in this process's share, the KL coefficient, the weights.
"""

import multiprocessing
import os
import socket
import sys
import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file

from mmalign.errors import RewardError
from mmalign.stop import StopRequest, interruptible
from mmalign.testing.bench import Workbench
from mmalign.testing.trainer import build_trainer
from mmalign.train.step import updates

OPTIONS = {"epochs": 2, "minibatches": 1, "kl_target": 0.5, "kl_coef": 0.2, "scale_scores": True}


def main(out: Path, worlds: list[int]) -> None:
    bench = Workbench({}, {})
    bench.model("tiny-gpt2")
    torch.set_num_threads(1)
    for world in worlds:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        context = multiprocessing.get_context("fork")
        workers = [context.Process(target=work, args=(bench, rank, world, port, out)) for rank in range(world)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forks before any of these threads computes
            for worker in workers:
                worker.start()
        for worker in workers:
            worker.join(120)
        assert [worker.exitcode for worker in workers] == [0] * world


def work(bench: Workbench, rank: int, world: int, port: int, out: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    trainer = build_trainer(bench.catalog.find("objectives", "ppo"), "tiny-gpt2", bench, options=OPTIONS)
    share = 8 // world
    first = rank * share
    batches = [batch.select(range(first, first + share)) for batch in trainer.batches]
    optimizer = trainer.optimizer(1e-3)
    tensors = {}
    for step in range(2):
        prepared = trainer.prepare(batches, first_row=first)
        tensors[f"advantages-{step}"] = prepared[0]["advantages"].values
        for update in updates(trainer.passes, 0, step, prepared[0], {}):
            trainer.gradients_of(update)
            optimizer.step()
        trainer.steps += 1
    tensors["beta"] = torch.tensor(trainer.objective.state["beta"], dtype=torch.float64)
    tensors |= {name: parameter.detach() for name, parameter in trainer.models.trainable()}
    if world == 2:  # what fails on one process stops all of them with its words
        stop = StopRequest()
        try:
            interruptible(stop, trainer.engine.processes.gather_objects, lambda: fail() if rank else None)
        except RewardError as error:
            assert stop.failed_together and str(error) == "process 1: no answer\nask again", error
            tensors["failed"] = torch.tensor(0.0)
    save_file({name: t.contiguous() for name, t in tensors.items()}, out / f"{world}-{rank}.safetensors")
    trainer.engine.processes.close()


def fail() -> None:
    raise RewardError("no answer", hint="ask again")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(word) for word in sys.argv[2:]])
