"""Causal language models against transformers itself: log-probabilities, saving, dropout, packing, refusals."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from mmalign.contract.examples import Message
from mmalign.errors import BadSample, CheckpointError, MmalignError
from tests.support.lm_samples import FAMILIES, naive_logps, some_sequences


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("packing", ["auto", "off"])
def test_logps_equal_transformers_with_gradients(load_lm, lm_folders, family, packing) -> None:
    backbone = load_lm(lm_folders[family], packing=packing, row_length=20)
    assert backbone.packs == (packing == "auto" and family != "tiny_bloom")
    backbone.module.double()
    sequences = some_sequences()
    found = backbone.token_logps(backbone.hidden_states(sequences)).logps
    expected = naive_logps(backbone.module, sequences)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    upstream = torch.linspace(-1, 1, len(found), dtype=torch.float64)
    parameters = [parameter for parameter in backbone.module.parameters() if parameter.requires_grad]
    got = torch.autograd.grad(found @ upstream, parameters)
    # Llama's norms compute in float32 whatever the weights are.
    limit = 1e-6 if family == "tiny_llama" else 1e-10
    torch.testing.assert_close(got, torch.autograd.grad(expected @ upstream, parameters), rtol=1e-4, atol=limit)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_is_what_transformers_loads(load_lm, lm_folders, family, tmp_path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    backbone = load_lm(lm_folders[family])
    with torch.no_grad():
        next(iter(backbone.module.parameters())).add_(0.1)
    backbone.save(tmp_path / "saved")
    module = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        torch.testing.assert_close(module(ids).logits, backbone.module(ids).logits, rtol=0, atol=0)
    assert AutoTokenizer.from_pretrained(tmp_path / "saved")("a red car")["input_ids"]


def test_dropout_is_off_unless_asked_for(load_lm, lm_folders) -> None:
    sequences = some_sequences()
    for dropout, alike in ((0.0, True), (0.3, False)):
        backbone = load_lm(lm_folders["tiny_gpt2"], dropout=dropout)  # its config says 0.1
        backbone.module.train()
        with torch.no_grad():
            runs = [backbone.token_logps(backbone.hidden_states(sequences)).logps for _ in range(2)]
        assert torch.equal(*runs) == alike


def test_every_name_of_dropout_is_known() -> None:
    """BioGPT's layers and BERT's as a decoder, OPT's whole layers left out: off, or first ratios of PPO are not 1."""
    from mmalign_lm.folder import set_dropout
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    named: dict[str, dict[str, Any]] = {
        "biogpt": {"intermediate_size": 8, "hidden_dropout_prob": 0.5, "layerdrop": 0.5},
        "bert": {"intermediate_size": 8, "is_decoder": True, "attention_probs_dropout_prob": 0.5},
        "opt": {"ffn_dim": 8, "word_embed_proj_dim": 8, "dropout": 0.5, "layerdrop": 0.5},
    }
    ids = torch.arange(1, 17)[None]
    for family, options in named.items():
        for dropout, alike in ((0.0, True), (0.5, False)):
            config = AutoConfig.for_model(family, **sizes, **options)
            set_dropout(config, dropout)
            module = AutoModelForCausalLM.from_config(config).train()
            with torch.no_grad():
                runs = [module(ids).logits for _ in range(4)]
            assert all(torch.equal(runs[0], run) for run in runs) == alike, family


def test_bf16_autocast_is_close(load_lm, lm_folders) -> None:
    backbone = load_lm(lm_folders["tiny_llama"])
    sequences = some_sequences()
    with torch.no_grad():
        exact = backbone.token_logps(backbone.hidden_states(sequences)).logps
        with torch.autocast("cpu", torch.bfloat16):
            found = backbone.token_logps(backbone.hidden_states(sequences)).logps
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, rtol=0.02, atol=0.05)


def test_a_head_that_scales_or_caps_its_logits(load_lm, lm_folders, tmp_path) -> None:
    from transformers import CohereConfig, CohereForCausalLM, Gemma2Config, Gemma2ForCausalLM

    sizes = {
        "vocab_size": 323, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 32,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 322,
    }  # fmt: skip
    cases = (
        (CohereForCausalLM, CohereConfig(**sizes, logit_scale=0.25)),
        (Gemma2ForCausalLM, Gemma2Config(**sizes, final_logit_softcapping=0.5, sliding_window=8)),
    )
    for model, config in cases:
        folder = Path(shutil.copytree(lm_folders["tiny_llama"], tmp_path / model.__name__))
        torch.manual_seed(0)
        model(config).save_pretrained(folder)
        backbone = load_lm(folder)
        sequences = some_sequences()
        with torch.no_grad():
            found = backbone.token_logps(backbone.hidden_states(sequences)).logps
            torch.testing.assert_close(found, naive_logps(backbone.module, sequences), rtol=1e-5, atol=1e-5)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_folders_that_cannot_be_trusted_are_refused_by_name(load_lm, lm_folders, tmp_path) -> None:
    def broken(name: str) -> Path:
        return Path(shutil.copytree(lm_folders["tiny_llama"], tmp_path / name))

    folder = broken("tokenizer")
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer: tokenizer_config.json is missing"):
        load_lm(folder)
    folder = broken("vocabulary")
    edit(folder / "config.json", vocab_size=300)
    with pytest.raises(CheckpointError, match="the tokenizer has 323 tokens and the model knows 300"):
        load_lm(folder)
    folder = broken("code")
    edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "evil.Model"})
    with pytest.raises(CheckpointError, match="asks for code"):
        load_lm(folder)
    folder = broken("weights")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no model.safetensors"):
        load_lm(folder)
    assert load_lm(folder, random_weights=True).describe()["pretrained"] is False
    folder = broken("reward")
    edit(folder / "config.json", architectures=["LlamaForSequenceClassification"])
    with pytest.raises(MmalignError, match="no plugin handles 'llama'"):
        load_lm(folder)


