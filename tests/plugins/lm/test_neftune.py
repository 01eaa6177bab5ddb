"""NEFTune's noise: its size, transformers' own on the same draws, and nothing outside of training."""

import math

import pytest
import torch
from mmalign_lm.noise import noisy

from mmalign.language.sequences import Sequences
from mmalign.train import rng
from tests.support.lm_samples import FAMILIES, some_sequences


def logps(backbone, sequences: Sequences) -> torch.Tensor:
    with torch.no_grad():
        return backbone.token_logps(backbone.hidden_states(sequences)).logps


def test_the_noise_is_uniform_and_scaled_by_the_length_of_the_example() -> None:
    torch.manual_seed(0)
    lengths = torch.tensor([[4] * 64, [25] * 64])
    noise = noisy(torch.zeros(2, 64, 100), lengths, alpha=5.0)
    for row, length in enumerate((4, 25)):
        bound = 5 / math.sqrt(length * 100)
        assert 0.99 * bound < float(noise[row].abs().max()) <= bound
        assert float(noise[row].std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)
        assert abs(float(noise[row].mean())) < 0.03 * bound


def test_it_is_transformers_noise_on_an_example_alone() -> None:
    from transformers.integrations.neftune import neftune_post_forward_hook

    embedding = torch.nn.Embedding(9, 16)
    embedding.neftune_noise_alpha = 5.0
    output = embedding(torch.tensor([[1, 2, 3, 4, 5]]))
    torch.manual_seed(3)
    expected = neftune_post_forward_hook(embedding, None, output)
    torch.manual_seed(3)
    found = noisy(output, torch.full((1, 5), 5), 5.0)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("packing", ["auto", "off"])
def test_only_training_is_noisy(load_lm, lm_folders, family, packing) -> None:
    plain = load_lm(lm_folders[family], packing=packing)
    backbone = load_lm(lm_folders[family], packing=packing, neftune_alpha=5)
    sequences = some_sequences()
    clean = logps(plain, sequences)
    assert torch.equal(logps(backbone, sequences), clean)
    backbone.module.train()
    first, second = logps(backbone, sequences), logps(backbone, sequences)
    assert not torch.equal(first, clean) and not torch.equal(first, second)
    backbone.module.eval()
    assert torch.equal(logps(backbone, sequences), clean)


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_that_are_handed_over_are_the_models_own(load_lm, lm_folders, family) -> None:
    """With next to no noise the outputs are those of the ids: no scale or norm of the embedding is passed over."""
    backbone = load_lm(lm_folders[family], neftune_alpha=1e-9)
    clean = logps(backbone, some_sequences())
    backbone.module.train()
    torch.testing.assert_close(logps(backbone, some_sequences()), clean, rtol=1e-5, atol=1e-5)


def test_the_noise_is_replayed_with_the_random_state(load_lm, lm_folders) -> None:
    backbone = load_lm(lm_folders["tiny_llama"], neftune_alpha=5)
    backbone.module.train()
    cpu, sequences = torch.device("cpu"), some_sequences()
    state = rng.capture(cpu)
    first = logps(backbone, sequences)
    rng.restore(state, cpu)
    assert torch.equal(logps(backbone, sequences), first)
