"""A dual encoder as a reward model: its scores, PickScore's loss, and the saved judge in open_clip and in commands."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

from mmalign.cli import run
from mmalign.contract.batch import Batch, Ragged
from mmalign.contract.examples import ImageRef, Message
from mmalign.data.collate import join_answers, with_pixels
from mmalign.errors import BadSample, UsageError
from mmalign.language.sequences import Sequences
from mmalign.models.load import load_model, require_source
from mmalign.pairs.candidates import CandidateModel
from mmalign.pairs.judge import Judge
from mmalign.registry.catalog import Catalog
from mmalign.rl.answers import Answers
from mmalign.rl.rewards import RewardList
from mmalign.testing.bench import Workbench
from mmalign.testing.subjects import load, source_of
from mmalign.train.build import wire
from mmalign.train.config import TrainConfig
from mmalign.train.distributed import Processes
from mmalign.train.step import accumulate
from tests.support.pictures import write_rows

pytestmark = pytest.mark.usefixtures("one_thread")
EXACT = {"rtol": 0, "atol": 1e-10}
ASKED = ("a red square", "the photo of a dog", "a red square", "fish")


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return Workbench({}, {})


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_rows(tmp_path_factory.mktemp("rows"))


def clip(bench: Workbench) -> Any:
    """Tiny, in float64, with a bias, which scores leave out."""
    model = load(source_of("tiny-open-clip", bench), bench, init_logit_bias=-3.0)
    model.module.double().eval()
    return model


def pixels(model: Any, number: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(number, 3, *model.processor.preprocess.size, generator=generator).double()


def naive(model: Any, text: str, picture: Tensor) -> Tensor:
    """exp(t) times one cosine."""
    ids = Ragged.from_list([model.processor.text(text).ids])
    cosine = model.encode_text(ids)[0] @ model.encode_image(picture[None])[0]
    return model.contrastive_head().log_scale.exp() * cosine


# Scores ---------------------------------------------------------------------------------------------------------------


def test_scores_are_pair_scores_either_way_round(bench: Workbench) -> None:
    model = clip(bench)
    judge, images = Judge(model), pixels(model, 3)
    rows = [judge.processor.answers(ImageRef("a"), texts) for texts in (ASKED, ASKED[1:2], ASKED[::-1])]
    shown = images[[0, 0, 1]]  # the same picture side by side
    by_picture = join_answers([row._replace(picture=image) for row, image in zip(rows, shown, strict=True)])
    expected = [naive(model, t, p) for p, own in zip(shown, (ASKED, ASKED[1:2], ASKED[::-1]), strict=True) for t in own]
    torch.testing.assert_close(judge.score_sequences(by_picture), torch.stack(expected), **EXACT)
    row = judge.processor.answers("a red square", [ImageRef("a"), ImageRef("b"), ImageRef("c")])
    by_text = join_answers([row._replace(answer_pictures=tuple(images))] * 2)
    expected = [naive(model, "a red square", picture) for picture in images] * 2
    torch.testing.assert_close(judge.score_sequences(by_text), torch.stack(expected), **EXACT)


def test_each_distinct_text_is_embedded_once(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = clip(bench), []
    encode = model.encode_text
    monkeypatch.setattr(model, "encode_text", lambda tokens: (sizes.append(len(tokens)), encode(tokens))[1])
    judge = Judge(model)
    row = judge.processor.answers(ImageRef("a"), ASKED)._replace(picture=pixels(model, 1)[0])
    judge.score_sequences(join_answers([row] * 3))
    assert sizes == [3]


def test_what_a_judge_does_not_read_says_so(bench: Workbench) -> None:
    processor, picture = Judge(clip(bench)).processor, ImageRef("a.png")
    with pytest.raises(BadSample, match="the answers are no pictures: a dual encoder reads pictures with texts, or"):
        processor.answers("a cat", ["a dog"])
    with pytest.raises(BadSample, match="the answers are no texts"):
        processor.answers(picture, [picture])
    with pytest.raises(BadSample, match="not a conversation"):
        processor.answers((Message("user", "a cat"),), [picture])
    long = processor.answers(picture, ["cat " * 200])
    assert long.num_lost > 0 and len(long.answers[0]) == processor.context_length


def test_a_model_is_a_judge_where_a_reward_model_is_needed(bench: Workbench) -> None:
    reference, needs = str(bench.model("tiny-open-clip")), ("score_sequences",)
    source = require_source(bench.catalog, reference, needs, "score")
    assert isinstance(load_model(bench.catalog, source, needs=needs), Judge)
    assert not isinstance(load_model(bench.catalog, source, needs=("encode_image",)), Judge)


# PickScore ------------------------------------------------------------------------------------------------------------

LABELS = [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0), (1.0, 0.0), (0.5, 0.5)]
NUMBERS = [1, 4, 2, 8, 1]  # examples of the same prompt
PROMPTS = ["a cat", "a dog", "a tree", "a house", "a fish"]


def pickscore(model: Any, images: Tensor) -> Tensor:
    """The authors' loss: soft labels, an example weighs 1 over the number of its prompt's, ties less ln 2 (Kirstain
    2023)."""
    losses = []
    for number, (text, (first, second)) in enumerate(zip(PROMPTS, LABELS, strict=True)):
        scores = torch.stack([naive(model, text, picture) for picture in images[2 * number : 2 * number + 2]])[None]
        loss = first * cross_entropy(scores, torch.tensor([0])) + second * cross_entropy(scores, torch.tensor([1]))
        losses.append(loss + (torch.tensor(0.5).double().log() if first == second else 0.0))
    weights = 1 / torch.tensor(NUMBERS).double()
    return (torch.stack(losses) * weights / weights.sum()).sum()


def pick_batch(view: CandidateModel, images: Tensor) -> Batch:
    rows = [[torch.zeros(1, dtype=torch.int64)] * 2 for _ in PROMPTS]
    texts = Sequences.from_lists([view.processor.prompt(text) for text in PROMPTS], rows)
    sequences = Sequences(texts.prompts, texts.answers, texts.counts, texts.learn, None, images)
    ranks = tuple(tuple(1.0 if label == max(own) else 2.0 for label in own) for own in LABELS)
    weights = tuple(1 / number for number in NUMBERS)
    return Batch({"key": tuple(PROMPTS), "sequences": sequences, "ranks": ranks, "weight": weights})


def reward_on(catalog: Catalog, view: CandidateModel, objective: str = "reward", **options: Any) -> tuple[Any, Any]:
    entry = catalog.find("objectives", objective)
    target = catalog.load(entry)
    own = target(target.Config(**options))
    _, engine = wire(entry.spec, own, view, TrainConfig(), Processes("cpu"))
    return own, engine


@pytest.mark.parametrize("micro_batch", [0, 1, 2])
def test_reward_with_ties_and_weights_is_pickscores_loss_but_for_its_constant(
    bench: Workbench, micro_batch: int
) -> None:
    model = clip(bench)
    images = pixels(model, 10)
    view = CandidateModel(model, ())
    _, engine = reward_on(bench.catalog, view, ties="half")
    result = accumulate(engine, [pick_batch(view, images)], micro_batch)
    plain = clip(bench)
    expected = pickscore(plain, images)
    expected.backward()
    ties = torch.tensor([1 / n * (a == b) for n, (a, b) in zip(NUMBERS, LABELS, strict=True)]).double().sum()
    constant = ties / (1 / torch.tensor(NUMBERS).double()).sum() * torch.tensor(2.0).double().log()
    torch.testing.assert_close(result.loss, expected.detach() + constant, **EXACT)
    for (name, ours), other in zip(model.module.named_parameters(), plain.module.parameters(), strict=True):
        wanted = other.grad if other.grad is not None else torch.zeros_like(other)
        torch.testing.assert_close(ours.grad if ours.grad is not None else wanted * 0, wanted, **EXACT, msg=name)


@pytest.mark.parametrize("objective", ["reward", "dpo", "simpo", "orpo", "cpo"])
def test_a_weight_of_two_is_an_example_twice_and_a_weight_of_one_changes_no_bit(
    bench: Workbench, objective: str
) -> None:
    texts = [f"the photo of {what}" for what in ("a cat", "a dog", "a tree")]
    rows: Sequence[Sequence[int]] = [(0, 1), (2, 0), (1, 2)]

    def loss(order: Sequence[int], weights: tuple[float, ...] | None) -> Tensor:
        view = CandidateModel(clip(bench), texts)
        answers = [[torch.tensor([number]) for number in rows[row]] for row in order]
        sequences = Sequences.of_pictures(pixels(view.backbone, 3)[list(order)]).with_answers(answers)
        columns: dict[str, Any] = {"key": tuple(map(str, order)), "sequences": sequences}
        columns |= {} if weights is None else {"weight": weights}
        if objective == "dpo":  # against a reference of zeros
            nothing = torch.zeros(2 * len(order), dtype=torch.float64)
            columns["reference"] = Ragged.of_lengths(nothing, sequences.counts)
        return accumulate(reward_on(bench.catalog, view, objective)[1], [Batch(columns)], 0).loss

    torch.testing.assert_close(loss([0, 1, 2], (1.0, 2.0, 1.0)), loss([0, 1, 1, 2], None), **EXACT)
    assert torch.equal(loss([0, 1, 2], (1.0, 1.0, 1.0)), loss([0, 1, 2], None))
    assert not torch.equal(loss([0, 1, 2], (1.0, 2.0, 1.0)), loss([0, 1, 2], None))


# A judge that was trained ---------------------------------------------------------------------------------------------


def train(objective: str, start: str, data: str, folder: Path, capsys: Any, *sets: str) -> dict[str, float]:
    """Six steps; the final held-out figures."""
    values = ["train.steps=6", "train.batch_size=8", "train.learning_rate=0.003", "train.warmup_steps=0"]
    values += ["data.num_workers=0", "dataset.holdout=0.4", "train.save_every=0", "evaluation.max_examples=8", *sets]
    options = [part for value in values for part in ("--set", value)]
    named = ["--objective", objective, "--backbone", start, "--dataset", data, "--out", str(folder)]
    assert run(["train", *named, *options, "--json"]) == 0
    return json.loads(capsys.readouterr().out)["after"]


@pytest.mark.parametrize(
    ("objective", "table", "evaluation"),
    [
        ("reward", "texts", "reward-accuracy"),
        ("reward", "pictures", "reward-accuracy"),
        ("dpo", "texts", "preference-accuracy"),
        ("dpo", "pictures", "preference-accuracy"),
        ("simpo", "texts", "preference-accuracy"),
    ],
)
def test_evaluate_repeats_the_runs_own_figure(
    bench: Workbench, tables: dict[str, str], tmp_path: Path, capsys: Any, objective: str, table: str, evaluation: str
) -> None:
    start = str(bench.model("tiny-open-clip"))
    held_out = train(objective, start, tables[table], tmp_path / "run", capsys, "evaluation.max_examples=100")
    model = str(tmp_path / "run" / "model")

    def measure(*arguments: str) -> tuple[dict[str, float], str]:
        assert run(["evaluate", evaluation, "--backbone", model, "--json", *arguments]) == 0
        out, err = capsys.readouterr()
        return json.loads(out)["results"][0]["metrics"], err

    metrics, err = measure()
    assert metrics["examples"] == held_out["heldout/examples"] > 7 and metrics["unreadable"] == 0
    assert metrics["accuracy"] == pytest.approx(held_out["heldout/accuracy"])
    assert f"{evaluation}: held out by the model's run" in err
    assert (f"less those of its reference {start}" in err) == (objective == "dpo")
    metrics, _ = measure("--dataset", tables["pictures" if table == "texts" else "texts"])
    assert metrics["examples"] == 40


def test_a_saved_judge_is_open_clips_and_score_gives_its_scores(
    bench: Workbench, tables: dict[str, str], tmp_path: Path, capsys: Any
) -> None:
    import open_clip

    train("reward", str(bench.model("tiny-open-clip")), tables["texts"], tmp_path / "run", capsys)
    folder, pictures = tmp_path / "run" / "model", Path(tables["texts"]).parent
    names = ["a red square", "a blue circle", "anything else"]
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    picture = pictures / "red-square-1.png"
    with torch.no_grad():
        image = model.eval().encode_image(preprocess(Image.open(picture).convert("RGB"))[None], normalize=True)
        texts = model.encode_text(tokenizer(names), normalize=True)
        expected = (model.logit_scale.exp() * image @ texts.T)[0]
    ours = load_model(bench.catalog, require_source(bench.catalog, str(folder), ("encode_image",), "test"))
    ours.module.eval()
    with torch.no_grad():
        own = ours.encode_image(ours.processor.image(Image.open(picture).convert("RGB"))[None])
        read = ours.encode_text(Ragged.from_list([ours.processor.text(name).ids for name in names]))
    torch.testing.assert_close(own, image, rtol=0, atol=1e-5)
    torch.testing.assert_close(read, texts, rtol=0, atol=1e-5)
    assert run(["score", "--backbone", str(folder), "--prompt", str(picture), *names, "--json"]) == 0
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    found = {row["text"]: row["score"] for row in rows}
    assert [found[name] for name in names] == pytest.approx(expected.tolist(), abs=1e-4)
    assert {row["prompt"] for row in rows} == {str(picture)}
    assert f"the prompt is the picture '{picture}', the answers are texts" in err
    summary = json.loads((tmp_path / "run" / "run.json").read_text())["summary"]
    assert summary["next"][0].startswith(f"mmalign score --backbone {folder} --prompt {pictures}")


def test_a_judge_rewards_a_policy_with_another_transform(
    bench: Workbench, tables: dict[str, str], tmp_path: Path, capsys: Any
) -> None:
    folder, texts = Path(tables["texts"]).parent, ("a red square", "a cat", "a dog", "a cat")
    refs = [ImageRef(str(folder / "red-square-0.png")), ImageRef(str(folder / "blue-circle-1.png"))]
    judge = load(source_of("tiny-transformers-clip", bench), bench)
    options = {"name": "reward-model", "path": str(bench.model("tiny-transformers-clip"))}
    rewards = RewardList.build(bench.catalog, [options], torch.device("cpu"), lambda line: None)
    policy = CandidateModel(load(source_of("tiny-open-clip", bench), bench), [*dict.fromkeys(texts)])
    rows = [policy.processor.answers(ref, texts[2 * n : 2 * n + 2]) for n, ref in enumerate(refs)]
    processor = policy.processor
    seen = [with_pixels(row, ref, (), lambda ref: torch.zeros(3, 8, 8)) for row, ref in zip(rows, refs, strict=True)]
    answers = Answers(
        keys=("1", "1", "2", "2"),
        prompts=(refs[0], refs[0], refs[1], refs[1]),
        texts=texts,
        solutions=("",) * 4,
        ended=(True,) * 4,
        sequences=join_answers(seen),
        processor=processor,
    )
    judge.module.eval()
    with torch.no_grad():
        images = [judge.processor.image(Image.open(ref.path)) for ref in (refs[0], refs[0], refs[1], refs[1])]
        expected = torch.stack([naive(judge, text, image) for text, image in zip(texts, images, strict=True)])
    torch.testing.assert_close(rewards.score(answers).total, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(rewards.score(answers.select([3, 1])).total, expected[[3, 1]], rtol=0, atol=1e-4)
    rewards.check_pair(("image", "text"))
    with pytest.raises(UsageError, match=r"scores pictures with texts .* this run has texts with texts as answers"):
        rewards.check_pair(("text", "text"))


def test_a_run_with_a_judge_learns_and_a_judge_of_texts_is_refused_before(
    bench: Workbench, tables: dict[str, str], tmp_path: Path, capsys: Any
) -> None:
    start = str(bench.model("tiny-open-clip"))
    reward = [{"name": "reward-model", "path": start}]
    sets = (f"rollout.rewards={json.dumps(reward)}", "rollout.samples=2")
    after = train("rloo", start, tables["prompts"], tmp_path / "run", capsys, *sets)
    assert after["heldout/prompts"] == 8 and "heldout/score" in after
    reward[0]["path"] = str(bench.model("tiny-reward-model"))
    command = ["train", "--objective", "rloo", "--backbone", start, "--dataset", tables["prompts"]]
    command += ["--set", f"rollout.rewards={json.dumps(reward)}", "--out", str(tmp_path / "other")]
    assert run(command) == 2
    told = capsys.readouterr().err
    assert "scores texts with texts as answers; this run has pictures with texts as answers" in told
    assert "scored by a dual encoder" in told


# mmalign score --------------------------------------------------------------------------------------------------------


def score(capsys: Any, *arguments: str) -> tuple[int, str, str]:
    code = run(["score", *arguments])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


def test_score_ranks_pictures_for_a_text(bench: Workbench, tables: dict[str, str], tmp_path: Path, capsys: Any) -> None:
    folder = Path(tables["texts"]).parent
    one, other, broken = folder / "red-square-0.png", folder / "blue-circle-1.png", tmp_path / "broken.png"
    broken.write_bytes(one.read_bytes()[:60])
    named = ["--backbone", str(bench.model("tiny-open-clip")), "--prompt", "a red square"]
    out_file = tmp_path / "scores.csv"
    given = [str(one), str(other), str(broken), str(tmp_path / "missing.jpg")]
    code, out, err = score(capsys, *named, *given, "--out", str(out_file))
    assert code == 0 and "the prompt is the text 'a red square', the answers are pictures" in err
    assert "picture 3:" in err and "picture 4:" in err and "no such file" in err
    rows = list(csv.DictReader(out_file.read_text().splitlines()))
    assert [row["text"] for row in rows[2:]] == given[2:] and {rows[0]["text"], rows[1]["text"]} == set(given[:2])
    assert float(rows[0]["score"]) >= float(rows[1]["score"]) and out.count("\n") == 2
    assert score(capsys, *named, given[3])[0] == 3
    code, out, _ = score(capsys, *named, str(folder / "green-*.png"), "--json")
    assert code == 0 and len(out.splitlines()) == 8


@pytest.mark.parametrize("table", ["texts", "pictures"])
def test_score_takes_data_sets_of_pictures(
    bench: Workbench, tables: dict[str, str], tmp_path: Path, capsys: Any, table: str
) -> None:
    named = ["--backbone", str(bench.model("tiny-open-clip")), "--dataset", tables[table]]
    code, out, _ = score(capsys, *named, "--json", "--batch-size", "7")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and len(rows) == (40 if table == "texts" else 80)
    pictured = {row["prompt" if table == "texts" else "text"] for row in rows}
    assert len(pictured) == 40 and all(Path(name).is_file() for name in pictured)
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True)


def test_what_score_refuses_says_what_would_work(
    bench: Workbench, tables: dict[str, str], tmp_path: Path, capsys: Any
) -> None:
    clip_folder, texts = str(bench.model("tiny-open-clip")), str(bench.model("tiny-reward-model"))
    picture = str(Path(tables["texts"]).parent / "red-square-0.png")
    of_texts = tmp_path / "texts.jsonl"
    of_texts.write_text(json.dumps({"prompt": "Q", "chosen": "yes", "rejected": "no"}) + "\n")
    for arguments, words in (
        (
            (clip_folder, "--prompt", "a cat", "a dog"),
            "the prompt 'a cat' is a text, so that the answers must be",
        ),
        ((clip_folder, "--prompt", picture, picture), "are both pictures"),
        ((clip_folder, "--prompt", "missing.png", "a dog"), "--prompt missing.png: no such picture"),
        ((clip_folder, "a dog"), "there is no --prompt"),
        ((clip_folder, "--dataset", str(of_texts)), "holds texts with texts as answers"),
        ((texts, "--prompt", picture, "a dog"), "red-square-0.png is a picture"),
        ((texts, "--prompt", "a dog", picture), "red-square-0.png is a picture"),
        ((texts, "--dataset", tables["pictures"]), "holds texts with pictures as answers"),
    ):
        code, _, err = score(capsys, "--backbone", *arguments)
        assert code == 2 and words in err, err


def test_evaluate_refuses_data_that_the_model_does_not_read(
    bench: Workbench, tables: dict[str, str], capsys: Any
) -> None:
    clip_folder, texts = str(bench.model("tiny-open-clip")), str(bench.model("tiny-reward-model"))
    for arguments, words in (
        ((clip_folder,), "no embedded data hold such"),
        ((clip_folder, "--dataset", "movie-reviews"), "that hold pictures with texts as answers"),
        ((texts, "--dataset", tables["texts"]), "reads texts with texts as answers"),
    ):
        assert run(["evaluate", "reward-accuracy", "--backbone", *arguments]) == 2
        told = capsys.readouterr().err
        assert words in told and "--dataset FILE" in told, told


def test_margins_of_scores_are_logits_of_preferring(bench: Workbench) -> None:
    """PickScore's probability that a picture is preferred: a softmax over scores."""
    model = clip(bench)
    images = pixels(model, 2)
    row = Judge(model).processor.answers("a cat", [ImageRef("a"), ImageRef("b")])
    scores = Judge(model).score_sequences(join_answers([row._replace(answer_pictures=tuple(images))]))
    torch.testing.assert_close(logsigmoid(scores[0] - scores[1]), scores.log_softmax(0)[0], **EXACT)
