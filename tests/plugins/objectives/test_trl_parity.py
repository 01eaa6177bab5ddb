"""Losses and gradients against TRL's own trainers, in float64 on a tiny model; `pytest -rP` shows the figures.

TRL's trainers are made without their constructors, which want data and a whole run; their loss methods, their batches'
layout and their language-modelling head are TRL's.
"""

from collections import defaultdict
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmalign_objectives.cpo import ContrastivePreferenceOptimization as CPO
from mmalign_objectives.dpo import DirectPreferenceOptimization as DPO
from mmalign_objectives.kto import KahnemanTverskyOptimization as KTO
from mmalign_objectives.kto import mismatched
from mmalign_objectives.orpo import OddsRatioPreferenceOptimization as ORPO
from mmalign_objectives.reward import RewardModelling
from mmalign_objectives.simpo import SimplePreferenceOptimization as SimPO
from torch import Tensor

from mmalign.contract.batch import Batch
from mmalign.contract.objective import Context, Objective
from mmalign.contract.specs import Role
from mmalign.language.sequences import Sequences
from mmalign.ops.preference import PAIR_LOSSES
from mmalign.train.roles import Models, build_models
from mmalign.train.step import total_loss
from tests.support.lm_samples import some_pairs

trl = pytest.importorskip("trl", reason="TRL is not installed; put an unpacked TRL 1.16 last on PYTHONPATH")
pytestmark = [
    pytest.mark.skipif(not trl.__version__.startswith("1.16."), reason="compares with the loss methods of TRL 1.16"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),  # asked by TRL
]
SINGLE = 1e-6  # where TRL goes through float32: its head (DPO, KTO), its odds (ORPO), and Llama's norms (reward)
HEAD = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")


@pytest.fixture
def models(load_lm, lm_folders) -> Iterator[Models]:
    """A policy some way from its reference, in float64."""
    torch.manual_seed(0)
    policy, reference = (load_lm(lm_folders["tiny_gpt2"]) for _ in range(2))
    with torch.no_grad():
        for parameter in policy.module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    for backbone in (policy, reference):
        backbone.module.double()
    yield Models({"policy": policy, "reference": reference}, {"policy"})


def ours(objective: Objective, models: Models, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    """(loss, gradients) of the policy."""
    with torch.no_grad():
        batch = batch.with_columns(**objective.frozen(models, batch))
        batch = objective.prepare(models, batch, Context(0, 0, lambda tensor: tensor, 8))
    sums, _ = objective.loss(objective.forward(models, batch), batch)
    return with_gradients(total_loss(sums, objective.count(batch), objective.weights)[0], models["policy"].module)


def with_gradients(loss: Tensor, module: Any) -> tuple[Tensor, list[Tensor]]:
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return loss.detach(), [g for g in found if g is not None]


def assert_same(what: str, found: Any, expected: Any, limit: float = 1e-12) -> None:
    gap = abs(float(found[0]) - float(expected[0]))
    steep = max(float((a - b).abs().max()) for a, b in zip(found[1], expected[1], strict=True))
    scale = max(1.0, *(float(gradient.abs().max()) for gradient in expected[1]))
    print(
        f"{what}: loss {float(expected[0]):.6f}, differs by {gap:.1e}; gradients by {steep / scale:.1e} of the largest"
    )
    assert gap <= limit and steep <= limit * scale


def stand_in(trainer_class: Any, models: Models, **attributes: Any) -> Any:
    """A trainer of TRL's with what its loss methods read."""
    trainer = trainer_class.__new__(trainer_class)
    same = lambda tensor: tensor  # noqa: E731
    accelerator = SimpleNamespace(device=torch.device("cpu"), gather=same, gather_for_metrics=same)
    vars(trainer).update(
        model=models["policy"].module,
        ref_model=models["reference"].module,
        accelerator=accelerator,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None, center_rewards_coefficient=None),
        aux_loss_enabled=False,
        precompute_ref_logps=False,
        is_encoder_decoder=False,
        pad_token_id=0,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
        **attributes,
    )
    return trainer


