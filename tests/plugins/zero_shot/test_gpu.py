"""On CUDA: the classifier equals the CPU's, and bf16 images come close."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmalign_zero_shot.classifier import Classifier, build_classifier, classify
from mmalign_zero_shot.labels import build_labels

from mmalign.contract.evaluation import Runtime
from mmalign.contract.examples import ImageRef


@pytest.mark.gpu
def test_cuda_gives_the_cpus_answers(model_folder: Path, load_folder: Any, pictures: Path) -> None:
    labels, _ = build_labels(["a photo of a <object>"], ["cat", "dog", "small red car"], (), None)
    refs = [ImageRef(str(path)) for path in sorted(pictures.rglob("*.jpg"))]
    weights, rows = {}, {}
    for device in ("cpu", "cuda"):
        _, backbone = load_folder(model_folder)
        runtime = Runtime.choose(device, batch_size=3)
        backbone.module.to(runtime.device)
        weights[device] = build_classifier(backbone, labels, runtime).weights
        classifier = Classifier(labels, weights[device], backbone.contrastive_head())
        rows[device] = torch.stack(
            [row.scores for _, row in classify(classifier, backbone, refs, runtime) if not isinstance(row, str)]
        )
    torch.testing.assert_close(weights["cuda"], weights["cpu"], atol=1e-4, rtol=0)
    torch.testing.assert_close(rows["cuda"], rows["cpu"], atol=0.03, rtol=0)
