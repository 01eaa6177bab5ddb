"""Models from scratch: published sizes, weights by seed, tokenizers of others, and GPT-1, which takes no 4-D mask."""

import json
import re
from typing import Any

import pytest
import torch
from mmalign_lm.shapes import GPT_1, GPT_2, LLAMA, reshaped

from mmalign.cli import run
from mmalign.errors import MmalignError, UsageError
from mmalign.language.sampling import Sampling
from mmalign.models.references import find_source
from mmalign.train.layers import load_layers
from tests.support.lm_samples import naive_logps, some_sequences

SHAPES = ("gpt-1", "gpt-2", "llama")
TINY = {"layers": 2, "width": 32, "heads": 2, "context_length": 48}
IDS = torch.arange(5, 25)[None]
EXACT = {
    "117m": 116_534_784, "124m": 124_439_808, "1.5b": 1_557_611_200, "15m": 15_191_712, "1.1b": 1_100_048_384,
    "7b": 6_738_415_616,
}  # fmt: skip


@pytest.mark.parametrize(("sizes", "vocabulary"), [(GPT_1, 40_478), (GPT_2, 50_257), (LLAMA, 32_000)])
def test_sizes_are_the_published_ones_with_their_own_vocabulary(sizes, vocabulary) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    for name, shape in sizes.items():
        with torch.device("meta"):
            module = AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape, vocab_size=vocabulary))
        found = sum(parameter.numel() for parameter in module.parameters())
        assert type(module).__name__ == shape["architectures"][0]
        stated = float(name[:-1]) * {"m": 1e6, "b": 1e9}[name[-1]]
        assert found == pytest.approx(stated, rel=0.04) and found == EXACT.get(name, found), (name, found)


@pytest.fixture
def scratch(load_lm) -> Any:
    def load(shape: str, seed: int = 0, **options: Any) -> Any:
        torch.manual_seed(seed)
        return load_lm(shape, **{**TINY, **options})

    return load


@pytest.mark.parametrize("shape", SHAPES)
def test_a_saved_model_is_an_ordinary_folder(scratch, load_lm, shape, tmp_path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    backbone = scratch(shape)
    facts = backbone.describe()
    assert facts["pretrained"] is False and facts["context_length"] == 48 and facts["vocabulary_size"] == 6144
    assert re.fullmatch(
        shape + r":\w+, reshaped: [\d,]+ random parameters, with the 6,144 tokens of the embedded gpt-mini.*",
        facts["note"],
    )
    backbone.save(tmp_path / "saved")
    module = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    again = load_lm(tmp_path / "saved")
    with torch.no_grad():
        expected = backbone.module(IDS).logits
        assert torch.equal(module(IDS).logits, expected) and torch.equal(again.module(IDS).logits, expected)
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").model_max_length == 48
    assert again.processor.context_length == 48 and "note" not in again.describe()
    assert torch.equal(again.processor.text("A dull film.").ids, backbone.processor.text("A dull film.").ids)


@pytest.mark.parametrize("shape", SHAPES)
def test_log_probabilities_are_exact_with_masks_or_without(scratch, shape) -> None:
    """GPT-1's attention misreads a mask of four dimensions; the trial at loading finds that out by itself."""
    backbone = scratch(shape)
    assert backbone.packs == (shape != "gpt-1")
    sequences = some_sequences()
    found = backbone.token_logps(backbone.hidden_states(sequences)).logps
    torch.testing.assert_close(found, naive_logps(backbone.module, sequences), rtol=1e-5, atol=1e-5)
    found.sum().backward()
    bare = [name for name, p in backbone.module.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not bare


def test_the_end_token_is_learnt_like_any_other(scratch) -> None:
    """As a padding id of the config, its embedding would be zero in a Llama, and stay so."""
    backbone = scratch("llama")
    embedded = backbone.module.get_input_embeddings()
    assert embedded.padding_idx is None and embedded.weight[backbone.processor.end_id].abs().sum() > 0


@pytest.mark.parametrize("shape", ["gpt-1", "gpt-2"])
def test_generation_with_and_without_a_cache_equals_a_naive_loop(scratch, shape) -> None:
    backbone = scratch(shape)
    backbone.module.get_output_embeddings().weight.data.mul_(20)  # from near-uniform to distinct
    prompts = [torch.arange(7, 10), torch.arange(30, 42), torch.arange(99, 100)]
    ids, logps, _ = backbone.generate(prompts, Sampling(6, temperature=0), seeds=[0, 1, 2])
    for prompt, answer, logp in zip(prompts, ids, logps, strict=True):
        row, expected = prompt.tolist(), []
        for token in answer.tolist():
            with torch.no_grad():
                scores = backbone.module(torch.tensor([row])).logits[0, -1].log_softmax(-1)
            assert int(scores.argmax()) == token
            expected.append(float(scores[token]))
            row.append(token)
        torch.testing.assert_close(logp, torch.tensor(expected), rtol=1e-4, atol=1e-4)


def test_weights_follow_the_seed_of_the_run(catalog) -> None:
    from mmalign.train.build import assemble
    from mmalign.train.distributed import Processes
    from mmalign.train.plan import make_plan

    def weights(seed: int) -> dict[str, torch.Tensor]:
        sets = [f"train.seed={seed}", *(f"backbone.{name}={value}" for name, value in TINY.items())]
        names = {"objective": "pretrain", "backbone": "llama:42m"}
        plan = make_plan(catalog, load_layers(names=names, sets=sets))
        assert plan.names()["backbone"] == "llama:42m"
        return assemble(plan, Processes("cpu")).models["policy"].module.state_dict()

    first, again, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_the_tokenizer_of_another_folder(scratch, lm_folders, tmp_path) -> None:
    backbone = scratch("gpt-2", tokenizer=str(lm_folders["tiny_llama"]))
    assert (
        backbone.describe()["vocabulary_size"] == 323 and str(lm_folders["tiny_llama"]) in backbone.describe()["note"]
    )
    backbone.save(tmp_path / "saved")
    assert (tmp_path / "saved/tokenizer.json").read_bytes() == (
        lm_folders["tiny_llama"] / "tokenizer.json"
    ).read_bytes()
    before, after = (
        json.loads((folder / "tokenizer_config.json").read_text())
        for folder in (lm_folders["tiny_llama"], tmp_path / "saved")
    )
    assert before | {"model_max_length": 48} == after


def test_other_sizes_keep_the_shape() -> None:
    small = reshaped(GPT_2["124m"], layers=3, width=192)
    assert (small["num_hidden_layers"], small["hidden_size"], small["num_attention_heads"]) == (3, 192, 3)
    assert reshaped(GPT_2["124m"]) == GPT_2["124m"]
    shallow = reshaped(LLAMA["1.1b"], layers=4, context_length=128)
    assert (shallow["num_key_value_heads"], shallow["intermediate_size"]) == (4, 5632)
    assert (shallow["max_position_embeddings"], shallow["hidden_size"]) == (128, 2048)
    narrow = reshaped(LLAMA["1.1b"], width=512)
    assert (narrow["num_attention_heads"], narrow["num_key_value_heads"], narrow["intermediate_size"]) == (8, 8, 1376)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 100}, ("width=100 is not a multiple of 64", "backbone.width=128")),
        ({"width": 100, "heads": 3}, ("width=100 cannot be divided among 3 heads",)),
        ({"heads": 5}, ("width=768 cannot be divided among 5 heads",)),
    ],
)
def test_heads_that_do_not_fit_are_a_users_mistake(options, words) -> None:
    with pytest.raises(UsageError) as caught:
        reshaped(GPT_2["124m"], **options)
    assert all(word in str(caught.value) for word in words)
    with pytest.raises(UsageError, match="16 heads in pairs"):
        reshaped(LLAMA["15m"], width=48, heads=16)


