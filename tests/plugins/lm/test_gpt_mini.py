"""The embedded language model, its recipes, and what it was kept from."""

import json

import pytest
import torch
import yaml
from mmalign_data.reviews import FOLDER as REVIEWS
from mmalign_data.reviews import PROMPT

from mmalign.cli import run
from mmalign.models.references import find_source
from mmalign.registry.catalog import Catalog
from mmalign.registry.plugins import load_plugins
from mmalign.train.layers import load_layers, recipe_path
from mmalign.train.plan import make_plan
from tests.support.project import ROOT

MODEL = ROOT / "plugins" / "mmalign_lm" / "gpt_mini"
PIPELINES = {"instructgpt"}
RECIPES = sorted({path.stem for path in (ROOT / "configs").glob("*.yaml")} - PIPELINES)


@pytest.fixture(scope="module")
def gpt_mini(catalog: Catalog):
    source = find_source("gpt-mini", catalog)
    backbone_class = catalog.load(source.entry)
    return backbone_class.load(source, backbone_class.Config())


def test_it_is_small_and_attributed() -> None:
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= 12_000_000
    attribution = (MODEL / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert all(name in attribution for name in ("WordNet", "Austen", "vaderSentiment"))


def test_plain_transformers_gives_the_same_log_probabilities(gpt_mini) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    ids = tokenizer(f"{PROMPT} A warm and funny film.", return_tensors="pt").input_ids
    torch.testing.assert_close(gpt_mini.processor.prompt(f"{PROMPT} A warm and funny film."), ids[0])
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        found = gpt_mini.module(input_ids=ids).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_it_has_not_learnt_the_held_out_sentences(gpt_mini) -> None:
    """Sentences that were trained on are more probable than those that were not; validation and test are alike."""
    from mmalign.language.derive import label_sums
    from mmalign.language.sequences import Sequences

    rows = [json.loads(line) for line in (REVIEWS / "reviews.jsonl").read_text(encoding="utf-8").splitlines()]
    means = {}
    for split in ("train", "validation", "test"):
        texts = [row["text"] for row in rows if row["split"] == split][::7][:120]
        encoded = [gpt_mini.processor.answers(PROMPT, [f" {text}"]) for text in texts]
        sequences = Sequences.from_lists([item.prompt for item in encoded], [item.answers for item in encoded])
        with torch.no_grad():
            logps = label_sums(gpt_mini, sequences)["logps"]
        means[split] = float(logps.sum()) / int(sequences.num_labels().sum())
    assert means["train"] > max(means["validation"], means["test"]) + 0.2
    assert abs(means["validation"] - means["test"]) < 0.2


def test_generate_writes_behind_the_prompt(capsys) -> None:
    assert run(["generate", "--backbone", "gpt-mini", PROMPT, "--max-tokens", "30", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["text"].startswith(" ") and len(record["text"].split()) > 3


@pytest.mark.parametrize("name", RECIPES)
def test_a_bare_command_has_a_model_data_and_options(name) -> None:
    catalog = Catalog(load_plugins())
    recipe = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text(encoding="utf-8"))
    names = {"objective": recipe["objective"]["name"]}
    plan = make_plan(catalog, load_layers(recipe=recipe_path(name), names=names))
    named = {section: recipe[section]["name"] for section in ("objective", "backbone", "dataset")}
    assert plan.names() == {**named, "optimizer": "adamw"}
    assert plan.train.steps == recipe["train"]["steps"]


def test_every_embedded_objective_has_a_recipe() -> None:
    assert {"contrastive", "pretrain", "sft", "reward", "classify", "dpo"} <= set(RECIPES)
