"""A tiny model of every family that transformers has a causal language model for, from its own default config.

    folder = write("gpt_neo", tmp_path / "gpt_neo")      # raises CannotBuild, with the reason

Sizes are shrunk by the names of a config's fields, windows and chunks to 8 tokens, so that a row of 40 lies past all of
them. Weights are drawn wide (0.2 for matrices): with transformers' 0.02, attention is a mean and errors do not show.
"""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mmalign.testing.models import tiny_tokenizer

LAYERS, WINDOW, CONTEXT, SPREAD = 4, 8, 96, 0.2
VOCABULARY = 323 + 5  # of the tiny tokenizer, with room
# Fields that hold a size, and what each becomes where a family has it.
_SIZES: dict[Any, str] = {
    32: "hidden_size d_model n_embd dim emb_dim embedding_dim word_embed_proj_dim embedding_size input_embedding_size "
    "output_embedding_size lru_width attention_hidden_size ple_embed_dim moe_intermediate_size prompt_mid_dim "
    "shared_expert_intermediate_size expert_ffn_hidden_size shared_experts_intermediate_size "
    "moe_shared_expert_intermediate_size",
    64: "intermediate_size ffn_dim encoder_ffn_dim decoder_ffn_dim ffn_hidden_size dim_ff dff d_inner mamba_d_ssm "
    "feed_forward_size intermediate_size_mlp dense_intermediate_size shared_intermediate_size",
    LAYERS: "num_hidden_layers n_layer n_layers num_layers decoder_layers num_decoder_layers num_blocks encoder_layers "
    "num_encoder_layers num_attention_heads n_head n_heads num_heads attention_heads decoder_attention_heads "
    "encoder_attention_heads num_encoder_attention_heads num_decoder_attention_heads swa_num_attention_heads "
    "index_n_heads linear_num_heads qk_rope_head_dim rotary_dim linear_num_key_heads linear_num_value_heads "
    "num_experts n_routed_experts num_local_experts moe_num_experts mamba_dt_rank time_step_rank router_hidden_size "
    "d_rel",
    2: "num_key_value_heads num_kv_heads num_query_groups swa_num_key_value_heads kv_n_heads num_experts_per_tok "
    "num_experts_per_token moe_topk moe_k zero_expert_num attn_layer_period expert_layer_period",
    WINDOW: "head_dim d_head kv_channels dim_head swa_head_dim attention_head_size d_kv v_head_dim qk_nope_head_dim "
    "index_head_dim linear_head_dim linear_key_head_dim linear_value_head_dim sliding_window sliding_window_size "
    "window_size keep_window_size attention_window_size attention_chunk_size local_attention block_size "
    "index_block_size mamba_chunk_size chunk_size index_topk rel_extent mamba_d_state state_size ssm_state_size "
    "hidden_size_per_layer_input mamba_n_heads mamba_num_heads n_mamba_heads mamba_d_head mamba_head_dim "
    "mamba_headdim query_pre_attn_scalar dim_model_base",
    12: "qk_head_dim",
    16: "q_lora_rank kv_lora_rank laurel_rank o_lora_rank gated_norm_rank adapter_rank hc_lowrank",
    1: "n_group topk_group num_expert_group n_groups mamba_n_groups mamba_ngroups o_groups n_shared_experts "
    "num_shared_experts moe_num_shared_experts attn_layer_offset expert_layer_offset first_k_dense_replace "
    "num_dense_layers",
    0: "num_kv_shared_layers num_nextn_predict_layers",
    CONTEXT: "max_position_embeddings n_positions n_ctx max_seq_len seq_length max_target_positions context_length "
    "model_max_length",
    VOCABULARY: "vocab_size vocab_size_per_layer_input unpadded_vocab_size",
}
_SMALL = {name: size for size, names in _SIZES.items() for name in names.split()} | {"is_decoder": True}
_COUNTS_LAYERS = "num_hidden_layers n_layer n_layers num_layers decoder_layers num_decoder_layers num_blocks".split()
_ALWAYS = ("head_dim", "num_key_value_heads")  # set where the default is None


class CannotBuild(Exception):
    """Why a family has no tiny model."""


# What a family's config demands besides.
_BOTH = {kind: {"rope_type": "default", "rope_theta": 10_000.0} for kind in ("full_attention", "sliding_attention")}
_MLA = {"num_key_value_heads": 4, "head_dim": 4}
_OWN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        "axk1 axk2 bailing_hybrid deepseek_v2 deepseek_v3 deepseek_v32 glm4_moe_lite glm_moe_dsa kimi_linear "
        "longcat_flash minicpm3 sarvam_mla youtu".split(),
        _MLA,
    ),
    "deepseek_v2": {**_MLA, "num_experts_per_tok": 2},
    "dots3_note": {"num_key_value_heads": 4},
    "bamba": {"attn_layer_indices": [1, 3]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "mamba2": {"head_dim": 8, "num_heads": 8},
    "zamba": {"attention_hidden_size": 64, "attention_head_dim": 16, "n_mamba_heads": 2},
    "zamba2": {"attention_hidden_size": 64, "attention_head_dim": 16},
    "zaya": {"num_experts_per_tok": 1},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "moe_intermediate_size": 32, "num_experts_per_tok": 2},
    "dbrx": {"attn_config": {"rope_theta": 10_000.0, "kv_n_heads": 2, "clip_qkv": 8}},
    "cohere_compass_text": {"rope_parameters": _BOTH},
    "xmod": {"default_language": "en_XX"},
    "dory": {"n_input_layers": 1, "n_recurrent_layers": 2, "n_output_layers": 1, "num_hidden_layers": 4},
    "blt": {"encoder_hash_byte_group_vocab": 64},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "ministral3": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10_000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 24,
            "llama_4_scaling_beta": 0.1,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
        }
    },
    "reformer": {"axial_pos_shape": [8, 12], "axial_pos_embds_dim": [16, 16]},
    "qwen4_exp_text": {
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 8,
        "indexer_compress_ratio": 2,
    },
    "dots3_note_text": {"num_key_value_heads": 4},
}


