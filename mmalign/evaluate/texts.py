"""Batches of a data set of texts for a language model, with counts of the texts that were cut or could not be read.

sweep = TextSweep(backbone.processor, dataset, runtime, max_examples=1000)
for batch in sweep: ...
sweep.counts()                  # {"examples": 990, "truncated": 3, "unreadable": 10}
"""

from collections.abc import Iterator
from typing import Any, cast

from torch.utils.data import Subset

from mmalign.contract.backbone import Processor
from mmalign.contract.batch import Batch
from mmalign.contract.dataset import Dataset
from mmalign.contract.evaluation import Runtime
from mmalign.data.collate import Encoder
from mmalign.data.loader import Sweep
from mmalign.data.order import spread
from mmalign.errors import DataError


class TextSweep:
    """Iterates batches of `runtime.batch_size` examples on its device, once; max_examples: evenly spread, 0 for all.

    Raises DataError at the end where no example could be read.
    """

    def __init__(self, processor: Processor, dataset: Dataset, runtime: Runtime, max_examples: int) -> None:
        chosen: Any = Subset(cast(Any, dataset), list(spread(len(dataset), max_examples)))
        encoder = Encoder(processor, type(dataset[0]), seed=0)
        self._sweep = Sweep(chosen, encoder, runtime.batch_size, max_bad=1.0)
        self._device = runtime.device
        self._examples = self._truncated = 0

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._sweep:
            self._examples += len(batch)
            self._truncated += int((batch["num_lost"] > 0).sum())
            yield batch.to(self._device)
        if not self._examples:
            reason = next(iter(self._sweep.bad.values()), "there are none")
            raise DataError(f"none of {len(self._sweep.bad)} examples can be read: {reason}")

    def counts(self) -> dict[str, int]:
        """So far. truncated: examples that were cut to fit the context; unreadable: examples left out."""
        return {"examples": self._examples, "truncated": self._truncated, "unreadable": len(self._sweep.bad)}
