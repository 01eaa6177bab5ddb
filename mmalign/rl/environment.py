"""The contract of environments, which play episodes of actions and replies.

    class Riddle:
        Config = RiddleConfig
        def __init__(self, config): ...
        def reset(self, example, seed): self.solution = example.solution; return example.prompt
        def step(self, action): return Turn("", float(self.solution in action), True)

Return an `EnvironmentSpec` for it from `register_environments`; `mmalign plugins check` then tries it out.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

if TYPE_CHECKING:
    from pydantic import BaseModel

    from mmalign.contract.examples import Prompt, Turns


class Turn(NamedTuple):
    """The reply to an action. observation: text that the policy reads next but never learns; in a conversation a turn
    of the user, stripped. reward: of this action; done: the episode is over, and the observation is not read. counts:
    events to sum over a run, such as {"tool_errors": 1}."""

    observation: str
    reward: float
    done: bool
    counts: Mapping[str, int] = MappingProxyType({})


class Environment(Protocol):
    """One episode: reset for an example, then given actions until it is done.

    It runs in a process of its own (`mmalign.rl.environment_host`) and must be a function of its config, the example,
    the seed and the actions. An exception, a slow reply or a reply of another type stops the run. Report errors of its
    tools to the policy, as observations.
    """

    Config: "ClassVar[type[BaseModel]]"

    def __init__(self, config: Any) -> None: ...

    def reset(self, example: "Prompt", seed: int) -> "Turns":
        """The first observation, which is the policy's prompt: the same for all answers to one example."""
        ...

    def step(self, action: str) -> Turn:
        """Reply to the text that the policy wrote, without its end token."""
        ...