# Texts ----------------------------------------------------------------------------------------------------------------


def test_prompts_and_answers_are_cut_from_their_far_ends_and_counted(load_lm, lm_folders) -> None:
    processor = load_lm(lm_folders["tiny_llama"]).processor
    whole = processor.answers("cat " * 10, ["dog " * 5])
    assert whole.num_lost == 0 and int(whole.answers[0][-1]) == processor.end_id
    long = processor.answers("cat " * 30, ["dog " * 5])
    assert len(long.prompt) + len(long.answers[0]) == 32 and torch.equal(long.answers[0], whole.answers[0])
    assert long.num_lost == 30 + 6 - 32 or long.num_lost > 0
    document = processor.text("tree " * 100)
    assert len(document.ids) == 32 and document.num_lost > 60
    assert int(processor.text("tree").ids[-1]) == processor.end_id


@pytest.mark.parametrize("answer", ["", "   ", ()])
def test_an_empty_answer_is_a_bad_sample(load_lm, lm_folders, answer) -> None:
    with pytest.raises(BadSample, match="empty answer"):
        load_lm(lm_folders["tiny_llama"]).processor.answers("cat", [answer])


def test_a_template_of_the_users_is_saved_in_place_of_the_models(load_lm, lm_folders, tmp_path) -> None:
    """transformers renders with it, tools or not, where the model came with templates of its own."""
    from transformers import AutoTokenizer

    start = AutoTokenizer.from_pretrained(lm_folders["tiny_llama"])
    start.chat_template = {"default": "theirs", "tool_use": "theirs, with tools"}
    folder = Path(shutil.copytree(lm_folders["tiny_llama"], tmp_path / "start"))
    start.save_pretrained(folder)
    (tmp_path / "own.jinja").write_text("{% for m in messages %}é {{ m.content }}\n\n{% endfor %}")
    load_lm(folder, template=str(tmp_path / "own.jinja")).save(tmp_path / "saved")
    talk, tool = [{"role": "user", "content": "cat"}], {"type": "function", "function": {"name": "f"}}
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
    for tools in (None, [tool]):
        assert saved.apply_chat_template(talk, tools=tools, tokenize=False) == "é cat\n\n"
    own = load_lm(tmp_path / "saved").processor
    assert own.render([Message("user", "cat")], add_generation_prompt=True) == "é cat\n\n"


def test_messages_are_rendered_and_only_the_assistant_is_learnt(load_lm, lm_folders, tmp_path) -> None:
    user, bot = Message("user", "cat"), Message("assistant", "dog")
    plain = load_lm(lm_folders["tiny_llama"], context_length=200).processor
    assert not plain.has_template
    assert plain.render([user], add_generation_prompt=True) == "User: cat\nAssistant:"
    found = plain.answers((user,), [(bot, Message("user", "tree"), bot)])
    text = [plain.tokenizer.decode(found.answers[0][mask]) for mask in (found.learn[0], ~found.learn[0])]
    assert text[0].count("dog") == 2 and "tree" not in text[0] and "tree" in text[1] and "dog" not in text[1]
    assert int(found.answers[0][-1]) == plain.end_id

    template = tmp_path / "template.jinja"
    template.write_text("{% for m in messages %}[{{ m.role }}] {{ m.content }}<end>{% endfor %}")
    own = load_lm(lm_folders["tiny_llama"], template=str(template)).processor
    ids = own.answers((user,), [(bot,)]).answers[0]
    assert own.has_template and int(ids[-1]) == own.end_id and (ids == own.end_id).sum() == 1
    template.write_text("{{ raise_exception('only one turn') }}")
    with pytest.raises(BadSample, match=r"does not render.*only one turn"):
        load_lm(lm_folders["tiny_llama"], template=str(template)).processor.answers((user,), [(bot,)])
    with pytest.raises(BadSample, match="unknown role 'robot'"):
        plain.answers((Message("robot", "x"),), [(bot,)])
    with pytest.raises(BadSample, match="no turn of the assistant"):
        plain.answers((user,), [(user,)])
