"""Default learning rates of an objective: published ones, with the size of the model that they were used on.

Rates(trained=9e-6, size=1.3e9, source="InstructGPT's PPO (Ouyang 2022)")
"""

from dataclasses import dataclass

_TIMES_TRAINED = 10  # rate of an adapter or of random weights / rate of trained weights, if not stated


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Default peak learning rates of AdamW, for a model of `size` parameters; see `mmalign.train.rates`.

    trained: for all weights of a trained model. random: for random weights. adapter: for a low-rank adapter. If random
    or adapter is 0, it is ten times `trained`. source: the publication or script that the rates come from.
    """

    trained: float = 1e-5
    random: float = 0.0
    adapter: float = 0.0
    size: float = 1e9
    source: str = "a cautious rate for any objective"

    def at_size(self, *, adapter: bool, random: bool) -> float:
        """The rate for a model of `size`."""
        rate = self.adapter if adapter else self.random if random else self.trained
        return rate or _TIMES_TRAINED * self.trained

    def facts(self) -> dict[str, list[str]]:
        """The rates as text, for all weights, random weights and an adapter."""
        at = f"at {in_words(self.size)} parameters"
        return {
            "of all weights": [f"{self.at_size(adapter=False, random=False):g} {at}, after {self.source}"],
            "of random weights": [f"{self.at_size(adapter=False, random=True):g} {at}"],
            "of an adapter": [f"{self.at_size(adapter=True, random=False):g} {at}"],
        }


def in_words(parameters: float) -> str:
    """A number of parameters to three digits: "4.8 million", "1.3 billion"."""
    for unit, name in ((1e9, "billion"), (1e6, "million")):
        if float(f"{parameters:.3g}") >= unit:
            return f"{parameters / unit:.3g} {name}"
    return f"{parameters:,.0f}"
