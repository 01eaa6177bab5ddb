"""Answers by transformers' continuous batching. A row that ends makes room for the next one at once, and keys and
values are held in pages, so long prompts and answers of very unequal length waste neither passes nor memory. It is made
for GPUs: on a CPU the policy's own generation of short answers is twice as fast.

    mmalign train --objective grpo --set rollout.engine=continuous-batching

It runs on the policy's own weights, so no weights are copied. It draws tokens with its own random numbers, seeded by
the rows' seeds: the same batch gives the same answers again, but a row's answer depends on the other rows. It computes
in the weights' precision, even under autocast, and with the attention that the model was loaded with. Pages are
allocated anew for each turn (half a second), because weights change between steps and a page of old ones must not be
shared.

Before the run, the engine tries whether a family's attention works on such pages: where it does not (ALiBi, GPT-1),
probabilities would be wrong without an error.
"""

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from pydantic import BaseModel
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation import ContinuousBatchingConfig as PagedConfig
from transformers.generation import ContinuousMixin

from mmalign.errors import UsageError
from mmalign.hashing import stable_hash
from mmalign.language.protocols import CausalLM
from mmalign.language.sampling import Generated, Sampling
from mmalign.language.sequences import Sequences
from mmalign.models.folder import quiet
from mmalign_engines.options import ContinuousBatchingConfig

if TYPE_CHECKING:
    from mmalign.rl.episodes import Policy

_NEEDS = {"return_logprobs", "page_size", "seed", "auto_switch_to_flash"}
_TRIED = 8  # tokens of an answer in the trial
# Allowed difference of a token's log-probability in nats, by the weights' precision.
_TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3}
_COARSE = 0.1


