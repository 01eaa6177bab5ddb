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
            roles=(Role(name="policy", needs=("hidden_states",), head="scalar"),),
            examples={"main": ("ranking", "preference")},
        ),
        ObjectiveSpec(
            name="classify",
            summary="Tell the class of a text, with the language model's loss beside it: GPT-1's fine-tuning",
            target="mmalign_objectives.classify:Classification",
            roles=(Role(name="policy", needs=("hidden_states", "token_logps"), head="classes"),),
            examples={"main": ("text-label",)},
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
        ObjectiveSpec(
            name="kto",
            summary="Make wanted answers likelier and others less likely, one by one: Kahneman-Tversky optimisation",
            target="mmalign_objectives.kto:KahnemanTverskyOptimization",
            roles=(
                Role(name="policy", needs=("hidden_states", "token_logps")),
                Role(name="reference", needs=("hidden_states", "token_logps"), trains=False),
            ),
            examples={"main": ("labelled-completion",)},
        ),
        _pairs(
            "simpo",
            "simpo:SimplePreferenceOptimization",
            "Prefer the better of two answers by its mean log-probability: SimPO, without a reference",
        ),
        _pairs(
            "orpo",
            "orpo:OddsRatioPreferenceOptimization",
            "Fine-tune on the better of two answers and raise its odds: ORPO, without a reference",
        ),
        _pairs(
            "cpo",
            "cpo:ContrastivePreferenceOptimization",
            "Prefer the better of two answers and imitate it: CPO, without a reference",
        ),
        ObjectiveSpec(
            name="ppo",
            summary="Sample answers, score them, learn with a critic: proximal policy optimisation (RLHF)",
            target="mmalign_objectives.ppo:ProximalPolicyOptimization",
            roles=(
                Role(name="policy", needs=("hidden_states", "token_logps", "generate")),
                Role(name="critic", needs=("hidden_states",), head="value"),
                Role(name="reference", needs=("hidden_states", "token_logps"), trains=False),
            ),
            examples={"main": ("prompt",), "ptx": ("text",)},
            online=True,
        ),
        _online(
            "grpo",
            "grpo:GroupRelativePolicyOptimization",
            "Sample answers, score them, learn from each beside its siblings: GRPO, Dr. GRPO, DAPO",
        ),
        _online(
            "rloo",
            "rloo:ReinforceLeaveOneOut",
            "Sample answers, score them, learn from each beside the mean of the others: REINFORCE leave-one-out",
        ),
        _online(
            "online-dpo",
            "online_dpo:OnlineDirectPreferenceOptimization",
            "Sample answers, rank them by score, prefer the better ones: online DPO",
        ),
    ]


def _online(name: str, target: str, summary: str) -> ObjectiveSpec:
    """An objective that samples answers to prompts, beside a frozen reference."""
    needs = ("hidden_states", "token_logps")
    return ObjectiveSpec(
        name=name,
        summary=summary,
        target=f"mmalign_objectives.{target}",
        roles=(Role(name="policy", needs=(*needs, "generate")), Role(name="reference", needs=needs, trains=False)),
        examples={"main": ("prompt",)},
        online=True,
    )


def _pairs(name: str, target: str, summary: str) -> ObjectiveSpec:
    """A reference-free objective over pairs."""
    return ObjectiveSpec(
        name=name,
        summary=summary,
        target=f"mmalign_objectives.{target}",
        roles=(Role(name="policy", needs=("hidden_states", "token_logps")),),
        examples={"main": ("preference",)},
    )
