"""Focal likelihood of the answers to prompts: `mmalign train --objective starter`.

    L = -1/T sum_i sum_t (1 - p_it)^gamma log p_it,   p_it = p(y_it | x_i, y_i,<t)        (Lin 2017, arXiv:1708.02002)

x_i: prompt; y_i: its answer with the end token; T: labels of the global batch. With gamma = 0 it is supervised
fine-tuning; the larger gamma is, the less a token counts that the model predicts already.
"""

import torch
from mmalign import Batch, Objective
from mmalign.contract.objective import Metrics, ObjectiveConfig, Outputs
from mmalign.contract.roles import Models
from mmalign.language.protocols import CausalLM
from pydantic import Field
from torch import Tensor


class Focal(Objective):
    """Next-token prediction, each label weighted by how unlikely it still is."""

    class Config(ObjectiveConfig):
        gamma: float = Field(2.0, ge=0, le=10, description="exponent of the weight; 0: all tokens count alike")

    config: Config

    def forward(self, models: Models, batch: Batch) -> Outputs:
        """logps: [P], the log-probability of each label in nats; hits: [P], whether no token is more probable."""
        policy = models.role("policy", CausalLM)
        found = policy.token_logps(policy.hidden_states(batch["sequences"]))
        return {"logps": found.logps, "hits": found.hits}

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[dict[str, Tensor], Metrics]:
        logps, num_labels = outputs["logps"], len(outputs["logps"])
        missing = -torch.expm1(logps)  # 1 - p, exact near p = 1
        weight = missing.clamp(min=1e-6) ** self.config.gamma  # below gamma = 1 a power has no gradient at 0
        metrics = {"nll": (-logps.detach().sum(), num_labels), "accuracy": (outputs["hits"].sum(), num_labels)}
        return {"focal": -(weight * logps).sum()}, metrics

    def count(self, batch: Batch) -> dict[str, float]:
        return {"focal": float(batch["sequences"].num_labels().sum())}
