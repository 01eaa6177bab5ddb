"""Answers of a model that is trained: written by a language model, or scored by a reward model.

generate    continue prompts                                           (mmalign generate)
score       put texts in order by a reward model                       (mmalign score)
scoring     the scores themselves, without the command line
texts       texts as arguments, from @FILE or standard input
"""

from mmalign import CommandSpec, hookimpl


@hookimpl
def register_commands() -> list[CommandSpec]:
    return [
        CommandSpec(
            name="generate",
            summary="Continue prompts with a language model.",
            target="mmalign_answers.generate:command",
            group="Use",
        ),
        CommandSpec(
            name="score",
            summary="Rank texts with a reward model.",
            target="mmalign_answers.score:command",
            group="Use",
        ),
    ]