@pytest.mark.parametrize(
    ("backbone", "sets", "words"),
    [
        ("llama:16m", [], ("llama has no size '16m'", "Did you mean 15m", "15m, 42m, 110m, 1.1b, 7b")),
        ("gpt-3", [], ("unknown backbone 'gpt-3'", "gpt-2", "from scratch: gpt-1, gpt-2, llama")),
        ("gpt-2", ["tokenizer=./nowhere"], ("backbone.tokenizer: no folder /", "/nowhere")),
        ("gpt-2", ["tokenizer=."], ("has no tokenizer: tokenizer_config.json is missing",)),
        ("gpt-mini", ["layers=3"], ("backbone.layers is for models from scratch", "gpt-1, gpt-2 or llama")),
    ],
)
def test_mistakes_are_named_before_a_weight_is_made(backbone, sets, words, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mmalign_lm.scratch.load_module", None)  # would fail otherwise
    options = [part for text in (*sets, "random_weights=true") for part in ("--set", f"backbone.{text}")]
    assert run(["generate", "--backbone", backbone, *options, "a film"]) != 0
    error = capsys.readouterr().err
    assert all(word in error for word in words), error


def test_random_weights_are_refused_before_they_are_made(capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("mmalign_lm.scratch.load_module", None)  # would fail otherwise
    out = tmp_path / "answers.jsonl"
    sample = ["sample", "--dataset", "movie-reviews", "--out", str(out)]
    for command in (["generate", "a film"], sample):
        assert run([*command, "--backbone", "gpt-2"]) == 2
        error = capsys.readouterr().err
        assert "gpt-2 has random weights: its answers are noise" in error and "backbone.random_weights=true" in error
    assert not out.exists()


def test_random_weights_that_are_asked_for_answer(capsys) -> None:
    asked = ["--backbone", "gpt-2", "--set", "backbone.layers=1", "--set", "backbone.width=64"]
    assert run(["generate", "a", "--max-tokens", "2", *asked, "--set", "backbone.random_weights=true"]) == 0
    assert run(["generate", "a", "--max-tokens", "2", *asked]) == 2
    capsys.readouterr()
    assert run(["generate", "a", "--backbone", "gpt2"]) == 2
    error = capsys.readouterr().err
    assert (
        "gpt-2" in error
        and "a shape for training from random weights; weights of that name on the hub are hf:gpt2" in error
    )


def test_a_shape_is_known_by_name_without_a_size(catalog) -> None:
    references = ("gpt-2", "gpt-2:774m", "mmalign_lm/llama:42m")
    sources = {reference: find_source(reference, catalog) for reference in references}
    found = {reference: (s.name, s.size, s.family.name, s.folder) for reference, s in sources.items()}
    assert found == {
        "gpt-2": ("gpt-2:124m", "124m", "causal-lm", None),
        "gpt-2:774m": ("gpt-2:774m", "774m", "causal-lm", None),
        "mmalign_lm/llama:42m": ("llama:42m", "42m", "causal-lm", None),
    }
    with pytest.raises(MmalignError, match="unknown backbone"):
        find_source("gpt-4:1b", catalog)


def test_sizes_are_listed(capsys) -> None:
    assert run(["list", "backbones"]) == 0 and run(["show", "llama", "--json"]) == 0
    out = capsys.readouterr().out
    assert "gpt-2:124m, gpt-2:355m, gpt-2:774m, gpt-2:1.5b" in out and '"llama:42m"' in out
