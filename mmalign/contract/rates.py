"""Default learning rates of an objective: the published ones, with the size of the model that they were used on.

Rates(trained=9e-6, size=1.3e9, source="InstructGPT's PPO (Ouyang 2022)")
"""

from dataclasses import dataclass

_TIMES_TRAINED = 10  # the rate of an adapter or of random weights, where an objective states none


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Peak learning rates of AdamW where a run names none, for a model of `size` parameters; see `mmalign.train.rates`.

    trained: of all weights of a model that was trained before. random: of random weights; adapter: of a low-rank
    adapter; each ten times `trained` where it is 0. source: where the figures come from, as a reader looks them up.
    """

    trained: float = 1e-5
    random: float = 0.0
    adapter: float = 0.0
    size: float = 1e9
    source: str = "a cautious rate for any objective"

    def at_size(self, *, adapter: bool, random: bool) -> float:
        """The rate for a model of `size`."""
        other = self.adapter if adapter else self.random if random else self.trained
        return other or _TIMES_TRAINED * self.trained

    def facts(self) -> dict[str, list[str]]:
        """By what trains."""
        at = f"at {in_words(self.size)} parameters"
        return {
            "of all weights": [f"{self.at_size(adapter=False, random=False):g} {at}, after {self.source}"],
            "of random weights": [f"{self.at_size(adapter=False, random=True):g} {at}"],
            "of an adapter": [f"{self.at_size(adapter=True, random=False):g} {at}"],
        }


def in_words(parameters: float) -> str:
    """ "4.8 million", "1.3 billion", to three digits."""
    for unit, name in ((1e9, "billion"), (1e6, "million")):
        if float(f"{parameters:.3g}") >= unit:
            return f"{parameters / unit:.3g} {name}"
    return f"{parameters:,.0f}"
