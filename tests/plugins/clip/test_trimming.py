"""Text towers run to the last end token only: the same features and gradients as with all the padding."""

from typing import Any

import pytest
import torch

from tests.support.clip_samples import TEXTS, ragged


def _both(backbone: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """(trimmed, full length) features in float64."""
    from mmalign_clip.text_tower import unit

    tokens = ragged(backbone, TEXTS)
    full = tokens.padded(backbone.processor.tokenizer.pad_id, backbone.processor.context_length)
    return backbone.encode_text(tokens), unit(backbone.module.encode_text(full, normalize=False))


@pytest.mark.parametrize("kind", ["clip", "clip-bpe", "eos", "bn"])
def test_trimming_is_exact(kind: str, load: Any, folders: Any) -> None:
    backbone = load(folders[kind])
    assert backbone.describe()["trims_text"]
    trimmed, full = _both(backbone)
    torch.testing.assert_close(trimmed, full, atol=1e-6, rtol=0)
    backbone.module.double()
    weights = torch.randn(trimmed.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gradients = []
    for features in _both(backbone):
        backbone.module.zero_grad(set_to_none=True)
        (features * weights).sum().backward()
        gradients.append({n: p.grad for n, p in backbone.module.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 20
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-12, rtol=1e-9, msg=name)


@pytest.mark.parametrize("kind", ["siglip-like", "coca"])
def test_other_towers_get_the_full_length(kind: str, load: Any, folders: Any) -> None:
    backbone = load(folders[kind])
    assert not backbone.describe()["trims_text"]
    trimmed, full = _both(backbone)
    assert torch.equal(trimmed, full)


@pytest.mark.parametrize("kind", ["clip", "siglip-like", "coca", "hf-clip", "hf-siglip"])
@torch.no_grad()
def test_a_row_does_not_depend_on_its_batch(kind: str, load: Any, folders: Any) -> None:
    backbone = load(folders[kind])
    together = backbone.encode_text(ragged(backbone, TEXTS))
    alone = torch.cat([backbone.encode_text(ragged(backbone, [text])) for text in TEXTS])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["clip", "siglip-like", "coca", "bn", "hf-clip", "hf-siglip"])
def test_no_rows_give_no_features(kind: str, load: Any, folders: Any) -> None:
    """A process with an empty last micro-batch still runs both towers, and its gradients are zero."""
    backbone = load(folders[kind])
    text = backbone.encode_text(ragged(backbone, []))
    image = backbone.encode_image(torch.zeros(0, 3, 32, 32))
    assert text.shape == image.shape == (0, image.shape[1])
    (text.sum() + image.sum()).backward()


def test_a_padding_id_above_the_end_token_forbids_trimming(load: Any, folders: Any) -> None:
    from mmalign_clip.text_tower import can_trim

    module = load(folders["clip"]).module
    assert can_trim(module, pad_id=0, end_id=322) and not can_trim(module, pad_id=323, end_id=322)


def test_a_row_beyond_the_context_is_refused(load: Any, folders: Any) -> None:
    from mmalign.contract.batch import Ragged
    from mmalign.errors import DataError

    for kind in ("clip", "hf-clip"):
        with pytest.raises(DataError, match="33 tokens and the model takes 32"):
            load(folders[kind]).encode_text(Ragged.from_list([torch.ones(33, dtype=torch.int64)]))
