"""A character n-gram model as an independent judge of text: bits per character, interpolated by Witten and Bell.

Source: Witten and Bell (1991), "The zero-frequency problem", IEEE Trans. Inf. Theory 37(4), method C;
        Bell, Cleary, Witten (1990), Text Compression, for the interpolation over orders.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

ORDER = 5  # characters of context, at most
MAX_CHARS = 300_000  # what it learns from at most: bounds memory to some 300 MB whatever the archive


class Judge:
    """Learns from texts once, then scores others; deterministic."""

    def __init__(self, texts: Iterable[str], *, order: int = ORDER, max_chars: int = MAX_CHARS) -> None:
        self.order = order
        self.chars = 0
        self.texts = 0
        self._counts: list[dict[str, dict[str, int]]] = [{} for _ in range(order + 1)]
        for text in texts:
            if self.chars >= max_chars:
                break
            self._learn(text[: max_chars - self.chars])
        self._alphabet = len(self._counts[0].get("", {})) + 1

    def _learn(self, text: str) -> None:
        self.texts += 1
        self.chars += len(text)
        padded = "\x02" * self.order + text + "\x03"
        for place in range(self.order, len(padded)):
            char = padded[place]
            for size in range(self.order + 1):
                after = self._counts[size].setdefault(padded[place - size : place], {})
                after[char] = after.get(char, 0) + 1

    def bits_per_char(self, text: str, *, order: int | None = None) -> float | None:
        """Bits per character, the end of the text counted as one; ``order`` 0 is the unigram baseline.

        None for an empty text, or where nothing was learned.
        """
        if not text or not self.chars:
            return None
        top = self.order if order is None else order
        padded = "\x02" * self.order + text + "\x03"
        total = sum(self._bits(padded, place, top) for place in range(self.order, len(padded)))
        return total / (len(text) + 1)

    def _bits(self, padded: str, place: int, top: int) -> float:
        char = padded[place]
        probability = 1.0 / self._alphabet
        for size in range(top + 1):
            after = self._counts[size].get(padded[place - size : place])
            if after is None:
                break
            total, kinds = sum(after.values()), len(after)
            probability = (after.get(char, 0) + kinds * probability) / (total + kinds)
        return -math.log2(probability)
