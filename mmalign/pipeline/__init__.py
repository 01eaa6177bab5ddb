"""Several commands in a row, each with what the ones before it made: `mmalign pipeline instructgpt`.

answers     prompts with answers in a JSONL file, and how rewards see them
sample      a model's answers to the prompts of a data set             (mmalign sample)
rank        answers put in order by a judge                            (mmalign rank)
sheet       the same by people: a file to fill in, and to read back
config      what a pipeline's file may say, and what stages hand on
check       every stage checked before the first one runs
folder      what is done already, and whether it is the same pipeline
run         stages in order, resumed inside any of them
compare     the models side by side, on prompts that none of them learnt from
report      one page about all of it
"""
