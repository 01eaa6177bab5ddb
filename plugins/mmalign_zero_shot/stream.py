"""Decodes images in threads ahead of the model, in order; bad images are marked instead of raising.

    for batch in image_batches(refs, processor, batch_size=32):
        features = backbone.encode_image(batch.images)          # [n, 3, H, W]
        batch.indices, batch.errors                             # indices into `refs`; {index: reason} of those left out

Pillow and torch release the interpreter's lock while they decode and resize, so threads are enough.
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from mmalign.contract.backbone import Processor
from mmalign.contract.examples import ImageRef
from mmalign.data.images import describe, open_image
from mmalign.errors import BadSample

NUM_THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class ImageBatch:
    """images: [n, 3, H, W] of the readable refs at `indices`; n may be 0. errors: index -> why it cannot be used."""

    images: torch.Tensor
    indices: list[int]
    errors: dict[int, str]


def image_batches(
    refs: Sequence[ImageRef], processor: Processor, batch_size: int, num_threads: int = NUM_THREADS
) -> Iterator[ImageBatch]:
    """Batches of `batch_size` refs in order; an unreadable image makes its batch smaller and is in `errors`."""

    def load(ref: ImageRef) -> torch.Tensor | str:
        try:
            return processor.image(open_image(ref))
        except BadSample as error:
            return error.message.removeprefix(f"{describe(ref)}: ")

    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="decode")
    waiting: deque[Future[torch.Tensor | str]] = deque()
    ahead = 2 * batch_size + num_threads  # one batch in the model, one ready
    try:
        submitted = 0
        for start in range(0, len(refs), batch_size):
            stop = min(start + batch_size, len(refs))
            while submitted < min(len(refs), start + ahead):
                waiting.append(pool.submit(load, refs[submitted]))
                submitted += 1
            yield _collect(start, [waiting.popleft().result() for _ in range(start, stop)])
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _collect(start: int, loaded: list[torch.Tensor | str]) -> ImageBatch:
    images = {start + offset: image for offset, image in enumerate(loaded) if isinstance(image, torch.Tensor)}
    errors = {start + offset: reason for offset, reason in enumerate(loaded) if isinstance(reason, str)}
    stacked = torch.stack(list(images.values())) if images else torch.empty(0)
    return ImageBatch(stacked, list(images), errors)
