"""Retrieval: how often an image's own caption is among the k nearest texts, and the other way round; the same for
pairs of texts.

    Retrieval(Retrieval.Config(max_examples=1000)).run(backbone, dataset, Runtime(device))
    # {"image_to_text_r1": 0.41, "image_to_text_r1_low": 0.38, ..., "mean_r1": 0.40, "images": 990, "texts": 1000, ...}
    embedded = embed_dataset(backbone, dataset, runtime)
    recalls(embedded, ks=(1, 5, 10))         # {"image_to_text_r1": ..., "text_to_image_r1": ..., "mean_r1": ...}
    TextRetrieval(TextRetrieval.Config()).run(encoder, text_pairs, Runtime(device))  # {"query_to_document_r10": ...}

N images, M texts, D the embedding width. An image may have several captions. Captions that are equal word for word are
one text with several images, because no model can tell them apart. Ties count against the model: a wrong item that
scores as high as the best right one ranks before it, so a model that gives the same answer to everything gets zero.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from mmalign.contract.backbone import DualEncoder, EncodesQueries, TextEncoder, TokenizedText
from mmalign.contract.batch import Ragged
from mmalign.contract.dataset import Dataset
from mmalign.contract.evaluation import Runtime
from mmalign.data.order import spread
from mmalign.errors import DataError, NonFiniteError
from mmalign.evaluate.intervals import with_interval
from mmalign_zero_shot.classifier import encode_images
from mmalign_zero_shot.stream import image_batches

_SCORES_AT_ONCE = 8 * 2**20  # 32 MiB of float32


class RetrievalConfig(BaseModel):
    """The pairs to search among."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_examples: int = Field(
        0, ge=0, description="pairs to use, evenly spread over the data; 0: all. Recall falls as more are searched"
    )


class Retrieval:
    """Recall at 1, 5 and 10 both ways, with 95% intervals, and their mean. Ties count against the model."""

    Config: ClassVar[type[BaseModel]] = RetrievalConfig

    def __init__(self, config: RetrievalConfig) -> None:
        self.config = config

    def run(self, backbone: DualEncoder, dataset: Dataset, runtime: Runtime) -> Mapping[str, float]:
        """Raises DataError where no image can be read, and NonFiniteError."""
        embedded = embed_dataset(backbone, dataset, runtime, self.config.max_examples)
        metrics = _with_intervals(recalls(embedded), "image_to_text", len(embedded.image), len(embedded.text))
        counts = {"images": len(embedded.image), "texts": len(embedded.text), "unreadable": len(embedded.unreadable)}
        return {**metrics, **counts}


class TextRetrieval:
    """How often a query (anchor) finds its own document (positive) among all documents, hard negatives included, and
    the other way round."""

    Config: ClassVar[type[BaseModel]] = RetrievalConfig

    def __init__(self, config: RetrievalConfig) -> None:
        self.config = config

    def run(self, backbone: TextEncoder, dataset: Dataset, runtime: Runtime) -> Mapping[str, float]:
        """Raises DataError where there are no pairs, and NonFiniteError."""
        examples: list[Any] = [dataset[index] for index in spread(len(dataset), self.config.max_examples)]
        if not examples:
            raise DataError("text-retrieval: there are no pairs of texts")
        queries, documents = (
            {text: row for row, text in enumerate(dict.fromkeys(texts))} for texts in _sides(examples)
        )
        pairs = sorted({(queries[each.anchor], documents[each.positive]) for each in examples})
        processor = backbone.processor
        as_query = processor.query if isinstance(processor, EncodesQueries) else processor.text
        asked, long_queries = _encode([as_query(text) for text in queries], backbone, runtime)
        found, long_documents = encode_texts(backbone, list(documents), runtime)
        if not (asked.isfinite().all() and found.isfinite().all()):
            raise NonFiniteError("text-retrieval: the model gave NaN or infinity")
        sides = ("query", "document")
        metrics = recalls(Embedded(asked, found, torch.tensor(pairs), {}, long_queries + long_documents), sides=sides)
        counts = {"queries": len(queries), "documents": len(documents), "cut": long_queries + long_documents}
        answered = len({document for _, document in pairs})  # a hard negative is no query's document
        return {**_with_intervals(metrics, "query_to_document", len(queries), answered), **counts}


def _sides(examples: Sequence[Any]) -> tuple[list[str], list[str]]:
    negatives = [each.negative for each in examples if each.negative]
    return [each.anchor for each in examples], [*(each.positive for each in examples), *negatives]


def _with_intervals(metrics: dict[str, float], forward: str, asking: int, answering: int) -> dict[str, float]:
    """asking, answering: how many items the shares named `forward`, and the others, are of."""
    for name, share in list(metrics.items()):
        if not name.startswith("mean"):  # a mean of two dependent shares has no known interval
            total = asking if name.startswith(forward) else answering
            metrics |= with_interval(name, share * total, total)
    return metrics


@dataclass(frozen=True)
class Embedded:
    """image: [N, D], text: [M, D], unit rows on the CPU; pairs: [P, 2] int64, the index of an image and of its text.

    unreadable: images left out with their captions; num_long: captions cut to the context length.
    """

    image: Tensor
    text: Tensor
    pairs: Tensor
    unreadable: dict[str, str]
    num_long: int


