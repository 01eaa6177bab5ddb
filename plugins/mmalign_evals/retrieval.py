"""Image-text retrieval on a data set of pairs, both ways.

Retrieval(Retrieval.Config(max_examples=1000)).run(backbone, dataset, Runtime(device))
# {"image_to_text_r1": 0.41, "image_to_text_r1_low": 0.38, ..., "mean_r1": 0.40, ..., "images": 990, "texts": 1000, ...}
"""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from mmalign.contract.backbone import DualEncoder
from mmalign.contract.dataset import Dataset
from mmalign.contract.evaluation import Runtime
from mmalign.evaluate.intervals import with_interval
from mmalign.evaluate.retrieval import embed_dataset, recalls


class RetrievalConfig(BaseModel):
    """Which pairs to search among."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_examples: int = Field(
        0, ge=0, description="pairs to use, evenly spread over the data; 0: all. Recall falls as more are searched"
    )


class Retrieval:
    """Recall at 1, 5 and 10 both ways, with 95% intervals, and their mean. Ties count against the model."""

    Config: ClassVar[type[BaseModel]] = RetrievalConfig

    def __init__(self, config: RetrievalConfig) -> None:
        self.config = config

    def run(self, backbone: DualEncoder, dataset: Dataset, runtime: Runtime) -> Mapping[str, float]:
        """Raises DataError where no image can be read, and NonFiniteError."""
        embedded = embed_dataset(backbone, dataset, runtime, self.config.max_examples)
        counts = {"images": len(embedded.image), "texts": len(embedded.text), "unreadable": len(embedded.unreadable)}
        found = recalls(embedded)
        for name, share in list(found.items()):
            if not name.startswith("mean"):  # of two shares that depend on each other: no interval is known
                total = counts["images" if name.startswith("image_to_text") else "texts"]
                found |= with_interval(name, share * total, total)
        return {**found, **counts}
