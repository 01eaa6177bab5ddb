"""The command `mmalign evaluate`, and held-out measurements of language models (perplexity, preferences, few-shot
classification) and of reward models (how they order answers).

mmalign evaluate perplexity --backbone ./model
"""

from mmalign import CommandSpec, EvaluationSpec, hookimpl

_LANGUAGE_MODEL = ("hidden_states", "token_logps")


@hookimpl
def register_commands() -> list[CommandSpec]:
    return [
        CommandSpec(
            name="evaluate",
            summary="Measure a model on held-out data.",
            target="mmalign_evals.command:command",
            group="Use",
        )
    ]


@hookimpl
def register_evaluations() -> list[EvaluationSpec]:
    return [
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
            relative=True,
        ),
        EvaluationSpec(
            name="few-shot",
            summary="Classify texts by the most probable class name, given a few labelled examples in the prompt",
            target="mmalign_evals.few_shot:FewShot",
            needs=_LANGUAGE_MODEL,
            kind="text-label",
            primary="accuracy",
            in_training="named",
            comparable=True,
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
