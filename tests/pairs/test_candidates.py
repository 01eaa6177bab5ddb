"""A dual encoder as a language model of one token: identities with the formulas written out, in float64."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

from mmalign.contract.batch import Batch, Ragged
from mmalign.contract.examples import ImageRef
from mmalign.contract.objective import Context
from mmalign.errors import BadSample, UsageError
from mmalign.language.sampling import Sampling
from mmalign.language.sequences import Sequences
from mmalign.ops.logps import TokenLogps
from mmalign.ops.policy_gradient import kl_estimate
from mmalign.pairs import candidates
from mmalign.pairs.candidates import CandidateModel
from mmalign.registry.catalog import Catalog
from mmalign.testing.bench import Workbench
from mmalign.testing.subjects import load, source_of
from mmalign.testing.trainer import build_trainer
from mmalign.train.build import wire
from mmalign.train.config import TrainConfig
from mmalign.train.distributed import Processes
from mmalign.train.step import accumulate

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = tuple(f"the photo of {what}" for what in ("a cat", "a dog", "a tree", "a house", "a fish", "a bird", "a car"))
N = 6
EXACT = {"rtol": 0, "atol": 1e-10}


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return Workbench({}, {})


def view(bench: Workbench, texts: Sequence[str] = TEXTS, **options: Any) -> CandidateModel:
    """Of a tiny CLIP in float64, with a bias that must cancel."""
    clip = load(source_of("tiny-open-clip", bench), bench, init_logit_bias=-3.0, **options)
    clip.module.double().eval()
    return CandidateModel(clip, texts)


def pictures(model: CandidateModel, number: int = N) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(number, 3, *model.backbone.processor.preprocess.size, generator=generator).double()


def answered(images: Tensor, answers: Sequence[Sequence[int]]) -> Sequences:
    """Pictures as prompts, answered by the candidates with these numbers."""
    rows = [[torch.tensor([number]) for number in own] for own in answers]
    return Sequences.of_pictures(images).with_answers(rows)


def logits(model: CandidateModel, images: Tensor) -> Tensor:
    """[N, C]: exp(t) times the cosines of pictures and candidates, without the view."""
    tokens = [model.backbone.processor.text(text).ids for text in model.processor.candidates]
    texts = torch.cat([model.backbone.encode_text(type(model._tokens).from_list([ids])) for ids in tokens])
    return model.backbone.contrastive_head().log_scale.exp() * model.backbone.encode_image(images) @ texts.T


def trained(catalog: Catalog, objective: str, model: CandidateModel, **options: Any) -> tuple[Any, Any, Any]:
    entry = catalog.find("objectives", objective)
    target = catalog.load(entry)
    own = target(target.Config(**options))
    models, engine = wire(entry.spec, own, model, TrainConfig(), Processes("cpu"), classes=("a", "b", "c"))
    models.eval()
    return own, models, engine


def prepared(objective: Any, models: Any, columns: dict[str, Any]) -> Batch:
    batch = Batch({"key": tuple(map(str, range(N))), **columns})
    with torch.no_grad():
        batch = batch.with_columns(**objective.frozen(models, batch))
        return objective.prepare(models, batch, Context(0, 0, lambda value: value, 4))


def losses(objective: Any, models: Any, batch: Batch) -> dict[str, Tensor]:
    """Each term, as a mean."""
    terms, _ = objective.loss(objective.forward(models, batch), batch)
    counts = objective.count(batch)
    return {name: term / counts[name] for name, term in terms.items() if counts[name]}


PAIRS = [[i % 7, (i + 3) % 7] for i in range(N)]


def test_sft_over_the_whole_list_is_the_cross_entropy_of_the_zero_shot_classifier(bench: Workbench) -> None:
    model = view(bench)
    objective, models, _ = trained(bench.catalog, "sft", model)
    images, right = pictures(model), [i % 7 for i in range(N)]
    batch = prepared(objective, models, {"sequences": answered(images, [[number] for number in right])})
    expected = cross_entropy(logits(model, images), torch.tensor(right))
    torch.testing.assert_close(losses(objective, models, batch)["nll"], expected, **EXACT)


def test_dpo_with_a_zero_reference_is_bradley_terry_on_pair_scores_is_pickscore(bench: Workbench) -> None:
    model = view(bench)
    images = pictures(model)
    scores = logits(model, images).gather(1, torch.tensor(PAIRS))
    bradley_terry = -logsigmoid(scores[:, 0] - scores[:, 1]).mean()
    pickscore = cross_entropy(scores, torch.zeros(N, dtype=torch.int64))  # Kirstain 2023, without ties
    torch.testing.assert_close(bradley_terry, pickscore, **EXACT)
    sequences = answered(images, PAIRS)
    reward, models, _ = trained(bench.catalog, "reward", view(bench))
    batch = prepared(reward, models, {"sequences": sequences})
    torch.testing.assert_close(losses(reward, models, batch)["ranking"], pickscore, **EXACT)
    dpo, models, _ = trained(bench.catalog, "dpo", view(bench), beta=1.0)
    batch = prepared(dpo, models, {"sequences": sequences})
    zero = type(batch["reference"])(torch.zeros_like(batch["reference"].values), batch["reference"].offsets)
    found = losses(dpo, models, batch.with_columns(reference=zero))["preference"]
    torch.testing.assert_close(found, pickscore, **EXACT)


def test_contrastive_of_one_picture_and_two_texts_is_pickscore(bench: Workbench) -> None:
    from mmalign.ops import info_nce

    model = view(bench)
    image = pictures(model, 1)
    towers = model.backbone
    picture = towers.encode_image(image).expand(2, -1)
    texts = model.embeddings().detach()[:2]
    scale = towers.contrastive_head().log_scale.exp()
    both, _ = info_nce(picture, texts, scale.expand(2), torch.arange(2)[:, None], 0)
    # Half of it is picture to text, once for each text as the right one; the other half is ln 2 each: equal pictures.
    scores = logits(model, image)[:, :2]
    wanted = cross_entropy(scores, torch.tensor([0])) + cross_entropy(scores, torch.tensor([1])) + 2 * math.log(2)
    torch.testing.assert_close(both, wanted / 2, **EXACT)


def test_dpo_at_the_reference_is_ln_2(bench: Workbench) -> None:
    objective, models, _ = trained(bench.catalog, "dpo", view(bench))
    batch = prepared(objective, models, {"sequences": answered(pictures(view(bench)), PAIRS)})
    torch.testing.assert_close(
        losses(objective, models, batch)["preference"], torch.tensor(math.log(2), dtype=torch.float64), **EXACT
    )


def test_kl_and_entropy_of_all_candidates_are_their_closed_forms(bench: Workbench) -> None:
    policy, reference = view(bench), view(bench)
    with torch.no_grad():
        for parameter in reference.backbone.module.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)).double())
    images, number = pictures(policy), len(TEXTS)
    every = answered(images, [list(range(number))] * N)
    tokens = policy.token_logps(policy.hidden_states(every), entropy=True)
    other = reference.token_logps(reference.hidden_states(every))
    p, q = logits(policy, images).log_softmax(1), logits(reference, images).log_softmax(1)
    estimates = kl_estimate(tokens.logps, other.logps, "k1").view(N, number)
    torch.testing.assert_close((p.exp() * estimates).sum(1), (p.exp() * (p - q)).sum(1), **EXACT)
    assert tokens.entropy is not None
    torch.testing.assert_close(
        tokens.entropy.view(N, number), -(p.exp() * p).sum(1, keepdim=True).expand(N, number), **EXACT
    )
    k3 = kl_estimate(tokens.logps, other.logps, "k3").view(N, number)  # has the same mean
    torch.testing.assert_close((p.exp() * k3).sum(1), (p.exp() * (p - q)).sum(1), **EXACT)


@pytest.mark.parametrize("locked", [False, True])
@pytest.mark.parametrize("chunk", [2, 64])
@pytest.mark.parametrize("micro_batch", [0, 2, 1])
def test_gradients_are_those_of_the_formula_however_a_batch_and_the_list_are_cut(
    bench: Workbench, micro_batch: int, chunk: int, locked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "_CHUNK", chunk)
    model = view(bench, lock_text=locked)
    objective, models, engine = trained(bench.catalog, "sft", model)
    images, right = pictures(model), [i % 7 for i in range(N)]
    batch = prepared(objective, models, {"sequences": answered(images, [[number] for number in right])})
    accumulate(engine, [batch], micro_batch)
    plain = view(bench, lock_text=locked)
    cross_entropy(logits(plain, images), torch.tensor(right)).backward()
    for (name, ours), expected in zip(model.module.named_parameters(), plain.module.parameters(), strict=True):
        wanted = expected.grad if expected.grad is not None else torch.zeros_like(expected)
        found = ours.grad if ours.grad is not None else torch.zeros_like(ours)
        torch.testing.assert_close(found, wanted, **EXACT, msg=name)
    assert model.module.logit_scale.grad.abs() > 1e-4


class Naive(CandidateModel):
    """The formula written out: logits of all candidates in each pass, and autograd through all of it."""

    def token_logps(
        self, hidden: Any, *, temperature: float = 1.0, entropy: bool = False, uniform: bool = False
    ) -> Any:
        logps = (self._logits(hidden)[hidden.layout.predict] / temperature).log_softmax(1)
        own = logps.gather(1, hidden.layout.labels[:, None])[:, 0]
        return TokenLogps(own, -(logps.exp() * logps).sum(1), logps.argmax(1) == hidden.layout.labels)

    def pair_scores(self, hidden: Any) -> Tensor:
        return self._logits(hidden)[hidden.layout.last].gather(1, hidden.layout.labels[:, None])[:, 0]

    def _logits(self, hidden: Any) -> Tensor:
        tokens = [self.backbone.processor.text(text).ids for text in self.processor.candidates]
        texts = torch.cat([self.backbone.encode_text(Ragged.from_list([ids])) for ids in tokens])
        return self.backbone.contrastive_head().log_scale.exp() * hidden.states @ texts.T


@pytest.mark.parametrize("objective", ["sft", "dpo", "kto", "simpo", "orpo", "cpo", "reward"])
def test_gradients_of_each_objective_are_those_of_the_formula(bench: Workbench, objective: str) -> None:
    gradients = []
    for kind in (CandidateModel, Naive):
        clip = view(bench).backbone
        model = kind(clip, TEXTS)
        own, models, engine = trained(bench.catalog, objective, model)
        answers = [own_pair[:1] for own_pair in PAIRS] if objective in ("sft", "kto") else PAIRS
        labels = {"label": torch.arange(N) % 2} if objective == "kto" else {}
        batch = prepared(own, models, {"sequences": answered(pictures(model), answers), **labels})
        accumulate(engine, [batch], 2 if kind is CandidateModel else 0)
        gradients.append({n: p.grad for n, p in clip.module.named_parameters() if p.grad is not None and p.grad.any()})
    ours, naive = gradients
    assert ours.keys() == naive.keys() and "logit_scale" in ours and len(ours) > 20
    for name, expected in naive.items():
        torch.testing.assert_close(ours[name], expected, **EXACT, msg=name)


def test_a_second_update_sees_the_changed_texts(bench: Workbench) -> None:
    model = view(bench)
    objective, models, engine = trained(bench.catalog, "sft", model)
    images, right = pictures(model), [i % 7 for i in range(N)]
    batch = prepared(objective, models, {"sequences": answered(images, [[number] for number in right])})
    optimizer = torch.optim.SGD(model.module.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        expected = cross_entropy(logits(model, images), torch.tensor(right))
        result = accumulate(engine, [batch], 2)
        torch.testing.assert_close(result.loss, expected.detach(), **EXACT)
        optimizer.step()


def test_pictures_as_answers_are_compared_by_pair_scores(bench: Workbench) -> None:
    model = view(bench, ())
    tokens = [model.processor.prompt(text) for text in TEXTS[:3]]
    images = pictures(model)
    rows = [[torch.zeros(1, dtype=torch.int64)] * 2 for _ in range(3)]
    sequences = Sequences.from_lists(tokens, rows)
    sequences = type(sequences)(sequences.prompts, sequences.answers, sequences.counts, sequences.learn, None, images)
    scores = torch.stack([logits(view(bench), images[2 * i : 2 * i + 2])[:, i] for i in range(3)])
    for name, term, factor in (("reward", "ranking", 1.0), ("dpo", "preference", 1.0)):
        objective, models, _ = trained(bench.catalog, name, view(bench, ()), **({"beta": 1.0} if name == "dpo" else {}))
        batch = Batch({"key": ("a", "b", "c"), "sequences": sequences})
        with torch.no_grad():
            batch = batch.with_columns(**objective.frozen(models, batch))
        if name == "dpo":
            zero = type(batch["reference"])(torch.zeros(6).double(), batch["reference"].offsets)
            batch = batch.with_columns(reference=zero)
        expected = -logsigmoid(factor * (scores[:, 0] - scores[:, 1])).mean()
        torch.testing.assert_close(losses(objective, models, batch)[term], expected, **EXACT)
    halves = [sequences.select([1]), sequences.select([2, 0])]
    assert torch.equal(halves[1].answer_pictures, images[[4, 5, 0, 1]])
    assert len({*sequences.row_bytes()}) == 3


@pytest.mark.parametrize("objective", ["ppo", "rloo", "grpo", "online-dpo"])
def test_gradients_of_sampling_objectives_are_those_of_the_formula(
    bench: Workbench, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same draws and scores; `Naive` is autograd through the logits of all candidates."""
    entry, gradients = bench.catalog.find("objectives", objective), []
    for kind, micro_batch in ((CandidateModel, 2), (Naive, 0)):
        monkeypatch.setattr(candidates, "CandidateModel", kind)
        trainer = build_trainer(entry, "tiny-open-clip", bench)
        assert type(trainer.models["policy"]) is kind
        _, found = trainer.gradients(trainer.batches, micro_batch)
        gradients.append({name: value for name, value in found.items() if value is not None and value.any()})
    ours, naive = gradients
    assert ours.keys() == naive.keys() and any(name.endswith("logit_scale") for name in ours)
    for name, wanted in naive.items():
        torch.testing.assert_close(ours[name], wanted, **EXACT, msg=name)