class ContinuousBatching:
    """The engine `continuous-batching`."""

    Config: ClassVar[type[BaseModel]] = ContinuousBatchingConfig

    def __init__(self, config: ContinuousBatchingConfig) -> None:
        self.config = config

    def open(self, policy: "Policy") -> None:
        """Draw a few tokens and compare their log-probabilities with the policy's own; raises UsageError."""
        module = _module(policy)
        count, length = policy.processor.num_tokens, min(5, policy.processor.context_length - _TRIED)
        prompts = [torch.arange(1, 1 + n) % count for n in (length, max(1, length - 3), length)]
        try:
            generated = self.generate(policy, prompts, Sampling(max_tokens=_TRIED), [0, 1, 2])
        except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError) as error:
            raise _refusal(module, f"{type(error).__name__}: {error}") from error
        gap = _gap(policy, prompts, generated)
        if not gap <= _TOLERANCE.get(module.dtype, _COARSE):
            raise _refusal(module, f"its log-probabilities differ from the model's own by {gap:.1e} nats")

    def refresh(self, policy: "Policy") -> None:
        """Nothing to do: the engine runs on the policy's weights."""

    def generate(
        self, policy: "Policy", prompts: Sequence[Tensor], sampling: Sampling, seeds: Sequence[int]
    ) -> Generated:
        if not prompts:
            return Generated([], [], [])
        module, ends = _module(policy), policy.processor.end_ids
        devices = [module.device] if module.device.type == "cuda" else []
        with _silent(), torch.no_grad(), torch.random.fork_rng(devices):  # it seeds the global generators
            manager = cast(Any, module).init_continuous_batching(
                generation_config=_generation(sampling, ends),
                continuous_batching_config=self._paged(prompts, sampling, seeds),
            )
            try:
                # All requests are added before it starts: otherwise batches would depend on how fast requests arrive.
                order = manager.add_requests([prompt.tolist() for prompt in prompts])
                manager.start()
                results: dict[str, Any] = {}
                while len(results) < len(order):
                    result = manager.get_result(timeout=1.0)
                    if result is None and not manager.is_running():
                        raise RuntimeError(f"it ended with {len(order) - len(results)} answers to go")
                    if result is not None and result.error is not None:
                        raise RuntimeError(result.error)
                    if result is not None and result.is_finished():
                        results[result.request_id] = result
            finally:
                manager.stop(block=True, hard_stop=True)  # this also restores the model's own attention
                manager.destroy()
        answers = [results[name] for name in order]
        ids = [torch.tensor(one.generated_tokens, dtype=torch.int64) for one in answers]
        logps = [torch.tensor(one.logprobs, dtype=torch.float32) for one in answers]
        return Generated(ids, logps, [int(row[-1]) in ends for row in ids])

    def rest(self) -> None:
        """Nothing to do: pages are freed after each turn."""

    def _paged(self, prompts: Sequence[Tensor], sampling: Sampling, seeds: Sequence[int]) -> PagedConfig:
        page, longest = self.config.page_tokens, max(map(len, prompts)) + sampling.max_tokens
        pages = sum(-(-(len(prompt) + sampling.max_tokens) // page) + 1 for prompt in prompts)
        most = max(self.config.cache_tokens, longest + 2 * page)  # a row longer than the cache would wait for ever
        return PagedConfig(
            page_size=page,
            num_blocks=min(pages, -(-most // page)) + 1,
            max_batch_tokens=self.config.batch_tokens,
            return_logprobs=True,
            seed=stable_hash("continuous-batching", *seeds) >> 2,  # torch takes 63 bits
            use_cuda_graph=False,  # they would be captured anew at every turn
            use_async_batching=False,
            auto_switch_to_flash=False,  # it may fetch kernels from the hub, and takes no float32
        )


@contextmanager
def _silent() -> Iterator[None]:
    """Errors are raised here, so the engine's thread need not log them too."""
    logger = logging.getLogger("ContinuousBatchingLogger")
    was, logger.disabled = logger.disabled, True
    try:
        with quiet():
            yield
    finally:
        logger.disabled = was


def _module(policy: Any) -> PreTrainedModel:
    """Raises UsageError for a policy that is not a model of transformers, and for a transformers that is too old."""
    module = policy.module  # every backbone has one
    if not isinstance(module, PreTrainedModel) or not isinstance(module, ContinuousMixin):
        raise UsageError(
            f"engine continuous-batching draws from language models of transformers, not from {type(policy).__name__}",
            hint="Leave rollout.engine out: the policy then draws by itself.",
        )
    if not _NEEDS <= {field.name for field in fields(PagedConfig)}:
        raise UsageError(
            "engine continuous-batching needs a newer transformers",
            hint="python -m pip install 'transformers>=5.19'",
        )
    return module


def _generation(sampling: Sampling, ends: Collection[int]) -> GenerationConfig:
    drawn = {"do_sample": False}
    if sampling.temperature:
        drawn = {"do_sample": True, "temperature": sampling.temperature, "top_k": 0, "top_p": sampling.top_p}
    return GenerationConfig(max_new_tokens=sampling.max_tokens, eos_token_id=sorted(ends), **drawn)


def _gap(policy: "Policy", prompts: Sequence[Tensor], generated: Generated) -> float:
    """The largest difference between an engine's log-probability of a token and the one used in training."""
    backbone = cast(CausalLM, policy)  # every policy is one
    learn = [[torch.ones(len(ids), dtype=torch.bool)] for ids in generated.ids]
    sequences = Sequences.from_lists(list(prompts), [[ids] for ids in generated.ids], learn)
    with torch.no_grad():
        hidden = backbone.hidden_states(sequences.to(_module(policy).device))
        own = backbone.token_logps(hidden).logps.cpu()
    return float((own - torch.cat(generated.logps).to(own)).abs().max())


def _refusal(module: PreTrainedModel, why: str) -> UsageError:
    return UsageError(
        f"engine continuous-batching cannot draw from a {type(module).__name__} on {module.device}: {why}",
        hint="Leave rollout.engine out: the policy then draws by itself, which works for any family.",
    )
