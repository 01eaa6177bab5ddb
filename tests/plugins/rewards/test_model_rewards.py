"""Rewards that are models: a reward model on the policy's tokens or in its own, and CLIP's score."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn.functional import cosine_similarity

from mmalign.contract.examples import Message
from mmalign.errors import IncompatibleError, MmalignError, RewardError, UsageError
from mmalign.models.references import find_source
from mmalign.rl.rewards import RewardList
from mmalign.testing.subjects import load

CPU = torch.device("cpu")
TEXTS = (" a red car", " the photo of a small cat", " tree", " two dogs and a fish", "", " a house")


def build(bench, name: str, **options: Any) -> tuple[RewardList, list[str]]:
    said: list[str] = []
    return RewardList.build(bench.catalog, [{"name": name, **options}], CPU, said.append), said


@pytest.fixture
def classifier(bench) -> Any:
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(bench.model("tiny-reward-model")).eval()


def naive(classifier: Any, rows: list[torch.Tensor]) -> torch.Tensor:
    """Each alone; the trunk's state at the last token, the end token included, which transformers takes for padding."""
    with torch.no_grad():
        states = [classifier.model(input_ids=row[None]).last_hidden_state[0] for row in rows]
        ends = [classifier.config.pad_token_id] * len(rows)
        last = [int((row != end).nonzero()[-1]) for row, end in zip(rows, ends, strict=True)]
        return torch.stack([classifier.score(s[i])[0] for s, i in zip(states, last, strict=True)]) - 0.25


def test_the_same_tokenizer_reads_the_policys_tokens(bench, answered, classifier) -> None:
    rewards, said = build(bench, "reward-model", path=str(bench.model("tiny-reward-model")), tokens_at_once=40)
    answers = answered(TEXTS)
    prompts, owner = answers.sequences.prompts.rows(), answers.sequences.owner.tolist()
    rows = [torch.cat([prompts[owner[i]], row]) for i, row in enumerate(answers.sequences.answers.rows())]
    scores = rewards.score(answers).total
    torch.testing.assert_close(scores, naive(classifier, rows), atol=1e-5, rtol=0)
    assert said == [] and len({round(value, 4) for value in scores.tolist()}) > 3
    # Its ids are read, not its text: another text with the same ids changes nothing.
    other = replace(answers, texts=("x",) * len(TEXTS))
    assert torch.equal(rewards.score(other).total, scores)


