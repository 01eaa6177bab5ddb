"""Held-out measurements: of dual encoders zero-shot accuracy and retrieval, of language models perplexity.

mmalign evaluate perplexity --backbone ./model
mmalign train --objective contrastive --set evaluation.names='["retrieval"]'
"""

from mmalign import EvaluationSpec, hookimpl

_DUAL_ENCODER = ("encode_image", "encode_text", "contrastive_head")
_LANGUAGE_MODEL = ("hidden_states", "token_logps")


@hookimpl
def register_evaluations() -> list[EvaluationSpec]:
    return [
        EvaluationSpec(
            name="zero-shot",
            summary="Name the class of labelled images from texts alone: top-1 and top-5",
            target="mmalign_evals.zero_shot:ZeroShot",
            needs=_DUAL_ENCODER,
            kind="image-label",
            primary="top1",
        ),
        EvaluationSpec(
            name="retrieval",
            summary="Find an image's own caption among all captions and the other way round: recall at 1, 5, 10",
            target="mmalign_evals.retrieval:Retrieval",
            needs=_DUAL_ENCODER,
            kind="image-text",
            primary="mean_r1",
        ),
        EvaluationSpec(
            name="perplexity",
            summary="How well held-out texts, or answers to prompts, are predicted: per token, and in bits per byte",
            target="mmalign_evals.perplexity:Perplexity",
            needs=_LANGUAGE_MODEL,
            kind="text",
            more_kinds=("completion",),
            primary="perplexity",
            higher_is_better=False,
            in_training="named",
        ),
    ]
