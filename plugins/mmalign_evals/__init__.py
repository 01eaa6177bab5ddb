"""Held-out measurements of dual encoders (zero-shot accuracy, retrieval), language models (perplexity, preferences,
few-shot classification) and reward models (the order that they give to answers).

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
        EvaluationSpec(
            name="preference-accuracy",
            summary="How often the answer that people prefer is the more probable one, as a whole and per token",
            target="mmalign_evals.preference_accuracy:PreferenceAccuracy",
            needs=_LANGUAGE_MODEL,
            kind="preference",
            more_kinds=("ranking",),
            primary="accuracy",
            in_training="named",
        ),
        EvaluationSpec(
            name="few-shot",
            summary="Classify texts by the most probable class name, after a few labelled examples in the prompt",
            target="mmalign_evals.few_shot:FewShot",
            needs=_LANGUAGE_MODEL,
            kind="text-label",
            primary="accuracy",
            in_training="named",
        ),
        EvaluationSpec(
            name="reward-accuracy",
            summary="How often a reward model orders two answers as people did, by how far their ranks are apart",
            target="mmalign_evals.reward_accuracy:RewardAccuracy",
            needs=("score_sequences",),
            kind="ranking",
            more_kinds=("preference",),
            primary="accuracy",
            in_training="named",
        ),
    ]
