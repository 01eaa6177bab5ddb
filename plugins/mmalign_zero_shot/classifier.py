"""Zero-shot classification: builds a classifier [D, C] from label texts, and scores images against it.

    weights = cached_classifier(backbone, source, labels, runtime, cache, settings)
    classifier = Classifier(labels, weights.weights, backbone.contrastive_head())
    for index, row in classify(classifier, backbone, refs, runtime):      # a Row, or why there is none
        predictions, rejected = best(row, labels, top_k=5, limits=Limits(cosine=0.2))

D is the embedding width, C the number of labels, N of images.
The classifier is open_clip's `build_zero_shot_classifier`: a class's templates are encoded at unit length, averaged and
scaled to unit length again. Scores use the model's own learned scale exp(log_scale): a softmax over labels for a CLIP,
and sigmoid(scale * cosine + bias) of each label alone where the head has a bias (SigLIP). open_clip's accuracy metric
always multiplies by 100, which gives the same ranking and so the same accuracies.
A softmax shares 100% among the given labels, whatever the picture shows: it tells which label is best. The cosine tells
whether that label fits at all.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from mmalign.contract.backbone import ContrastiveHead, DualEncoder
from mmalign.contract.batch import Ragged
from mmalign.contract.evaluation import Runtime
from mmalign.contract.examples import ImageRef
from mmalign.errors import NonFiniteError
from mmalign.models.digest import folder_digest, state_digest
from mmalign_zero_shot.cache import Cached, ClassifierCache
from mmalign_zero_shot.labels import Label
from mmalign_zero_shot.output import NONE_OF_THESE, Prediction, Rejected
from mmalign_zero_shot.stream import image_batches

if TYPE_CHECKING:
    from mmalign.contract.source import Source

_CACHE_VERSION = 1
_TOKENIZER_PROBES = ("a photo of a cat.", "Two DOGS, 3 birds & an origami crane", "naïve café 猫 🐈", "")
_TOKENS_AT_ONCE = {"cpu": 2048, "cuda": 32768, "mps": 8192}


def build_classifier(
    backbone: DualEncoder,
    labels: Sequence[Label],
    runtime: Runtime,
    progress: Callable[[int, int], None] | None = None,
) -> Cached:
    """Encode every prompt of every label, in the weights' own precision; `progress(done, total)` counts texts.

    Raises NonFiniteError where the text tower gives NaN or infinity.
    """
    prompts = [(index, prompt) for index, label in enumerate(labels) for prompt in label.prompts]
    tokenized = [backbone.processor.text(prompt) for _, prompt in prompts]
    lost = [text.num_lost for text in tokenized if text.num_lost]
    # Short texts together: a causal tower is computed only up to the longest text of a batch. Rows do not interact.
    lengths = [len(text.ids) for text in tokenized]
    order = sorted(range(len(prompts)), key=lengths.__getitem__)
    sums: Tensor | None = None
    done = 0
    with runtime.evaluating(backbone):
        while done < len(order):
            rows = _next_batch(order, done, lengths, _TOKENS_AT_ONCE[runtime.device.type])
            tokens = Ragged.from_list([tokenized[row].ids for row in rows]).to(runtime.device)
            # Summed in float64 on the CPU, so that the result does not depend on how texts were grouped.
            encoded = backbone.encode_text(tokens).cpu().double()
            if sums is None:
                sums = encoded.new_zeros(len(labels), encoded.shape[1])
            sums.index_add_(0, torch.tensor([prompts[row][0] for row in rows]), encoded)
            done += len(rows)
            if progress:
                progress(done, len(order))
    assert sums is not None, "labels are never empty"
    counts = torch.tensor([len(label.prompts) for label in labels]).double()
    means = sums / counts[:, None]
    weights = (means / means.norm(dim=1, keepdim=True)).T.float().contiguous()
    if not weights.isfinite().all():
        raise NonFiniteError("the text tower gave NaN or infinity", hint="The weights are damaged or diverged.")
    return Cached(weights, len(lost), sum(lost))


def cached_classifier(
    backbone: DualEncoder,
    source: "Source",
    labels: Sequence[Label],
    runtime: Runtime,
    cache: ClassifierCache,
    settings: Mapping[str, Any],
    progress: Callable[[int, int], None] | None = None,
) -> Cached:
    """`build_classifier`, or its earlier result for the same weights, tokenizer, settings, templates and labels."""
    key = classifier_key(backbone, source, labels, cache, settings)
    cached = cache.read(key)
    if cached is None or cached.weights.shape[1] != len(labels):
        cached = build_classifier(backbone, labels, runtime, progress)
        cache.write(key, cached)
    return cached


def classifier_key(
    backbone: DualEncoder,
    source: "Source",
    labels: Sequence[Label],
    cache: ClassifierCache,
    settings: Mapping[str, Any],
) -> str:
    """The hash of weights, tokenizer, settings and prompts; the fields only shown (`text`, `object`) are not hashed."""
    if source.folder is not None:
        weights = folder_digest(source.folder, cache.folder / "digests.json")
    else:
        weights = state_digest(sorted(backbone.module.state_dict().items()))
    parts = {
        "version": _CACHE_VERSION,
        "weights": weights,
        "backbone": source.entry.spec.target,
        "settings": {name: str(value) for name, value in settings.items()},
        "describe": {name: str(value) for name, value in backbone.describe().items()},
        "context_length": backbone.processor.context_length,
        "probes": [backbone.processor.text(probe).ids.tolist() for probe in _TOKENIZER_PROBES],
        "prompts": [label.prompts for label in labels],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()


class Row(NamedTuple):
    """Results of one picture for C labels, on the CPU. scores: [C], 0 to 1; cosines: [C], of picture and text."""

    scores: Tensor
    cosines: Tensor


class Limits(NamedTuple):
    """Thresholds for labels. score: the least of every label named; cosine: the least of the best label."""

    score: float = 0.0
    cosine: float | None = None


@dataclass(frozen=True)
class Classifier:
    """labels: C of them; weights: [D, C] unit columns; head: the model's learned scale and bias."""

    labels: Sequence[Label]
    weights: Tensor
    head: ContrastiveHead

    def cosines(self, features: Tensor) -> Tensor:
        """features: [N, D] unit rows -> [N, C]."""
        return features.float() @ self.weights.to(features.device)

    def scores(self, features: Tensor) -> Tensor:
        """features: [N, D] unit rows -> [N, C] probabilities."""
        return scores(self.cosines(features), self.head)


