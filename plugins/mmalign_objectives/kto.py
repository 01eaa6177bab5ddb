r"""Kahneman-Tversky optimisation from single answers, wanted or unwanted: `mmalign train --objective kto`.

r = log pi(y|x) - log ref(y|x)
z0 = max(0, 1/M sum_j log pi(y_j'|x_j) - log ref(y_j'|x_j))
L = 1/N sum_i  lambda_D (1 - sigmoid(beta [r_i - z0]))   where y_i is wanted
               lambda_U (1 - sigmoid(beta [z0 - r_i]))   where it is not

(Ethayarajh 2024, equation 7.) x: prompt; y: answer; ref: the frozen starting model; z0: how far the policy has moved
from ref, estimated on M mismatched pairs, each an answer y' behind the prompt x of another example. z0 has no gradient
and is the same for the whole batch on all processes. Mismatched pairs are formed in the order of hashed example keys,
so neither the order of a batch nor its split into micro-batches changes them; each process pairs its own share. An
answer too long for its new prompt is cut. A single example has no mismatched pair: z0 is then 0.

Use it where answers were judged one by one. With n_D wanted and n_U unwanted answers, the authors choose the weights so
that lambda_D n_D / (lambda_U n_U) lies between 1 and 4/3 (equation 8).
"""

from typing import TYPE_CHECKING

from pydantic import Field

from mmalign import Objective
from mmalign.contract.objective import Context, Metrics, ObjectiveConfig, Outputs
from mmalign.language.protocols import CausalLM

if TYPE_CHECKING:
    from torch import Tensor

    from mmalign import Batch
    from mmalign.contract.roles import Models
    from mmalign.language.sequences import Sequences


class KahnemanTverskyOptimization(Objective):
    """Wanted and unwanted answers, against a frozen reference and the policy's mean distance from it."""

    class Config(ObjectiveConfig):
        beta: float = Field(0.1, gt=0, description="weight of the distance to the reference, in 1/nats")
        desirable_weight: float = Field(1.0, gt=0, description="lambda_D: weight of wanted answers")
        undesirable_weight: float = Field(1.0, gt=0, description="lambda_U: weight of unwanted answers")

    config: Config

    def prepare(self, models: "Models", batch: "Batch", ctx: Context) -> "Batch":
        """Adds reference: [N], the reference's log-probabilities of the answers; z0: [N], the same value in every
        row."""
        import torch

        from mmalign.language.derive import sequence_logps

        policy, frozen = models.role("policy", CausalLM), models.role("reference", CausalLM)
        reference = ctx.map(lambda micro_batch: sequence_logps(frozen, micro_batch["sequences"]), batch)
        sums = torch.zeros(2, dtype=torch.float64)
        if len(batch) > 1:
            swapped = batch.with_columns(sequences=mismatched(batch, policy.processor.context_length))
            by_policy, by_reference = (
                ctx.map(lambda micro_batch, role=role: sequence_logps(role, micro_batch["sequences"]), swapped)
                for role in (policy, frozen)
            )
            sums = torch.stack([(by_policy - by_reference).double().sum().cpu(), torch.tensor(float(len(batch)))])
        log_ratios, pairs = ctx.sum_over_processes(sums).tolist()
        z0 = max(0.0, log_ratios / max(1.0, pairs))
        return batch.with_columns(reference=reference, z0=torch.full_like(reference, z0))

    def forward(self, models: "Models", batch: "Batch") -> Outputs:
        """policy: [N]."""
        from mmalign.language.derive import sequence_logps

        return {"policy": sequence_logps(models.role("policy", CausalLM), batch["sequences"])}

    def loss(self, outputs: Outputs, batch: "Batch") -> "tuple[dict[str, Tensor], Metrics]":
        from mmalign.ops.preference import kto

        ratio, wanted, z0 = outputs["policy"] - batch["reference"], batch["label"].bool(), batch["z0"]
        weights = (self.config.desirable_weight, self.config.undesirable_weight)
        losses = kto(ratio, wanted, z0, self.config.beta, *weights)
        ratio, size = ratio.detach(), len(batch)
        right = ((ratio > z0) == wanted) & (ratio != z0)
        metrics = {
            "accuracy": (right.sum() + 0.5 * (ratio == z0).sum(), size),
            "desirable_reward": (self.config.beta * ratio[wanted].sum(), wanted.sum()),
            "undesirable_reward": (self.config.beta * ratio[~wanted].sum(), (~wanted).sum()),
            "kl": (z0.sum(), size),
        }
        return {"utility": losses.sum()}, metrics

    def count(self, batch: "Batch") -> dict[str, float]:
        return {"utility": len(batch)}


def mismatched(batch: "Batch", context_length: int) -> "Sequences":
    """Every prompt with the answer of another example: the next one in the order of hashed keys. Cut to the context."""
    from mmalign.hashing import stable_hash

    sequences, size = batch["sequences"], len(batch)
    order = sorted(range(size), key=lambda row: stable_hash(batch["key"][row]))
    other = {row: order[(index + 1) % size] for index, row in enumerate(order)}
    answers = sequences.answers.rows()
    learn = sequences.learn.split(sequences.answers.lengths.tolist())
    room = [context_length - length for length in sequences.prompts.lengths.tolist()]
    return sequences.with_answers(
        [[answers[other[row]][: room[row]]] for row in range(size)],
        [[learn[other[row]][: room[row]]] for row in range(size)],
    )