def families() -> dict[str, str]:
    """Name in transformers' list -> class."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_config(name: str, **changes: Any) -> Any:
    """The family's default config, shrunk; raises CannotBuild."""
    from transformers import CONFIG_MAPPING

    cls = CONFIG_MAPPING[name]
    try:
        default = cls().to_dict()
    except Exception as error:
        raise CannotBuild(f"no default config: {type(error).__name__}: {error}") from error
    values = _shrunk(default)
    return cls(**{**values, **_OWN.get(name, {}), **changes})


def _shrunk(default: Mapping[str, Any]) -> dict[str, Any]:
    layers = next((default[key] for key in _COUNTS_LAYERS if default.get(key)), 0)
    lists = {key: v for key, v in default.items() if isinstance(v, list) and layers and len(v) == layers}
    chosen = _covering(list(zip(*map(map_str, lists.values()), strict=True))) if lists else []
    values: dict[str, Any] = {key: [lists[key][i] for i in chosen] for key in lists}
    for key, value in default.items():
        if (
            key in _SMALL
            and (value is not None or key in ("head_dim", "num_key_value_heads"))
            and not isinstance(value, dict | list)
        ):
            values[key] = _SMALL[key]
        elif key.endswith("_token_id") and value is not None:
            values[key] = 0 if key.startswith("pad") else 322 if key.startswith("eos") else 1
        elif key.endswith("_config") and isinstance(value, dict) and key != "per_layer_config":
            values[key] = {k: v for k, v in _shrunk(value).items()} | (
                {"model_type": value["model_type"]} if "model_type" in value else {}
            )
        elif key == "per_layer_config":
            values[key] = None
        elif key.endswith(("dropout", "_pdrop", "_drop", "dropout_prob", "layerdrop")) and isinstance(value, float):
            values[key] = 0.0
    if default.get("rope_parameters"):
        values["rope_parameters"] = _plain_rope(default["rope_parameters"])
    return values


def map_str(values: list[Any]) -> list[str]:
    return [json.dumps(value, default=str) for value in values]


def _covering(kinds: list[tuple[str, ...]]) -> list[int]:
    """LAYERS places of per-layer lists, with every kind of layer where they fit."""
    first = list(dict.fromkeys(kinds))
    chosen = sorted(kinds.index(kind) for kind in first[:LAYERS])
    while len(chosen) < LAYERS:
        chosen.append(chosen[len(chosen) % len(first)])
    return chosen


def _plain_rope(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Without scaling, whose original length would be far away."""
    if any(isinstance(value, dict) for value in stated.values()):
        return {key: _plain_rope(value) if isinstance(value, dict) else value for key, value in stated.items()}
    kept = {k: v for k, v in stated.items() if k in ("rope_theta", "partial_rotary_factor", "mrope_section")}
    return {**kept, "rope_type": "default"}


@torch.no_grad()
def spread(module: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    done = set()
    for parameter in module.parameters():
        if parameter.data_ptr() in done or not parameter.is_floating_point():
            continue
        done.add(parameter.data_ptr())
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            parameter.copy_(SPREAD * noise)
        else:
            parameter.add_(0.1 * noise)


def build(name: str, **changes: Any) -> Any:
    """The tiny model in evaluation mode; raises CannotBuild."""
    import transformers

    try:
        config = tiny_config(name, **changes)
        torch.manual_seed(0)
        cls = getattr(transformers, families()[name])
        if not isinstance(config, cls.config_class):
            config = config.get_text_config(decoder=True)
        module = cls(copy.deepcopy(config)).float().eval()
        if sum(p.numel() for p in module.parameters()) > 20_000_000:
            raise CannotBuild(f"{sum(p.numel() for p in module.parameters()):,} parameters")
        spread(module)
        with torch.no_grad():
            module(input_ids=torch.arange(5, 25)[None])
    except CannotBuild:
        raise
    except Exception as error:
        raise CannotBuild(f"{type(error).__name__}: {' '.join(str(error).split())[:150]}") from error
    return module


def write(name: str, folder: Path, **changes: Any) -> Path:
    """Save it as transformers does, with the tiny tokenizer; raises CannotBuild."""
    from transformers import PreTrainedTokenizerFast

    module = build(name, **changes)
    module.save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.post_processor = None  # type: ignore[assignment]
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>")
    wrapped.model_max_length = CONTEXT
    wrapped.save_pretrained(folder)
    return folder