def scores(cosines: Tensor, head: ContrastiveHead) -> Tensor:
    """cosines [N, C] -> [N, C]: softmax over labels, or with a bias each label's sigmoid."""
    logits = head.log_scale.detach().float().exp().to(cosines.device) * cosines
    if head.bias is None:
        return logits.softmax(dim=1)
    return (logits + head.bias.detach().float().to(cosines.device)).sigmoid()


def best(row: Row, labels: Sequence[Label], top_k: int, limits: Limits) -> tuple[list[Prediction], Rejected | None]:
    """(the `top_k` best labels within the limits, None), or ("none of these" alone, the best label with the reason)."""
    values, places = row.scores.topk(min(top_k, len(labels)))
    ranked = [
        Prediction(labels[place].text, labels[place].object, value, float(row.cosines[place]))
        for value, place in zip(values.tolist(), places.tolist(), strict=True)
    ]
    first = ranked[0]
    cosine, score = float(row.cosines[places[0]]), float(values[0])
    if limits.cosine is not None and cosine < limits.cosine:
        rejected = Rejected(first, f"cosine {cosine:.3f}, below {limits.cosine:g}")
    elif score < limits.score:
        rejected = Rejected(first, f"{score:.1%}, below {limits.score:.1%}")
    else:
        return [item for item, value in zip(ranked, values.tolist(), strict=True) if value >= limits.score], None
    return [Prediction(NONE_OF_THESE, None, None)], rejected


def classify(
    classifier: Classifier, backbone: DualEncoder, refs: Sequence[ImageRef], runtime: Runtime
) -> Iterator[tuple[int, Row | str]]:
    """For each ref, in order: (its index, its Row), or (its index, why it cannot be used)."""
    for batch in image_batches(refs, backbone.processor, runtime.batch_size):
        results: dict[int, Row | str] = dict(batch.errors)
        if batch.indices:
            with runtime.evaluating(backbone):
                features = encode_images(backbone, batch.images, runtime)
                cosines = classifier.cosines(features)
                rows = zip(batch.indices, scores(cosines, classifier.head).cpu(), cosines.cpu(), strict=True)
            results |= {index: _finite(Row(row, cosine)) for index, row, cosine in rows}
        yield from sorted(results.items())


def encode_images(backbone: DualEncoder, images: Tensor, runtime: Runtime) -> Tensor:
    """[n, 3, H, W] on the CPU -> [n, D] float32 unit rows on the device. Call it under `runtime.evaluating`."""
    with runtime.autocast():
        features = backbone.encode_image(images.to(runtime.device, non_blocking=True))
    return torch.nn.functional.normalize(features.float(), dim=1)  # bf16 rounding leaves rows a little off unit length


def _finite(row: Row) -> Row | str:
    return row if bool(row.scores.isfinite().all()) else "the model gave NaN or infinity for this image"


def _next_batch(order: Sequence[int], done: int, lengths: Sequence[int], budget: int) -> list[int]:
    """Rows from `done` on, as many as fit `budget` tokens when padded to the longest; at least one."""
    stop = done + 1
    while stop < len(order) and (stop + 1 - done) * lengths[order[stop]] <= budget:
        stop += 1
    return list(order[done:stop])
