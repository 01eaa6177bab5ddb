"""Answers of a language model before and after training, with the same prompts and random numbers.

    written = write_samples(job)           # [Sample(prompt, text), ...]

Prompts come from held-out examples, or are the first words of held-out documents.
"""

from typing import Any, NamedTuple, cast

from torch import Tensor

from mmalign.contract.capabilities import Capability, reads_sequences
from mmalign.data.loader import Sweep
from mmalign.hashing import stable_hash
from mmalign.language.protocols import AnswersProcessor
from mmalign.language.sampling import Sampling
from mmalign.train.build import Job
from mmalign.train.heldout import undisturbed

TEMPERATURE = 0.7
_WORDS = 6  # tokens of a document, as its prompt


class Sample(NamedTuple):
    prompt: str
    text: str


def write_samples(job: Job) -> list[Sample]:
    """Sample up to `evaluation.samples` answers; none if the model cannot generate, or its policy has a head or learns
    no prompts and answers."""
    config, policy = job.plan.evaluation, job.models["policy"]
    roles = [role for role in job.plan.objective.spec.roles if role.name == "policy"]
    writes = any(not role.head and any(map(reads_sequences, role.parsed_needs())) for role in roles)
    if not writes or not config.samples or Capability.GENERATE not in job.plan.source.family.provides:
        return []
    processor = cast(AnswersProcessor, job.encoder.processor)
    length = min(config.sample_tokens, processor.context_length // 2)
    prompts = [prompt.cpu() for prompt in _prompts(job) if 0 < len(prompt) <= processor.context_length - length]
    seeds = [stable_hash("sample", job.plan.train.seed, number) for number in range(len(prompts))]
    with undisturbed(job):
        job.models.eval()
        generated = policy.generate(
            [prompt.to(job.device) for prompt in prompts], Sampling(length, TEMPERATURE, 1.0), seeds
        )
    answers = (ids[: len(ids) - ended] for ids, ended in zip(generated.ids, generated.ended, strict=True))
    return [
        Sample(processor.decode(prompt[int(prompt[0] == processor.end_id) :]), processor.decode(answer))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def side_by_side(before: list[list[str]], after: list[Sample]) -> list[dict[str, str]]:
    """[{"prompt", "before", "after"}, ...]; `before` as it was logged."""
    return [
        {"prompt": new.prompt, "before": old[1], "after": new.text} for old, new in zip(before, after, strict=False)
    ]


def _prompts(job: Job) -> list[Tensor]:
    data: Any = job.heldout if job.num_heldout else job.data
    number = job.plan.evaluation.samples
    for batch in Sweep(data, job.encoder, number, limit=number, max_bad=1.0):
        if "sequences" in batch:
            return batch["sequences"].prompts.rows()
        if "text" in batch:
            return [row[:_WORDS] for row in batch["text"].rows()]
    return []
