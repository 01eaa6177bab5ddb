"""A check for all backbones: the saved folder of a model loads as the same model."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmalign.testing.bench import Workbench


def saving_is_exact(backbone: Any, bench: Workbench, outputs: Callable[[Any], dict[str, Any]]) -> None:
    """A backbone's saved folder loads as the same model: tensors, `outputs`, tokenisation and vocabulary."""
    import torch

    from mmalign.models.references import find_source
    from mmalign.testing.subjects import TEXTS, load

    with tempfile.TemporaryDirectory(dir=bench.folder) as parent:
        folder = Path(parent) / "saved"
        backbone.save(folder)
        twin = load(find_source(str(folder), bench.catalog), bench, seed=1)
        expected, saved = backbone.module.state_dict(), twin.module.state_dict()
        assert list(expected) == list(saved), "the saved model has other tensors"
        changed = [name for name, tensor in expected.items() if not torch.equal(tensor, saved[name])]
        assert not changed, f"tensors changed by saving: {', '.join(changed[:5])}"
        again = outputs(twin)
        for name, value in outputs(backbone).items():
            assert torch.equal(value, again[name]), f"{name} differ after saving"
        for text in TEXTS:
            assert torch.equal(twin.processor.text(text).ids, backbone.processor.text(text).ids), (
                "the tokenisation differs after saving"
            )
        assert twin.vocabulary == backbone.vocabulary, "the vocabulary differs after saving"
