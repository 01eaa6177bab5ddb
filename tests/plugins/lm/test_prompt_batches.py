"""Batches of prompts without answers: encoded, joined, selected, moved, and previewed."""

from typing import Any

import pytest
import torch

from mmalign.contract.batch import Batch
from mmalign.contract.examples import Message, Prompt
from mmalign.data.collate import Encoder, collate
from mmalign.train.preview import show
from tests.support.lm_samples import FAMILIES

PROMPTS = ("a red car", (Message("system", "be kind"), Message("user", "the cat")), "cat " * 40)


def make(backbone: Any) -> Batch:
    encoder = Encoder(backbone.processor, Prompt, seed=0)
    return collate([encoder.encode(Prompt(f"p:{i}", p), 0, i, train=True) for i, p in enumerate(PROMPTS)])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_holds_the_prompts_as_the_processor_gives_them(load_lm, lm_folders, family) -> None:
    backbone = load_lm(lm_folders[family])
    batch, limit = make(backbone), backbone.processor.context_length
    expected = [backbone.processor.prompt(prompt) for prompt in PROMPTS]
    rows = batch["sequences"].prompts.rows()
    assert [row.tolist() for row in rows] == [ids[-limit:].tolist() for ids in expected]
    assert batch["num_lost"].tolist() == [0, 0, max(0, len(expected[2]) - limit)] and batch["key"] == (
        "p:0",
        "p:1",
        "p:2",
    )
    assert batch.cost() == sum(map(len, rows)) and batch["sequences"].num_labels().tolist() == []


def test_it_can_be_split_moved_and_answered(load_lm, lm_folders) -> None:
    backbone = load_lm(lm_folders["tiny_llama"])
    batch = make(backbone)
    picked = batch.select([2, 0]).to("cpu")["sequences"]
    assert [row.tolist() for row in picked.prompts.rows()] == [
        batch["sequences"].prompts.rows()[i].tolist() for i in (2, 0)
    ]
    assert picked.counts.tolist() == [0, 0] and picked.by_prompt(torch.zeros(0)).shape == (2, 0)
    assert len(set(batch["sequences"].row_bytes())) == 3 and len(batch.split(2)) == 2
    assert not picked.is_label.any() and show(batch["sequences"], backbone.processor)[0].strip() == "a red car"
