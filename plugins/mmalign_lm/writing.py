"""How prompts of a family may be answered together, tried when the model is loaded.

    writing = try_writing(module, rows, vocabulary, tolerance=1e-4)
    way = writing.up_to(tokens)            # for prompts and answers of so many tokens

An answer must depend neither on the prompts beside it nor on what is cached between tokens. So the logits over a few
given tokens are compared with transformers' plain forward of each row alone. The ways, the fastest first: prompts of
different lengths, padded on the left, or only those of equal length (recurrent families, whose state absorbs the
padding); each with keys and values in memory with spare room, in the cache that transformers would make, or without
cache, reading all again for every token. The last way without padding is the plain forward itself.

Cost at loading: about 60 tokens for each way tried, and twice the window where there is one; most families pass with
the first.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from mmalign_lm.generation import Reading, Way
from mmalign_lm.rows import FAILURES, maybe_sharpened
from mmalign_lm.trunk import Rows, some_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_WAYS = (Way(True, "roomy"), Way(True, "own"), Way(False, "roomy"), Way(False, "own"), Way(True, "none"))
_STEPS = 3
_LOOSER = 10  # factor on the tolerance of `try_rows`, which compares calls of one kind


@dataclass(frozen=True)
class Writing:
    """way: the fastest way that is right. rows: the family's rows, as tried."""

    way: Way
    rows: Rows

    def up_to(self, tokens: int) -> Way:
        """The way for prompts and answers of at most so many tokens."""
        way = self.way
        if tokens > self.rows.pads_up_to:
            way = replace(way, padded=False, cache="own" if way.cache == "roomy" else way.cache)
        if 0 < self.rows.switch < tokens:
            way = replace(way, padded=False, switch=self.rows.switch)
        return way

    def describe(self) -> str:
        """For the report that people read."""
        together = "prompts of any length together" if self.way.padded else "prompts of equal length together"
        return together + (", reading all again for every token" if self.way.cache == "none" else "")


@torch.no_grad()
def try_writing(
    module: "PreTrainedModel", rows: Rows, vocabulary: int, *, tolerance: float, sharpen: bool = False
) -> Writing:
    """tolerance: relative, of hidden states. sharpen: see `mmalign_lm.rows.try_rows`."""
    with maybe_sharpened(module, sharpen):
        trials = [_Trial(module, vocabulary, rows.window, 2 * number) for number in range(rows.rounds)]
        for way in _WAYS:
            if way.padded and not rows.pads:
                continue
            try:
                if all(trial.agrees(way, _LOOSER * tolerance) for trial in trials):
                    return Writing(way, rows)
            except FAILURES:
                continue  # the family refuses such a cache
    return Writing(Way(False, "none"), rows)


class _Trial:
    """A short and a long text: the logits behind their prompts, token by token, compared with each text alone."""

    def __init__(self, module: "PreTrainedModel", vocabulary: int, window: int, seed: int) -> None:
        device = next(module.parameters()).device
        lengths = (3 + _STEPS, window + 7 + _STEPS)
        self._module = module
        self._texts = [some_ids(vocabulary, length, 7 + seed + n).to(device) for n, length in enumerate(lengths)]
        logits = [module(input_ids=text[None]).logits[0, -_STEPS - 1 :] for text in self._texts]
        self._expected = [rows.float().log_softmax(-1) for rows in logits]

    def agrees(self, way: Way, limit: float) -> bool:
        """Each text is in two lines, and the first line leaves after a token, so that rows are copied and removed as in
        use. With equal lengths no padding can be wrong, and the long text is enough."""
        texts, expected = (both if way.padded else both[1:] for both in (self._texts, self._expected))
        reading = Reading(self._module, [text[:-_STEPS] for text in texts], _STEPS, way)
        lines = [*range(len(texts)), *range(len(texts))]
        logits: Any = reading.first(lines)
        for step in range(_STEPS + 1):
            wanted = torch.stack([expected[line][step] for line in lines])
            if not torch.allclose(logits.float().log_softmax(-1), wanted, rtol=limit, atol=limit):
                return False
            if step == _STEPS:
                break
            if step == 1:
                lines = lines[1:]
                reading.select(torch.arange(1, len(lines) + 1, device=logits.device))
            logits = reading.next(torch.stack([texts[line][step - _STEPS] for line in lines]))
        return True