def test_more_tokens_behind_are_still_the_same_tokenizer(bench, answered, tmp_path: Path) -> None:
    """As in a reward model that mmalign saves, whose padding has a token of its own."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    plain, folder = bench.model("tiny-reward-model"), tmp_path / "padded"
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(plain), AutoTokenizer.from_pretrained(plain)
    tokenizer.add_special_tokens({"pad_token": "<|mmalign_pad|>"})
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    rewards, said = build(bench, "reward-model", path=str(folder))
    assert rewards.score(answered(TEXTS)).total.isfinite().all()
    assert said == []


def own_tokenizer(bench, folder: Path) -> Path:
    """The tiny reward model with two words of its tokenizer exchanged: as many tokens, and the same names of files."""
    shutil.copytree(bench.model("tiny-reward-model"), folder)
    path = folder / "tokenizer.json"
    text = path.read_text()
    assert '"\\u0120cat"' in text or '"Ġcat"' in text
    text = text.replace('"Ġcat":', '"@":').replace('"Ġdog":', '"Ġcat":').replace('"@":', '"Ġdog":')
    path.write_text(text)
    return folder


def test_another_tokenizer_is_told_once_and_reads_the_texts(bench, answered, classifier, tmp_path: Path) -> None:
    folder = own_tokenizer(bench, tmp_path / "other")
    rewards, said = build(bench, "reward-model", path=str(folder))
    answers = answered(TEXTS)
    scores = rewards.score(answers).total
    assert said == [
        "reward-model: the answers are text or another tokenizer's: prompts and answers are tokenised again for it"
    ]
    processor = load(find_source(str(folder), bench.catalog), bench).processor
    end = torch.tensor([processor.end_id])
    rows = []
    for prompt, text, ended in zip(answers.prompts, answers.texts, answers.ended, strict=True):
        written = processor.prompt(text)
        rows.append(torch.cat([processor.prompt(prompt), written, end if ended else end[:0]]))
    torch.testing.assert_close(scores, naive(classifier, rows), atol=1e-5, rtol=0)
    rewards.score(answers)
    assert len(said) == 1


def test_messages_are_rendered_anew_where_templates_differ(bench, answered, tmp_path: Path) -> None:
    folder = tmp_path / "templated"
    shutil.copytree(bench.model("tiny-reward-model"), folder)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}[{{ m['content'] }}]{% endfor %}")
    answers = answered([" a cat", " a dog"])
    rewards, said = build(bench, "reward-model", path=str(folder))
    plain = rewards.score(answers).total
    assert said == [] and plain.isfinite().all()
    rewards, said = build(bench, "reward-model", path=str(folder))
    messages = replace(answers, prompts=((Message("user", "a cat"),),) * 2)
    assert rewards.score(messages).total.isfinite().all()
    assert len(said) == 1 and "another tokenizer" in said[0]


@pytest.mark.parametrize("own", [False, True])
def test_texts_beyond_the_context_are_cut_counted_and_told(bench, answered, tmp_path: Path, own: bool) -> None:
    folder = own_tokenizer(bench, tmp_path / "other") if own else bench.model("tiny-reward-model")
    rewards, said = build(bench, "reward-model", path=str(folder))
    answers = answered([" cat" * 60, " a cat", " dog" * 40])
    assert rewards.score(answers).total.isfinite().all()
    processor = load(find_source(str(folder), bench.catalog), bench).processor
    lengths = [
        len(processor.prompt(prompt)) + len(processor.prompt(text)) + ended
        for prompt, text, ended in zip(answers.prompts, answers.texts, answers.ended, strict=True)
    ]
    lost = sum(max(0, length - 32) for length in lengths)
    assert f"2 of 3 texts so far are over 32 tokens; {lost} tokens were cut off" in said[-1]
    rewards.score(answers.select([1]))
    assert len(said) == 1 + own  # nothing new to tell
    rewards.score(answers)
    assert "4 of 7 texts" in said[-1]


def test_what_is_no_reward_model_is_refused(bench, tmp_path: Path) -> None:
    with pytest.raises(IncompatibleError, match="reward reward-model needs score_sequences"):
        build(bench, "reward-model", path=str(bench.model("tiny-gpt2")))
    with pytest.raises(UsageError, match="unknown folder"):
        build(bench, "reward-model", path=str(tmp_path / "nowhere"))
    with pytest.raises(IncompatibleError, match="reward clip-score needs encode_text"):
        build(bench, "clip-score", text="a cat", backbone=str(bench.model("tiny-reward-model")))


def test_a_damaged_reward_model_is_named(bench, answered, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "damaged"
    shutil.copytree(bench.model("tiny-reward-model"), folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"].fill_(float("nan"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MmalignError):  # at its trial on loading, or at the first scores
        build(bench, "reward-model", path=str(folder))[0].score(answered(TEXTS))


@pytest.mark.parametrize("what", ["image", "text"])
def test_clip_score_is_hessels(bench, answered, tmp_path: Path, what: str) -> None:
    folder = bench.model("tiny-open-clip")
    picture = Image.frombytes("RGB", (8, 8), bytes(range(192))).resize((40, 32))
    picture.save(tmp_path / "p.png")
    backbone = load(find_source(str(folder), bench.catalog), bench)
    backbone.module.eval()
    from mmalign.contract.batch import Ragged

    def embed(text: str) -> torch.Tensor:
        return backbone.encode_text(Ragged.from_list([backbone.processor.text(text).ids]))

    value = str(tmp_path / "p.png") if what == "image" else "a red car"
    rewards, said = build(bench, "clip-score", backbone=str(folder), batch_size=4, **{what: value})
    texts = [*TEXTS, "a red car", "fish " * 50]
    with torch.no_grad():
        picture_features = backbone.encode_image(backbone.processor.image(picture)[None])
        target = picture_features if what == "image" else embed(value)
        expected = torch.cat([2.5 * cosine_similarity(embed(text), target).clamp(min=0) for text in texts])
    found = rewards.score(answered(texts)).total
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert len(said) == 1 and "texts so far are over 32 tokens" in said[0]
    if what == "text":
        assert found[6] == pytest.approx(2.5, abs=1e-5)


def test_clip_lite_tells_a_photograph(bench, answered, tmp_path: Path) -> None:
    """The default: the embedded model on a drawing of a cat against other animals' names."""
    part = bench.catalog.load(bench.catalog.find("datasets", "photos"))
    data = part.build(part.Config(), "train") or part.build(part.Config(), "validation")
    example = next(data[i] for i in range(len(data)))
    from mmalign.data.images import open_image

    open_image(example.image).save(tmp_path / "p.png")
    right = data.classes[example.label]
    rewards, _ = build(bench, "clip-score", image=str(tmp_path / "p.png"))
    scores = rewards.score(answered([f"a photo of a {right}", "a page of accounts", "gibberish zxq"])).total
    assert scores.argmax() == 0


def test_a_broken_picture_is_named(bench, tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(b"no picture")
    with pytest.raises(MmalignError, match=r"p\.png"):
        build(bench, "clip-score", image=str(tmp_path / "p.png"), backbone=str(bench.model("tiny-open-clip")))
    assert issubclass(RewardError, MmalignError)
