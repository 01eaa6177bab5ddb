"""Reward modelling: identities with pairs and DPO, the mean, what transformers gives for a saved model, runs."""

import json
from typing import Any

import pytest
import torch
from mmalign_objectives.dpo import DirectPreferenceOptimization as DPO
from mmalign_objectives.reward import RewardModelling

from mmalign.cli import run
from mmalign.contract.batch import Batch, Ragged
from mmalign.contract.specs import Role
from mmalign.language.sequences import Sequences
from mmalign.train.roles import Models, build_models
from tests.support.lm_samples import some_sequences

ROLE = Role(name="policy", needs=("hidden_states",), head="scalar")


@pytest.fixture
def models(load_lm, lm_folders) -> Models:
    torch.manual_seed(0)
    return build_models((ROLE,), load_lm(lm_folders["tiny_llama"]))


def ranked(ranks: list[tuple[float, ...]]) -> Batch:
    return Batch({"sequences": some_sequences().select([0, 2]), "ranks": tuple(ranks)})


def loss_of(models: Models, batch: Batch, **options: Any) -> float:
    objective = RewardModelling(RewardModelling.Config(**options))
    terms, _ = objective.loss(objective.forward(models, batch), batch)
    return float(terms["ranking"].detach())


def test_scores_are_the_head_on_each_answers_last_token(models) -> None:
    batch = ranked([(1, 2), (2, 1, 2)])
    objective = RewardModelling(RewardModelling.Config())
    outputs = objective.forward(models, batch)["scores"]
    sequences, number = batch["sequences"], 0
    assert outputs.shape == (2, 3) and outputs[0, 2] == 0
    for n, prompt in enumerate(sequences.prompts.rows()):
        for k in range(int(sequences.counts[n])):
            row = torch.cat([prompt, sequences.answers.rows()[number]])
            state = models["policy"].module.base_model(input_ids=row[None]).last_hidden_state[0, -1]
            torch.testing.assert_close(outputs[n, k], models.head("policy")(state)[0], rtol=1e-5, atol=1e-5)
            number += 1


def test_scores_keep_their_precision_under_autocast(models) -> None:
    objective = RewardModelling(RewardModelling.Config())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert objective.forward(models, ranked([(1, 2), (2, 1, 2)]))["scores"].dtype == torch.float32


def test_two_answers_are_a_preference_and_dpo_with_a_zero_reference(models) -> None:
    pair = Sequences.from_lists([torch.tensor([5, 6])], [[torch.tensor([7, 8]), torch.tensor([9])]])
    preference, ranking = Batch({"sequences": pair}), Batch({"sequences": pair, "ranks": ((1.0, 2.0),)})
    assert loss_of(models, preference) == pytest.approx(loss_of(models, ranking), abs=1e-12)
    scores = RewardModelling(RewardModelling.Config()).forward(models, preference)["scores"]
    dpo = DPO(DPO.Config(beta=1.0))
    batch = Batch({"sequences": pair, "reference": Ragged.from_list([torch.zeros(2)])})
    terms, _ = dpo.loss({"policy": scores}, batch)
    assert float(terms["preference"].detach()) == pytest.approx(loss_of(models, preference), abs=1e-6)


def test_an_all_tied_prompt_is_counted_and_teaches_nothing(models) -> None:
    objective = RewardModelling(RewardModelling.Config())
    batch = ranked([(1, 1), (2, 1, 2)])
    alone = batch.select([1])
    assert objective.count(batch) == {"ranking": 1.0} == objective.count(alone)
    assert loss_of(models, batch) == pytest.approx(loss_of(models, alone), abs=1e-6)
    terms, metrics = objective.loss(objective.forward(models, ranked([(1, 1), (3, 3, 3)])), ranked([(1, 1), (3, 3, 3)]))
    assert float(terms["ranking"].detach()) == 0.0 and metrics["all_tied"][0] == 2
    split = RewardModelling(RewardModelling.Config(ties="half"))
    assert split.count(batch) == {"ranking": 2.0} and loss_of(models, batch, ties="half") > loss_of(models, batch)


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_gpt2", "tiny_bloom"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_transformers_gives_the_saved_scores_with_either_padding(load_lm, lm_folders, tmp_path, family, side) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    models = build_models((ROLE,), load_lm(lm_folders[family]))
    objective = RewardModelling(RewardModelling.Config())
    batch = ranked([(1, 2), (2, 1, 2)])
    with torch.no_grad():
        expected = objective.score(models, batch)
        mean = objective.mean_of_best(models, [batch])
    sequences = batch["sequences"]
    best = [expected[0], expected[3]]
    assert mean == pytest.approx(float(sum(best)) / 2, abs=1e-6)
    with torch.no_grad():
        objective.save(models, tmp_path / "saved", [batch])
    scorer = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id) and scorer.config.num_labels == 1
    prompts = sequences.prompts.rows()
    rows = [torch.cat([prompts[n], a]) for n, a in zip(sequences.owner.tolist(), sequences.answers.rows(), strict=True)]
    width = max(map(len, rows)) + 2
    ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    for n, row in enumerate(rows):
        ids[n, slice(0, len(row)) if side == "right" else slice(width - len(row), width)] = row
    mask = (ids != tokenizer.pad_token_id).long()
    # Learned positions count from the first real token, as in generation.
    positions = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)} if family == "tiny_gpt2" else {}
    with torch.no_grad():
        found = scorer(input_ids=ids, attention_mask=mask, **positions).logits[:, 0] - scorer.config.mmalign_reward_mean
    torch.testing.assert_close(found, expected - mean, rtol=1e-5, atol=1e-5)


def test_a_run_learns_a_ranking_and_a_reward_model_is_no_policy(lm_folders, tmp_path, capsys) -> None:
    data = tmp_path / "ranked.jsonl"
    answers = [" on the tree", " with a fish", " of a car", " and a bird"]
    with data.open("w") as file:
        for i in range(40):
            order = [(k + i) % 4 for k in range(4)]
            row = {"prompt": f"the cat {i}", "completions": [answers[k] for k in order]}
            file.write(json.dumps({**row, "ranks": [min(k + 1, 3) for k in order]}) + "\n")
    sets = ["train.steps=25", "train.batch_size=8", "train.learning_rate=0.003", "data.num_workers=0"]
    options = [part for value in sets for part in ("--set", value)]
    named = ["--backbone", str(lm_folders["tiny_llama"]), "--dataset", str(data), "--out", str(tmp_path / "run")]
    assert run(["train", "--objective", "reward", *named, *options, "--json"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["after"]["heldout/accuracy"] > 0.9 > outcome["before"]["heldout/accuracy"]
    model = tmp_path / "run" / "model"
    assert json.loads((model / "config.json").read_text())["mmalign_reward_mean"] != 0
    assert run(["train", "--objective", "sft", "--backbone", str(model), "--dataset", str(data)]) == 2
    assert "It is a reward model: mmalign score" in capsys.readouterr().err
    assert run(["score", "--backbone", str(model), "--prompt", "the cat 3", *answers, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["text"] == answers[0]
