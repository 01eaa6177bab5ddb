"""What an environment looks like to the rest: an episode of actions and what is said to them.

    class Riddle:
        Config = RiddleConfig
        def __init__(self, config): ...
        def reset(self, example, seed): self.solution = example.solution; return example.prompt
        def step(self, action): return Turn("", float(self.solution in action), True)

Return an `EnvironmentSpec` with its place from `register_environments`; `mmalign plugins check` then tries it out.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

if TYPE_CHECKING:
    from pydantic import BaseModel

    from mmalign.contract.examples import Prompt, Turns


class Turn(NamedTuple):
    """What an environment says to an action. observation: what the policy reads next, and never learns; in a
    conversation it is a turn of the user, without the space around it. reward: of this action; done: the episode is
    over, and there is no observation. counts: what happened, to be added up over a run, such as {"tool_errors": 1}."""

    observation: str
    reward: float
    done: bool
    counts: Mapping[str, int] = MappingProxyType({})


class Environment(Protocol):
    """One episode: made for a prompt, asked for an observation, told actions until it is done.

    It lives in a process beside the run's (`mmalign.rl.environment_host`) and is a function of its config, the example,
    the seed and the actions. What it raises, a reply that takes too long, or one of another type stops the run. What
    its tools do wrong is for it to tell the policy, as an observation.
    """

    Config: "ClassVar[type[BaseModel]]"

    def __init__(self, config: Any) -> None: ...

    def reset(self, example: "Prompt", seed: int) -> "Turns":
        """The first observation: what the policy reads as its prompt. The same for all answers to one example."""
        ...

    def step(self, action: str) -> Turn:
        """What follows the text that the policy wrote, its end token left out."""
        ...
