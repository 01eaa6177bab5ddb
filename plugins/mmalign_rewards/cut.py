"""Reports how many texts were too long for a model: `CutTexts("reward model", 512, say).add(lost)`."""

from collections.abc import Callable, Sequence


class CutTexts:
    """Counts cut texts; reports the first one, and again whenever their number has doubled."""

    def __init__(self, context_length: int, say: Callable[[str], None]) -> None:
        self._limit, self._say = context_length, say
        self.texts = self.tokens = self.seen = 0
        self._next = 1

    def add(self, lost: Sequence[int]) -> None:
        """lost: tokens cut off each text, 0 for a text that fits."""
        self.seen += len(lost)
        self.texts += sum(count > 0 for count in lost)
        self.tokens += sum(lost)
        if self.texts >= self._next:
            self._next = 2 * self.texts
            self._say(
                f"{self.texts:,} of {self.seen:,} texts so far are over {self._limit:,} tokens; "
                f"{self.tokens:,} tokens were cut off"
            )