def recall_at_k(queries: Tensor, items: Tensor, pairs: Tensor, ks: Sequence[int]) -> dict[int, float]:
    """The share of queries with a right item among their k nearest.

    queries: [N, D]; items: [M, D]; pairs: [P, 2] (query, item). Queries without a right item are not counted. Memory is
    O(chunk x M), never N x M.
    """
    chunk = max(1, _SCORES_AT_ONCE // max(1, len(items)))
    pairs = pairs[pairs[:, 0].argsort(stable=True)]
    starts = torch.searchsorted(pairs[:, 0].contiguous(), torch.arange(0, len(queries) + chunk, chunk))
    hits, total = torch.zeros(len(ks), dtype=torch.int64), 0
    for place, start in enumerate(range(0, len(queries), chunk)):
        rows, columns = pairs[starts[place] : starts[place + 1]].unbind(1)
        rows = rows - start
        scores = queries[start : start + chunk] @ items.T
        best = scores.new_full((len(scores),), -torch.inf)
        best.scatter_reduce_(0, rows, scores[rows, columns], "amax")
        scores[rows, columns] = -torch.inf
        asked = best > -torch.inf
        ahead = (scores >= best[:, None]).sum(1)[asked]  # wrong items before the best right one
        hits += torch.stack([(ahead < k).sum() for k in ks])
        total += int(asked.sum())
    return {k: int(count) / max(total, 1) for k, count in zip(ks, hits, strict=True)}


def recalls(
    embedded: Embedded, ks: Sequence[int] = (1, 5, 10), sides: tuple[str, str] = ("image", "text")
) -> dict[str, float]:
    """Recall in both directions at each k and their mean, as shares from 0 to 1. sides: their names in the metrics."""
    forward = recall_at_k(embedded.image, embedded.text, embedded.pairs, ks)
    backward = recall_at_k(embedded.text, embedded.image, embedded.pairs.flip(1), ks)
    one, other = sides
    metrics = {f"{one}_to_{other}_r{k}": forward[k] for k in ks} | {f"{other}_to_{one}_r{k}": backward[k] for k in ks}
    return metrics | {f"mean_r{k}": (forward[k] + backward[k]) / 2 for k in ks}


def embed_dataset(backbone: DualEncoder, dataset: Dataset, runtime: Runtime, max_examples: int = 0) -> Embedded:
    """Embed an image-text data set. An image with several captions (`group`) and a repeated caption are encoded once.

    Raises DataError where no image can be read, and NonFiniteError.
    """
    examples: list[Any] = [dataset[index] for index in spread(len(dataset), max_examples)]
    images: dict[str, int] = {}
    keys = [example.group for example in examples]
    for place, key in enumerate(keys):
        images.setdefault(key, place)
    refs = [examples[place].image for place in images.values()]
    features, rows, unreadable = _encode_refs(backbone, refs, [examples[i].key for i in images.values()], runtime)
    if not rows:
        reason = next(iter(unreadable.values()), "the data set is empty")
        raise DataError(f"retrieval: none of {len(refs)} images can be read: {reason}")
    row_of = {key: rows[number] for number, key in enumerate(images) if number in rows}
    kept = [(row_of[key], example.text) for key, example in zip(keys, examples, strict=True) if key in row_of]
    texts = {text: place for place, text in enumerate(dict.fromkeys(text for _, text in kept))}
    pairs = torch.tensor(sorted({(row, texts[text]) for row, text in kept}))
    encoded, num_long = encode_texts(backbone, list(texts), runtime)
    if not (features.isfinite().all() and encoded.isfinite().all()):
        raise NonFiniteError("retrieval: the model gave NaN or infinity")
    return Embedded(features, encoded, pairs, unreadable, num_long)


def encode_texts(backbone: TextEncoder, texts: Sequence[str], runtime: Runtime) -> tuple[Tensor, int]:
    """[M, D] unit rows on the CPU, in order, and how many texts were cut."""
    return _encode([backbone.processor.text(text) for text in texts], backbone, runtime)


def _encode(tokenized: Sequence[TokenizedText], backbone: TextEncoder, runtime: Runtime) -> tuple[Tensor, int]:
    """As `encode_texts`. Texts are encoded shortest first, which is fastest."""
    order = sorted(range(len(tokenized)), key=lambda row: len(tokenized[row].ids))
    parts = []
    with runtime.evaluating(backbone):
        for start in range(0, len(order), runtime.batch_size):
            rows = order[start : start + runtime.batch_size]
            tokens = Ragged.from_list([tokenized[row].ids for row in rows]).to(runtime.device)
            parts.append(backbone.encode_text(tokens).float().cpu())
    encoded = torch.cat(parts)
    return encoded[torch.tensor(order).argsort()], sum(text.num_lost > 0 for text in tokenized)


def _encode_refs(
    backbone: DualEncoder, refs: Sequence[Any], keys: Sequence[str], runtime: Runtime
) -> tuple[Tensor, dict[int, int], dict[str, str]]:
    """(features [n, D] on the CPU, {index of the ref: its row}, {key: why unreadable})."""
    parts, rows, unreadable = [], {}, {}
    with runtime.evaluating(backbone):
        for batch in image_batches(refs, backbone.processor, runtime.batch_size):
            unreadable |= {keys[index]: reason for index, reason in batch.errors.items()}
            rows |= {index: len(rows) + place for place, index in enumerate(batch.indices)}
            if batch.indices:
                parts.append(encode_images(backbone, batch.images, runtime).cpu())
    return (torch.cat(parts) if parts else torch.empty(0, 0)), rows, unreadable
