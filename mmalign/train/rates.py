"""The default peak learning rate: the objective's own, scaled by the model's size and by what trains.

    default_rate(spec.rates, ModelSize(8_000_000_000, random=False), adapter=False)     # 5e-07, "TRL's DPO, ..."

An objective states rates for one size (`mmalign.contract.rates.Rates`). They fall with the cube root of the size:
the peak rates of GPT-3 from 125 million to 13 billion parameters (Brown 2020, table 2.1) have the power -0.39, and
those of Tulu 3's SFT and DPO from 8 to 70 billion (Lambert 2024) -0.42. A low-rank adapter takes about ten times the
rate of all weights, whatever the size (Schulman 2025, "LoRA Without Regret"; TRL's scripts for SFT and DPO do so too).
"""

from mmalign.contract.rates import Rates, in_words
from mmalign.models.size import ModelSize

_POWER = -1 / 3
_SMALLEST = 1e6  # parameters: no published rates for smaller models


def default_rate(rates: Rates, size: ModelSize, *, adapter: bool) -> tuple[float, str]:
    """(the rate, to two digits; why it has that value). adapter: only a low-rank adapter trains."""
    rate = rates.at_size(adapter=adapter, random=size.random)
    trained = "a low-rank adapter" if adapter else "random weights" if size.random else "all weights"
    why = f"{rates.source}: {rate:g} for {trained} at {in_words(rates.size)} parameters"
    if not size.parameters:
        return rate, f"{why}; the size of this model is not known before it is loaded"
    factor = (max(size.parameters, _SMALLEST) / rates.size) ** _POWER
    return float(f"{rate * factor:.2g}"), f"{why}, and this model has {in_words(size.parameters)}"
