"""A text as it grows: cut where a stop word comes, and told in pieces that nothing behind them can take back."""

from __future__ import annotations


class Growing:
    """A text being written. ``text``: all of it so far, without a stop word; ``stopped``: a stop word came.

    stop: words of which the first to come is cut off with all behind it; empty ones are left aside.
    """

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        self.stop = tuple(word for word in stop if word)
        self.text, self.stopped = "", False
        self._told = 0

    def add(self, new: str) -> bool:
        """Append ``new``; True where a stop word is there, which is then cut off."""
        self.text += new
        if not new or not self.stop:
            return False
        reach = len(new) + max(len(word) for word in self.stop)
        begin = max(0, len(self.text) - reach)
        found = [place for word in self.stop if (place := self.text.find(word, begin)) >= 0]
        if found:
            self.text, self.stopped = self.text[: min(found)], True
        return self.stopped

    def piece(self, *, last: bool = False) -> str:
        """What is sure and was not told yet; what may become a stop word is held back, unless this is the ``last``."""
        sure = len(self.text)
        if not (last or self.stopped):
            sure -= max((_begun(self.text, word) for word in self.stop), default=0)
        new = self.text[self._told : sure]
        self._told = max(self._told, sure)
        return new


def _begun(text: str, word: str) -> int:
    """How many characters at the end of ``text`` may be the beginning of ``word``."""
    longest = min(len(word) - 1, len(text))
    return next((count for count in range(longest, 0, -1) if text.endswith(word[:count])), 0)
