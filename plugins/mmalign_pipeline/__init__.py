"""Runs several commands in a row, each on the results of the ones before: `mmalign pipeline instructgpt`.

answers     prompts with answers in a JSONL file, and the form that rewards get
sample      a model's answers to the prompts of a data set             (mmalign sample)
rank        answers ranked by a judge                                  (mmalign rank)
sheet       answers ranked by people: a file to fill in and read back
config      the pipeline's file, and the outputs that stages pass on
check       checks every stage before the first one runs
folder      which stages are finished, and whether it is the same pipeline
stages      runs the stages in order, and resumes inside any of them
compare     compares the models on prompts that none of them learnt from
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
            summary="Rank answers, by a judge or by people.",
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
