"""starter: an objective, a data set and a reward for mmalign.

The hooks import nothing heavy: the class that a `target` names is imported when it is used.
"""

from mmalign import DatasetSpec, ObjectiveSpec, RewardSpec, Role, hookimpl


@hookimpl
def register_objectives() -> list[ObjectiveSpec]:
    return [
        ObjectiveSpec(
            name="starter",
            summary="Predict the answers to prompts, the hard tokens most: focal likelihood",
            target="starter.objective:Focal",
            roles=(Role(name="policy", needs=("hidden_states", "token_logps")),),
            examples={"main": ("completion",)},
            watched=("accuracy",),
        )
    ]


@hookimpl
def register_datasets() -> list[DatasetSpec]:
    return [
        DatasetSpec(
            name="starter-data",
            summary="Letters to be put in order, with the answers or without",
            target="starter.dataset:Letters",
            kind="completion",
            more_kinds=("prompt",),
        )
    ]


@hookimpl
def register_rewards() -> list[RewardSpec]:
    return [
        RewardSpec(
            name="starter-reward",
            summary="The share of the solution's words that the answer has in their place",
            target="starter.reward:InPlace",
            examples=("prompt",),
        )
    ]