def test_draws_follow_the_probabilities_and_their_own_seeds(bench: Workbench) -> None:
    model = view(bench)
    images = pictures(model, 2)
    number = 4000
    prompts = [images[0]] * number + [images[1]]
    drawn = model.generate(prompts, Sampling(), [*range(number), 7])
    p = logits(model, images[:1]).log_softmax(1)[0]
    counts = torch.bincount(torch.cat(drawn.ids[:-1]), minlength=7) / number
    assert (counts - p.exp()).abs().max() < 4 * 0.5 / math.sqrt(number)
    torch.testing.assert_close(torch.cat(drawn.logps[:-1]), p[torch.cat(drawn.ids[:-1])].float(), rtol=0, atol=1e-5)
    alone = model.generate(prompts[7:8], Sampling(), [7])
    assert torch.equal(alone.ids[0], drawn.ids[7]) and drawn.ended == [True] * (number + 1)
    greedy = model.generate(prompts[:1], Sampling(temperature=0), [0])
    assert int(greedy.ids[0]) == int(p.argmax())


def test_a_list_that_does_not_fit_the_memory_is_refused_with_the_number_that_does(bench: Workbench) -> None:
    model = view(bench)
    tokens = sum(len(model.backbone.processor.text(text).ids) for text in TEXTS)
    needed = 8 * tokens + 7 * 3 * 8 * model.hidden_width
    model.require_room(needed)
    with pytest.raises(UsageError, match=r"7 candidates take .*: about 3 fit"):
        model.require_room(needed * 3.5 / 7)


def test_what_cannot_be_read_says_so(bench: Workbench) -> None:
    model = view(bench)
    picture = ImageRef("a.png")
    with pytest.raises(BadSample, match="'a zebra' is none of the 7 candidates"):
        model.processor.answers(picture, ["a zebra"])
    with pytest.raises(BadSample, match="the answers are no texts"):
        model.processor.answers(picture, [picture])
    with pytest.raises(BadSample, match="the answers are no pictures"):
        model.processor.answers("a cat", [TEXTS[0]])
    with pytest.raises(UsageError, match="one candidate, 'a cat'"):
        view(bench, ("a cat",))
