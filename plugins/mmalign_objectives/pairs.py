"""Log-probabilities, lengths and metrics that objectives over pairs of answers share.

SimPO, ORPO and CPO have a file each instead of being options of one objective, because each has its own formula and
hyper-parameters. Their common part is here.
"""

from typing import TYPE_CHECKING

from mmalign.contract.objective import Metrics

if TYPE_CHECKING:
    from torch import Tensor

    from mmalign import Batch
    from mmalign.language.protocols import CausalLM


def pair_logps(backbone: "CausalLM", batch: "Batch") -> "Tensor":
    """[N, 2]: log pi(w|x) and log pi(l|x), sums over tokens, in nats."""
    from mmalign.language.derive import sequence_logps

    return sequence_logps(backbone, batch["sequences"]).view(-1, 2)


def pair_tokens(batch: "Batch") -> "Tensor":
    """[N, 2] int64 on the CPU: how many tokens of the chosen and the rejected answer are labels, at least 1."""
    return batch["sequences"].num_labels().clamp(min=1).view(-1, 2)


def pair_weights(batch: "Batch") -> "Tensor":
    """[N] float64 on the CPU: the weight of each example in every term of a loss; 1 where the data have none."""
    import torch

    from mmalign.language.sequences import weight_list

    return torch.tensor(weight_list(batch), dtype=torch.float64)


def pair_metrics(rewards: "Tensor") -> Metrics:
    """rewards: [N, 2], implicit rewards of the chosen and the rejected answer. Equal rewards count as half a win."""
    size, rewards = len(rewards), rewards.detach()
    margin = rewards[:, 0] - rewards[:, 1]
    won = (margin > 0).to(margin.dtype) + 0.5 * (margin == 0).to(margin.dtype)
    return {
        "accuracy": (won.sum(), size),
        "margin": (margin.sum(), size),
        "chosen_reward": (rewards[:, 0].sum(), size),
        "rejected_reward": (rewards[:, 1].sum(), size),
    }
