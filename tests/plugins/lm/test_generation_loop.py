"""Generation against a plain loop without cache, one row at a time and all of it read again for every token."""

import itertools
from typing import Any

import pytest
import torch
from mmalign_lm import generation
from mmalign_lm.roomy_cache import RoomyLayer
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from mmalign.language.sampling import Sampling, draw, uniforms
from tests.support.lm_samples import FAMILIES

WITH_CACHE = generation.Way()


@torch.no_grad()
def plain(module: Any, prompt: torch.Tensor, sampling: Sampling, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and log-probabilities, without an end."""
    ids, logps = prompt, []
    for step in range(sampling.max_tokens):
        token, logp = draw(module(input_ids=ids[None]).logits[:, -1], sampling, uniforms([seed], step))
        ids = torch.cat([ids, token])
        logps.append(float(logp))
    return ids[len(prompt) :], torch.tensor(logps)


def repeated() -> list[torch.Tensor]:
    """19 prompts, of which 5 are different, out of order."""
    generator = torch.Generator().manual_seed(2)
    different = [torch.randint(1, 300, (length,), generator=generator) for length in (3, 7, 1, 7, 5)]
    return [different[place].clone() for place in (0, 1, 2, 1, 0, 4, 3, 3, 3, 1, 2, 0, 0, 4, 1, 3, 0, 2, 4)]


def check(module: Any, prompts: list[torch.Tensor], sampling: Sampling, way: generation.Way = WITH_CACHE) -> None:
    seeds, said = list(range(len(prompts))), {}
    expected = [plain(module, prompt, sampling, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
    # The token drawn most often ends answers, so that they end at different times.
    end = int(torch.cat([ids for ids, _ in expected]).mode().values)

    def tell(row: int, token: int) -> None:
        said.setdefault(row, []).append(token)

    found = generation.generate(module, prompts, sampling, seeds, {end}, tell, way)
    for row, (ids, logps) in enumerate(expected):
        length = ids.tolist().index(end) + 1 if end in ids.tolist() else len(ids)
        assert found.ids[row].tolist() == ids[:length].tolist() == said[row]
        assert found.ended[row] == (end in ids.tolist())
        torch.testing.assert_close(found.logps[row], logps[:length], rtol=1e-4, atol=1e-5)
    assert len({len(ids) for ids in found.ids}) > 2 and not all(found.ended), "rows leave at different times"


@pytest.mark.parametrize("family", FAMILIES)
def test_as_one_row_at_a_time(load_lm, lm_folders, family) -> None:
    check(load_lm(lm_folders[family]).module, repeated(), Sampling(max_tokens=20, temperature=0.6))


def test_gpt_1_has_no_cache() -> None:
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "vocab_size": 60}
    module = OpenAIGPTLMHeadModel(OpenAIGPTConfig(**sizes)).eval()
    check(module, [prompt % 60 for prompt in repeated()], Sampling(max_tokens=12), generation.Way(cache="none"))


def test_several_batches_give_what_one_gives(load_lm, lm_folders, monkeypatch) -> None:
    backbone, sampling, told = load_lm(lm_folders["tiny_llama"]), Sampling(max_tokens=6), {}
    together = backbone.generate(repeated(), sampling, list(range(19)))
    monkeypatch.setattr(generation, "_PLACES", 40)

    def tell(row: int, token: int) -> None:
        told.setdefault(row, []).append(token)

    found = backbone.generate(
        repeated(), sampling, list(range(19)), lambda row, id: told.setdefault(row, []).append(id)
    )
    assert [ids.tolist() for ids in found.ids] == [ids.tolist() for ids in together.ids]
    assert [told[row] for row in range(19)] == [ids.tolist() for ids in found.ids]


def test_each_prompt_is_read_once_and_no_more_logits_than_are_drawn_from(load_lm, lm_folders) -> None:
    module, shapes = load_lm(lm_folders["tiny_llama"]).module, []
    module.register_forward_hook(
        lambda module, inputs, options, out: shapes.append((options["input_ids"].shape, out.logits.shape[:2])),
        with_kwargs=True,
    )
    generation.generate(module, repeated(), Sampling(max_tokens=3), list(range(19)), end_ids=())
    assert shapes == [((5, 7), (5, 1)), ((19, 1), (19, 1)), ((19, 1), (19, 1))]


def test_batches_have_like_lengths_and_a_limit(monkeypatch) -> None:
    prompts = repeated()
    (rows,) = generation.batches(prompts, 10)
    assert sorted(rows) == list(range(19))
    assert [len(prompts[row]) for row in rows] == sorted(len(prompt) for prompt in prompts)
    read = [tuple(prompts[row].tolist()) for row in rows]
    assert sum(one != other for one, other in itertools.pairwise(read)) == 4, "equal prompts side by side"
    monkeypatch.setattr(generation, "_PLACES", 60)
    parts = list(generation.batches(prompts, 10))
    assert [row for part in parts for row in part] == rows
    assert all(len(part) * (len(prompts[part[-1]]) + 10) <= 60 for part in parts)
    monkeypatch.setattr(generation, "_PLACES", 1)
    assert [len(part) for part in generation.batches(prompts, 10)] == [1] * 19
    assert list(generation.batches([], 10)) == []


def test_a_roomy_cache_holds_what_a_copied_one_holds() -> None:
    roomy, copied = (Cache(layer_class_to_replicate=layer) for layer in (RoomyLayer, DynamicLayer))
    generator = torch.Generator().manual_seed(0)
    rows = 5
    for step in range(150):
        length = 9 if step in (0, 70) else 1
        states = [torch.randn(rows, 2, length, 4, generator=generator) for _ in range(2)]
        for found, expected in zip(roomy.update(*states, 0), copied.update(*states, 0), strict=True):
            assert torch.equal(found, expected)
        assert roomy.get_seq_length() == copied.get_seq_length()
        if step in (0, 40):
            keep = torch.tensor([0, 0, 3, 1, 4, 4] if step == 0 else [5, 2, 1])
            rows = len(keep)
            roomy.batch_select_indices(keep)
            copied.batch_select_indices(keep)


# Drawing --------------------------------------------------------------------------------------------------------------


def slow_draw(logits: torch.Tensor, sampling: Sampling, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The whole distribution in float64, row by row."""
    tokens, logps = [], []
    for row, number in zip(logits.double(), u, strict=True):
        p = (row / sampling.temperature).softmax(0)
        order = p.argsort(descending=True)
        if sampling.top_p < 1:
            before = p[order].cumsum(0) - p[order]
            p[order[before >= sampling.top_p]] = 0
        cumulative = p.cumsum(0)
        token = int((cumulative <= number * cumulative[-1]).sum())
        tokens.append(token)
        logps.append(float((p[token] / cumulative[-1]).log()))
    return torch.tensor(tokens), torch.tensor(logps)


@pytest.mark.parametrize("size", [3, 256, 700, 5000])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.6, top_p=0.9)], ids=["all", "top-p"])
def test_drawing_is_by_the_whole_distribution(size, sampling) -> None:
    logits = torch.randn(400, size, generator=torch.Generator().manual_seed(size)) * 3
    u = uniforms(range(400), step=1)
    tokens, logps = draw(logits, sampling, u)
    expected, slow = slow_draw(logits, sampling, u)
    assert (tokens == expected).all()
    torch.testing.assert_close(logps, slow, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [3, 256, 600])
def test_the_ends_of_the_distribution(size) -> None:
    """Tokens without probability are never drawn, wherever they lie, by the smallest and the largest number."""
    logits = torch.full((3, size), -torch.inf)
    logits[0, -2], logits[1, 1], logits[2, size // 2] = 0.0, 0.0, 0.0
    for number in (0.0, 1 - 2.0**-53):
        tokens, logps = draw(logits, Sampling(), torch.full((3,), number, dtype=torch.float64))
        assert tokens.tolist() == [size - 2, 1, size // 2] and logps.tolist() == [0.0] * 3