def rows(sequences: Sequences) -> dict[str, Tensor]:
    """[M, T] each, padded on the right: input_ids, attention_mask, completion_mask."""
    prompts = sequences.prompts.rows()
    pieces = [(prompts[n], a) for n, a in zip(sequences.owner.tolist(), sequences.answers.rows(), strict=True)]
    width = max(len(prompt) + len(answer) for prompt, answer in pieces)
    ids, mask, completion = (torch.zeros(len(pieces), width, dtype=torch.int64) for _ in range(3))
    for row, (prompt, answer) in enumerate(pieces):
        end = len(prompt) + len(answer)
        ids[row, :end], mask[row, :end], completion[row, len(prompt) : end] = torch.cat([prompt, answer]), 1, 1
    return {"input_ids": ids, "attention_mask": mask, "completion_mask": completion}


def chosen_first(sequences: Sequences) -> dict[str, Tensor]:
    """Rows of pairs as TRL joins them: all chosen answers, then all rejected ones."""
    return {name: torch.cat([value[0::2], value[1::2]]) for name, value in rows(sequences).items()}


def in_halves(sequences: Sequences) -> dict[str, Tensor]:
    """Rows of pairs as TRL's experimental trainers take them."""
    both = chosen_first(sequences)
    both["labels"] = both["input_ids"].masked_fill(both.pop("completion_mask") == 0, -100)
    halves = {"chosen": slice(0, len(sequences)), "rejected": slice(len(sequences), None)}
    return {f"{half}_{name}": value[part] for name, value in both.items() for half, part in halves.items()}


def one_token_prompts() -> Sequences:
    """Then all that TRL's ORPO learns is the answer: it learns prompts too, but nothing predicts a first token."""
    pairs = some_pairs()
    answers = pairs.answers.rows()
    return Sequences.from_lists([row[:1] for row in pairs.prompts.rows()], [answers[:2], answers[2:]])


@pytest.mark.parametrize(
    ("loss", "smoothing"), [("sigmoid", 0.0), ("robust", 0.0), ("robust", 0.2), ("ipo", 0.0), ("hinge", 0.0)]
)
def test_dpo(models, loss, smoothing) -> None:
    from trl.trainer.dpo_trainer import DPOTrainer
    from trl.trainer.utils import add_fused_lm_head

    named = {"loss_types": [loss], "loss_weights": [1.0], "label_smoothing": smoothing, "beta": 0.3}
    options = {"f_divergence_type": "reverse_kl", "ld_alpha": None, "use_weighting": False}
    trainer = stand_in(DPOTrainer, models, **named, **options)
    objective = DPO(DPO.Config(loss=loss, beta=0.3, label_smoothing=smoothing))
    found = ours(objective, models, Batch({"sequences": some_pairs()}))
    for role in (models["policy"], models["reference"]):
        add_fused_lm_head(role.module, outputs=HEAD)
    expected = trainer._compute_loss(models["policy"].module, chosen_first(some_pairs()), return_outputs=False)
    assert_same(f"dpo {loss}, smoothing {smoothing}", found, with_gradients(expected, models["policy"].module), SINGLE)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.3, 0.7)])
def test_kto(models, weights, backwards) -> None:
    from trl.trainer.kto_trainer import KTOTrainer
    from trl.trainer.utils import add_fused_lm_head

    if backwards:
        models = Models({"policy": models["reference"], "reference": models["policy"]}, {"policy"})
        models["policy"].module.requires_grad_(True)
    sequences = some_pairs()
    prompts = [sequences.prompts.rows()[n] for n in sequences.owner.tolist()]
    sequences = Sequences.from_lists(prompts, [[answer] for answer in sequences.answers.rows()])
    label = torch.tensor([True, False, False, True])
    batch = Batch({"key": ("a", "b", "c", "d"), "sequences": sequences, "label": label})
    options = {"beta": 0.3, "desirable_weight": weights[0], "undesirable_weight": weights[1]}
    found = ours(KTO(KTO.Config(**options)), models, batch)
    # TRL turns the completions of a batch by one place; here they change places by their keys.
    swapped = {f"KL_{name}": value for name, value in rows(mismatched(batch, 32)).items()}
    for role in (models["policy"], models["reference"]):
        add_fused_lm_head(role.module, outputs=HEAD)
    trainer = stand_in(KTOTrainer, models, calculate_KL=True, loss_type="kto", **options)
    inputs = {**rows(sequences), **swapped, "label": label}
    expected = trainer._compute_loss(models["policy"].module, inputs, return_outputs=False)
    z0 = trainer._metrics["eval"]["kl"][0]
    assert (z0 > 0) == backwards, "one way the reference point counts, the other it is cut off at 0"
    assert_same(
        f"kto, weights {weights}, z0 {z0:.2f}", found, with_gradients(expected, models["policy"].module), SINGLE
    )


