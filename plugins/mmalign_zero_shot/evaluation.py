"""Zero-shot accuracy on a labelled data set.

ZeroShot(ZeroShot.Config(templates="openai-7")).run(backbone, dataset, Runtime(device))
# {"examples": 500, "top1": 0.61, "top1_low": 0.57, "top1_high": 0.65, "top5": ..., "unreadable": 0}
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from mmalign.contract.backbone import DualEncoder
from mmalign.contract.dataset import LabelledDataset
from mmalign.contract.evaluation import Runtime
from mmalign.data.order import spread
from mmalign.errors import DataError
from mmalign_zero_shot.accuracy import Accuracy
from mmalign_zero_shot.classifier import Classifier, build_classifier, classify
from mmalign_zero_shot.labels import build_labels, read_templates


class ZeroShotConfig(BaseModel):
    """The texts of the classes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str = Field("a photo of a <object>", description="text for a class; <object>, {} or {c} is its name")
    templates: str = Field("plain", description="plain (the label alone), openai-7, openai-80 or @file, averaged")
    max_examples: int = Field(0, ge=0, description="images to use, evenly spread over the data; 0: all")


class ZeroShot:
    """Top-1 and top-5 with 95% intervals, as shares from 0 to 1."""

    Config: ClassVar[type[BaseModel]] = ZeroShotConfig

    def __init__(self, config: ZeroShotConfig) -> None:
        self.config = config

    def run(self, backbone: DualEncoder, dataset: LabelledDataset, runtime: Runtime) -> Mapping[str, float]:
        """Raises UsageError for a label without a placeholder, DataError where no image can be read."""
        templates = read_templates(self.config.templates)
        labels, _ = build_labels([self.config.label], dataset.classes, (), templates)
        weights = build_classifier(backbone, labels, runtime).weights
        classifier = Classifier(labels, weights, backbone.contrastive_head())
        examples: list[Any] = [dataset[index] for index in spread(len(dataset), self.config.max_examples)]
        accuracy, unreadable = Accuracy(len(labels)), ""
        refs = [example.image for example in examples]
        for index, result in classify(classifier, backbone, refs, runtime):
            if isinstance(result, str):
                unreadable = unreadable or result
            else:
                accuracy.add(examples[index].key, examples[index].label, result.scores)
        if not accuracy.ranks:
            raise DataError(f"zero-shot: none of {len(examples)} images can be used: {unreadable or 'no examples'}")
        return {**accuracy.summary(), "unreadable": len(examples) - len(accuracy.ranks)}
