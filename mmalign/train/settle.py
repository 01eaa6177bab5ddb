"""Fill in options that the user left open, as far as possible before data and weights are loaded.

train, reasons = settle(configs, objective.spec.rates, optimizer.spec, source, backbone_class)
reasons      # {"learning_rate": "TRL's DPO: 1e-06 for all weights at 1 billion parameters, ..."}
"""

from collections.abc import Mapping
from typing import Any

from mmalign.contract.capabilities import Capability
from mmalign.contract.rates import Rates
from mmalign.contract.source import Source
from mmalign.contract.specs import OptimizerSpec
from mmalign.models.size import KnowsSize, ModelSize
from mmalign.train.config import TrainConfig
from mmalign.train.length import with_steps
from mmalign.train.rates import default_rate


def settle(
    configs: Mapping[str, Any], rates: Rates, optimizer: OptimizerSpec, source: Source, backbone: Any
) -> tuple[TrainConfig, dict[str, str]]:
    """(`train` with steps, warm-up and learning rate; option that was left open -> why it has its value).

    backbone: its class.
    """
    train, reasons = with_steps(configs["train"])
    if not train.learning_rate:
        options = configs["backbone"]
        size = backbone.size(source, options) if isinstance(backbone, KnowsSize) else ModelSize(0, False)
        adapts = Capability.ADAPTER_SWITCH in source.family.provides and bool(options.lora.rank)
        rate, reasons["learning_rate"] = default_rate(rates, size, adapter=adapts)
        if optimizer.rate != 1:
            rate *= optimizer.rate
            reasons["learning_rate"] += f"; {optimizer.name} takes {optimizer.rate:g} times AdamW's"
        train = train.model_copy(update={"learning_rate": rate})
    return train, reasons


def lasting_reference(source: Source) -> str:
    """The reference, with a local path made absolute, so that a run can be resumed from anywhere."""
    if source.path is None or source.entry.spec.bundled:
        return source.reference
    prefix = source.reference.partition(":")[0]
    path = str(source.path.absolute())
    return f"{prefix}:{path}" if prefix in source.entry.spec.prefixes else path
