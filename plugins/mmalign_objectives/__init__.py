"""The built-in objectives: one algorithm, one file."""

from mmalign import SAMPLED_ANSWERS, ObjectiveSpec, Rates, Role, SideStream, hookimpl

# Metrics of objectives that sample answers.
_WATCHED = ("score", "kl", "length")
_OF_UPDATES = frozenset({"clipped", "sampler_gap", "sampler_weight", "sampler_truncated"})


@hookimpl
def register_objectives() -> list[ObjectiveSpec]:
    return [
        ObjectiveSpec(
            name="contrastive",
            summary="Pull matching pictures and texts, or pairs of texts, together: InfoNCE (CLIP) or sigmoid (SigLIP)",
            target="mmalign_objectives.contrastive:Contrastive",
            roles=(Role(name="policy", needs=("encode_text", "contrastive_head")),),
            examples={"main": ("image-text", "text-pair")},
            rates=Rates(
                trained=1e-5,
                random=5e-4,
                size=1.51e8,
                source="CLIP from random weights (Radford 2021), FLYP from trained ones (Goyal 2023)",
            ),
        ),
        ObjectiveSpec(
            name="pretrain",
            summary="Predict the next token of raw text: maximum likelihood",
            target="mmalign_objectives.pretrain:Pretrain",
            roles=(Role(name="policy", needs=("hidden_states", "token_logps")),),
            examples={"main": ("text",)},
            rates=Rates(trained=2e-5, random=2e-4, size=1.3e9, source="GPT-3 (Brown 2020), or TRL's SFT"),
        ),
        ObjectiveSpec(
            name="sft",
            summary="Predict the answers to prompts: supervised fine-tuning",
            target="mmalign_objectives.sft:SupervisedFineTuning",
            roles=(Role(name="policy", needs=("hidden_states", "token_logps")),),
            examples={"main": ("completion",)},
            rates=Rates(trained=2e-5, source="TRL's SFT"),
        ),
        ObjectiveSpec(
            name="reward",
            summary="Score answers as people ranked them: Bradley-Terry over all pairs, or Plackett-Luce",
            target="mmalign_objectives.reward:RewardModelling",
            roles=(Role(name="policy", needs=("hidden_states",), head="scalar"),),
            examples={"main": ("ranking", "preference")},
            relative=True,
            rates=Rates(trained=1e-5, source="InstructGPT's reward model (Ouyang 2022), rounded"),
        ),
        ObjectiveSpec(
            name="classify",
            summary="Classify texts or pictures; on texts with the language model's loss as a second term (GPT-1)",
            target="mmalign_objectives.classify:Classification",
            roles=(Role(name="policy", needs=("hidden_states", "token_logps"), head="classes"),),
            examples={"main": ("text-label", "image-label")},
            rates=Rates(trained=6.25e-5, size=1.17e8, source="GPT-1's fine-tuning (Radford 2018)"),
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
            relative=True,
            rates=Rates(trained=1e-6, source="TRL's DPO"),
            watched=("accuracy", "margin"),
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
            rates=Rates(trained=1e-6, source="TRL's KTO"),
        ),
        _pairs(
            "simpo",
            "simpo:SimplePreferenceOptimization",
            "Prefer the better of two answers by its mean log-probability: SimPO, without a reference",
            Rates(trained=6e-7, size=8e9, source="SimPO (Meng 2024)"),
            relative=True,
        ),
        _pairs(
            "orpo",
            "orpo:OddsRatioPreferenceOptimization",
            "Fine-tune on the better of two answers and raise its odds: ORPO, without a reference",
            Rates(trained=5e-6, size=1.3e9, source="ORPO's own code (Hong 2024)"),
        ),
        _pairs(
            "cpo",
            "cpo:ContrastivePreferenceOptimization",
            "Prefer the better of two answers and imitate it: CPO, without a reference",
            Rates(trained=1e-6, source="TRL's CPO"),
        ),
        ObjectiveSpec(
            name="ppo",
            summary="Sample answers, score them, learn with a critic: proximal policy optimisation (RLHF)",
            target="mmalign_objectives.ppo:ProximalPolicyOptimization",
            roles=(
                Role(name="policy", needs=("hidden_states", "token_logps", "generate")),
                Role(name="critic", needs=("hidden_states",), head="value", source="policy"),
                Role(name="reference", needs=("hidden_states", "token_logps"), trains=False),
            ),
            examples={"main": ("prompt",), "ptx": ("text",)},
            side_streams={"ptx": SideStream(batch_size="ptx_batch_size", only_with="ptx_coef")},
            rates=Rates(trained=9e-6, size=1.3e9, source="InstructGPT's PPO (Ouyang 2022)"),
            feed=SAMPLED_ANSWERS,
            best_by=("score", "high"),
            watched=_WATCHED,
            of_updates=_OF_UPDATES | {"beta"},
        ),
        _online(
            "grpo",
            "grpo:GroupRelativePolicyOptimization",
            "Sample answers, score them, compare each with its siblings: GRPO, Dr. GRPO, DAPO",
            Rates(trained=1e-6, source="TRL's GRPO"),
            reference_only_with="beta",
        ),
        _online(
            "rloo",
            "rloo:ReinforceLeaveOneOut",
            "Sample answers, score them, compare each with the mean of the others: REINFORCE leave-one-out",
            Rates(trained=1e-6, source="TRL's RLOO"),
        ),
        _online(
            "online-dpo",
            "online_dpo:OnlineDirectPreferenceOptimization",
            "Sample answers, rank them by score, prefer the better ones: online DPO",
            Rates(trained=5e-7, source="TRL's online DPO"),
        ),
    ]


def _online(name: str, target: str, summary: str, rates: Rates, reference_only_with: str = "") -> ObjectiveSpec:
    """The spec of an objective that compares sampled answers to a prompt and keeps a frozen reference."""
    needs = ("hidden_states", "token_logps")
    return ObjectiveSpec(
        name=name,
        summary=summary,
        target=f"mmalign_objectives.{target}",
        roles=(
            Role(name="policy", needs=(*needs, "generate")),
            Role(name="reference", needs=needs, trains=False, only_with=reference_only_with),
        ),
        examples={"main": ("prompt",)},
        feed=SAMPLED_ANSWERS,
        fewest_answers=2,
        best_by=("score", "high"),
        watched=_WATCHED,
        of_updates=_OF_UPDATES,
        rates=rates,
    )


def _pairs(name: str, target: str, summary: str, rates: Rates, *, relative: bool = False) -> ObjectiveSpec:
    """The spec of a reference-free objective over pairs."""
    return ObjectiveSpec(
        name=name,
        summary=summary,
        target=f"mmalign_objectives.{target}",
        roles=(Role(name="policy", needs=("hidden_states", "token_logps")),),
        examples={"main": ("preference",)},
        relative=relative,
        rates=rates,
    )
