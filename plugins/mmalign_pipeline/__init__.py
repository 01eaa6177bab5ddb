"""Several commands in a row, each with what the ones before it made: `mmalign pipeline instructgpt`.

answers     prompts with answers in a JSONL file, and how rewards see them
sample      a model's answers to the prompts of a data set             (mmalign sample)
rank        answers put in order by a judge                            (mmalign rank)
sheet       the same by people: a file to fill in, and to read back
config      what a pipeline's file may say, and what stages hand on
check       every stage checked before the first one runs
folder      what is done already, and whether it is the same pipeline
stages      run in order, resumed inside any of them
compare     the models side by side, on prompts that none of them learnt from
report      one page about all of it
"""

from mmalign import CommandSpec, hookimpl


@hookimpl
def register_commands() -> list[CommandSpec]:
    return [
        CommandSpec(
            name="sample",
            summary="Write several answers to each prompt of a data set.",
            target="mmalign_pipeline.sample_command:command",
            group="Use",
        ),
        CommandSpec(
            name="rank",
            summary="Put answers in order, by a judge or by people.",
            target="mmalign_pipeline.rank_command:command",
            group="Use",
        ),
        CommandSpec(
            name="pipeline",
            summary="Run several stages in order: InstructGPT in one command.",
            target="mmalign_pipeline.pipeline_command:command",
            group="Use",
        ),
    ]
