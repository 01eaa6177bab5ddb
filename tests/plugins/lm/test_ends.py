"""What ends an answer: each token that the model's generation config names, the tokenizer's, and that of the template.
Against transformers' own generate."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from mmalign.cli import run
from mmalign.contract.examples import Message
from mmalign.language.sampling import Sampling
from mmalign.rl.engines import Engine

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}<turn>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def prompts() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(3, 300, (length,), generator=generator) for length in (3, 7, 1, 5, 7, 2, 9)]


@pytest.fixture
def listing(lm_folders: dict[str, Path], tmp_path: Path) -> Path:
    """A Llama that writes other tokens than its first again and again; three of them end its answers."""
    from transformers import AutoModelForCausalLM

    folder = Path(shutil.copytree(lm_folders["tiny_llama"], tmp_path / "listing"))
    module = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
        answers = [module.generate(p[None], max_new_tokens=12, do_sample=False)[0, len(p) :] for p in prompts()]
    ends = sorted({int(answer[3 + place]) for place, answer in enumerate(answers[:2])})
    module.generation_config.eos_token_id = [322, *ends]
    module.save_pretrained(folder)
    return folder


def expected_answers(folder: Path) -> list[list[int]]:
    from transformers import AutoModelForCausalLM

    module = AutoModelForCausalLM.from_pretrained(folder)
    return [module.generate(p[None], max_new_tokens=12, do_sample=False)[0, len(p) :].tolist() for p in prompts()]


PAGED = hasattr(transformers.generation, "ContinuousBatchingConfig")  # later than the oldest release allowed
needs_pages = pytest.mark.skipif(not PAGED, reason="continuous batching needs a newer transformers")


@pytest.mark.parametrize("engine", ["policy", pytest.param("continuous-batching", marks=needs_pages)])
def test_each_of_a_list_ends_an_answer(load_lm, catalog, listing: Path, engine: str) -> None:
    backbone, expected = load_lm(listing), expected_answers(listing)
    ends = set(json.loads((listing / "generation_config.json").read_text())["eos_token_id"])
    assert backbone.processor.end_ids == ends and backbone.processor.end_id == 322
    opened: Any = Engine.build(catalog, {"name": engine}, backbone, lambda line: None)
    greedy = Sampling(max_tokens=12, temperature=0)
    with opened.on(backbone) as writer:
        found = writer.generate(prompts(), greedy, [0] * 7)
    assert [ids.tolist() for ids in found.ids] == expected
    assert found.ended == [ids[-1] in ends for ids in expected]
    assert sum(found.ended) >= 2 and any(len(ids) < 12 for ids in expected), "some end by other than the tokenizer's"


def test_generate_shows_an_answer_without_what_ended_it(listing: Path, capsys) -> None:
    options = ["--backbone", str(listing), "--max-tokens", "12", "--temperature", "0", "--json"]
    texts = ["a red car", "the cat", "two dogs", "fish", "tree", "a large house", "bird and fish", "blue"]
    assert run(["generate", *options, *texts]) == 0
    from transformers import AutoModelForCausalLM, AutoTokenizer

    module, tokenizer = AutoModelForCausalLM.from_pretrained(listing), AutoTokenizer.from_pretrained(listing)
    ends = set(module.generation_config.eos_token_id)
    for text, line in zip(texts, capsys.readouterr().out.splitlines(), strict=True):
        row, ids = json.loads(line), torch.tensor([tokenizer(text)["input_ids"]])
        answer = module.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :].tolist()
        assert row["ended"] == (answer[-1] in ends) and row["tokens"] == len(answer)
        kept = answer[:-1] if row["ended"] else answer
        assert row["text"] == tokenizer.decode(kept, clean_up_tokenization_spaces=False)


def test_a_saved_model_keeps_its_list(load_lm, listing: Path, tmp_path: Path) -> None:
    load_lm(listing, lora={"rank": 2}).save(tmp_path / "saved")
    before, after = (json.loads((f / "generation_config.json").read_text()) for f in (listing, tmp_path / "saved"))
    assert before == after
    assert load_lm(tmp_path / "saved").processor.end_ids == load_lm(listing).processor.end_ids


def test_the_token_that_closes_a_turn_ends_an_answer(load_lm, lm_folders, tmp_path: Path) -> None:
    """Its tokenizer's end token is another, as in base models with a template of ChatML."""
    from transformers import AutoTokenizer

    folder = Path(shutil.copytree(lm_folders["tiny_gpt2"], tmp_path / "chat"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.bos_token = None  # it stays special, and begins no text: a start token would close no turn
    tokenizer.save_pretrained(folder)
    plain = load_lm(folder).processor
    assert plain.end_ids == {plain.end_id}
    turn = tokenizer.convert_tokens_to_ids("<start>")  # special, and in the vocabulary already
    (tmp_path / "template.jinja").write_text(TEMPLATE.replace("<turn>", "<start>"))
    processor = load_lm(folder, template=str(tmp_path / "template.jinja")).processor
    assert processor.end_ids == {processor.end_id, turn}
    learnt = processor.answers((Message("user", "cat"),), [(Message("assistant", "a dog"),)])
    assert turn in learnt.answers[0].tolist(), "what ends an answer is learnt"
    (tmp_path / "template.jinja").write_text(TEMPLATE.replace("<turn>", " over"))
    processor = load_lm(folder, template=str(tmp_path / "template.jinja")).processor
    assert processor.end_ids == {processor.end_id}, "a word is no end"
