"""The built-in objectives: one algorithm, one file."""

from mmalign import ObjectiveSpec, Role, hookimpl


@hookimpl
def register_objectives() -> list[ObjectiveSpec]:
    return [
        ObjectiveSpec(
            name="contrastive",
            summary="Pull matching image-text pairs together: InfoNCE (CLIP) or sigmoid (SigLIP)",
            target="mmalign_objectives.contrastive:Contrastive",
            roles=(Role(name="policy", needs=("encode_image", "encode_text", "contrastive_head")),),
            examples={"main": ("image-text",)},
        ),
        ObjectiveSpec(
            name="pretrain",
            summary="Predict the next token of raw text: maximum likelihood",
            target="mmalign_objectives.pretrain:Pretrain",
            roles=(Role(name="policy", needs=("hidden_states", "token_logps")),),
            examples={"main": ("text",)},
        ),
        ObjectiveSpec(
            name="sft",
            summary="Predict the answers to prompts: supervised fine-tuning",
            target="mmalign_objectives.sft:SupervisedFineTuning",
            roles=(Role(name="policy", needs=("hidden_states", "token_logps")),),
            examples={"main": ("completion",)},
        ),
        ObjectiveSpec(
            name="reward",
            summary="Score answers as people ranked them: Bradley-Terry over all pairs, or Plackett-Luce",
            target="mmalign_objectives.reward:RewardModelling",
            roles=(Role(name="policy", needs=("hidden_states",), scalar_head=True),),
            examples={"main": ("ranking", "preference")},
        ),
        ObjectiveSpec(
            name="dpo",
            summary="Prefer the better of two answers: direct preference optimisation",
            target="mmalign_objectives.dpo:DirectPreferenceOptimization",
            roles=(
                Role(name="policy", needs=("hidden_states", "token_logps")),
                Role(name="reference", needs=("hidden_states", "token_logps"), trains=False),
            ),
            examples={"main": ("preference", "ranking")},
        ),
    ]