@pytest.mark.parametrize("name", ["simpo", "cpo"])
def test_simpo_and_cpo(models, name) -> None:
    from trl.experimental.cpo import CPOTrainer

    objective, options = {
        "simpo": (SimPO(SimPO.Config(beta=2.5, gamma=0.6)), {"loss_type": "simpo", "beta": 2.5, "cpo_alpha": 0.0}),
        "cpo": (CPO(CPO.Config(beta=0.3, alpha=0.8)), {"loss_type": "sigmoid", "beta": 0.3, "cpo_alpha": 0.8}),
    }[name]
    trainer = stand_in(CPOTrainer, models, simpo_gamma=0.6, alpha=0.0, label_smoothing=0.0, **options)
    expected, _ = trainer.get_batch_loss_metrics(models["policy"].module, in_halves(some_pairs()))
    found = ours(objective, models, Batch({"sequences": some_pairs()}))
    assert_same(name, found, with_gradients(expected, models["policy"].module))


@pytest.mark.parametrize(("loss", "smoothing"), [("sigmoid", 0.0), ("sigmoid", 0.2), ("ipo", 0.0), ("hinge", 0.0)])
def test_pair_losses_with_label_smoothing(models, loss, smoothing) -> None:
    """TRL's DPO has no smoothed sigmoid any more; its CPO has, on log-probabilities without a reference."""
    from trl.experimental.cpo import CPOTrainer

    options = {"loss_type": loss, "beta": 0.3, "alpha": 0.0, "label_smoothing": smoothing}
    chosen, rejected = torch.randn(2, 64, dtype=torch.float64) * 5 - 20
    expected, _, _ = stand_in(CPOTrainer, models, **options).cpo_loss(chosen, rejected)
    found = PAIR_LOSSES[loss](chosen - rejected, 0.3, smoothing)
    print(f"{loss}, smoothing {smoothing}: differs by {float((found - expected).abs().max()):.1e}")
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_orpo(models) -> None:
    from trl.experimental.orpo import ORPOTrainer

    trainer = stand_in(ORPOTrainer, models, beta=0.25, padding_value=0)
    expected, _ = trainer.get_batch_loss_metrics(models["policy"].module, in_halves(one_token_prompts()))
    found = ours(ORPO(ORPO.Config(odds_weight=0.25)), models, Batch({"sequences": one_token_prompts()}))
    assert_same("orpo", found, with_gradients(expected, models["policy"].module), SINGLE)


@pytest.mark.parametrize("margin", [0.0, 0.4])
def test_reward(load_lm, lm_folders, tmp_path, margin) -> None:
    from transformers import AutoModelForSequenceClassification
    from trl.trainer.reward_trainer import RewardTrainer

    torch.manual_seed(0)
    role = Role(name="policy", needs=("hidden_states",), head="scalar")
    models = build_models((role,), load_lm(lm_folders["tiny_llama"]))
    objective = RewardModelling(RewardModelling.Config(margin=margin))
    objective.save(models, tmp_path / "saved", [])
    scorer = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval().double()
    for module in models.modules():
        module.double()
    batch = Batch({"sequences": some_pairs()})
    sums, _ = objective.loss(objective.forward(models, batch), batch)
    inputs = chosen_first(some_pairs())
    del inputs["completion_mask"]
    inputs["input_ids"][inputs["attention_mask"] == 0] = scorer.config.pad_token_id
    inputs["margin"] = torch.full((2,), margin, dtype=torch.float64)
    trainer = stand_in(RewardTrainer, Models({"policy": models["policy"], "reference": models["policy"]}, {"policy"}))
    expected = trainer.compute_loss(scorer, inputs)
    head = lambda loss, module: (loss.detach(), list(torch.autograd.grad(loss, [module.weight])))  # noqa: E731
    found = head(sums["ranking"] / objective.count(batch)["ranking"], models.head("policy"))
    assert_same(f"reward, margin {margin}", found, head(expected, scorer.score), SINGLE)
