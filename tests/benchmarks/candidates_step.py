"""What a list of candidates costs: a step of sft on clip-lite beside a plain classifier's step on the same tower.

    python tests/benchmarks/candidates_step.py --candidates 1000 --batch 32 --steps 5

Both read the same pictures with the image tower, backpropagate and step AdamW, in turns in one process. The classifier
has a linear layer [candidates, D] in the place of the texts. `locked` embeds the texts once; `trained` embeds them once
a step, with their gradient. Printed: the median seconds of each, and their ratios to the classifier's.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn.functional import cross_entropy

from mmalign.contract.batch import Batch
from mmalign.device import keep_freed_memory
from mmalign.language.sequences import Sequences
from mmalign.models.load import load_model
from mmalign.models.references import find_source
from mmalign.pairs.candidates import CandidateModel
from mmalign.registry.catalog import Catalog
from mmalign.registry.plugins import load_plugins
from mmalign.train.build import wire
from mmalign.train.config import TrainConfig
from mmalign.train.distributed import Processes
from mmalign.train.step import accumulate


def through_candidates(catalog: Catalog, number: int, pixels: torch.Tensor, *, locked: bool) -> Callable[[], None]:
    model = load_model(catalog, find_source("clip-lite", catalog), {"lock_text": locked})
    view = CandidateModel(model, [f"a photo of object number {index}" for index in range(number)])
    entry = catalog.find("objectives", "sft")
    target = catalog.load(entry)
    objective = target(target.Config())
    models, engine = wire(entry.spec, objective, view, TrainConfig(), Processes("cpu"))
    answers = [[torch.tensor([index % number])] for index in range(len(pixels))]
    batch = Batch(
        {"key": tuple(map(str, range(len(pixels)))), "sequences": Sequences.of_pictures(pixels).with_answers(answers)}
    )
    optimizer = torch.optim.AdamW([parameter for _, parameter in models.trainable()], 1e-5)
    models.train(freeze_batchnorm=False)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        accumulate(engine, [batch])
        optimizer.step()

    return step


def classifier(catalog: Catalog, number: int, pixels: torch.Tensor) -> Callable[[], None]:
    model = load_model(catalog, find_source("clip-lite", catalog), {"lock_text": True})
    head = torch.nn.Linear(model.encode_image(pixels[:1]).shape[1], number, bias=False)
    labels = torch.arange(len(pixels)) % number
    parameters = [parameter for parameter in model.module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW([*parameters, *head.parameters()], 1e-5)
    model.module.train()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        cross_entropy(head(model.encode_image(pixels)), labels).backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=5)
    given = parser.parse_args()
    keep_freed_memory()  # as runs do
    catalog = Catalog(load_plugins())
    size = load_model(catalog, find_source("clip-lite", catalog)).processor.preprocess.size
    pixels = torch.randn(given.batch, 3, *size, generator=torch.Generator().manual_seed(0))
    steps = {
        "classifier": classifier(catalog, given.candidates, pixels),
        "locked": through_candidates(catalog, given.candidates, pixels, locked=True),
        "trained": through_candidates(catalog, given.candidates, pixels, locked=False),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(given.steps + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if turn:  # the first makes optimiser state and embeds locked texts
                seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {name: round(value / medians["classifier"], 3) for name, value in medians.items()}
    print(json.dumps({"seconds a step": {name: round(value, 3) for name, value in medians.items()}, "ratio": ratios}))


if __name__ == "__main__":
    main()
