"""From a stream of token bytes to text that may be shown: whole characters, and nothing after a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Iterable

_NEW_DECODER = codecs.getincrementaldecoder("utf-8")


class AnswerText:
    """The text of one answer as its tokens arrive.

    What `push` returns, joined, is the answer up to the first stop string, however the bytes were cut
    into tokens. Of several stop strings the one that is complete first ends the answer; of those complete
    at the same character, the longest. Bytes that are no UTF-8 become U+FFFD.
    """

    __slots__ = ("_decoder", "_held", "_n_cut", "_stops", "stopped")

    def __init__(self, stops: Iterable[str] = ()) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._decoder = _NEW_DECODER(errors="replace")
        self._held = ""
        self._n_cut = 0
        self.stopped = False

    @property
    def n_held_bytes(self) -> int:
        """Bytes that were pushed and are in no text returned so far; what is no UTF-8 counts as U+FFFD's three."""
        return self._n_cut + len(self._held.encode()) + len(self._decoder.getstate()[0])

    def push(self, piece: bytes) -> str:
        """Text that is now certain to belong to the answer; "" while a character or a stop string may be half here."""
        text = self._decoder.decode(piece)
        if not self._stops:
            return text
        text = self._held + text
        end = self._first_stop(text)
        if end is not None:
            self.stopped, self._held, self._n_cut = True, "", len(text[end:].encode())
            return text[:end]
        keep = self._opening_at_end(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back, when the answer ends without its stop string; half a character is left out."""
        held, self._held = self._held, ""
        return held

    def _first_stop(self, text: str) -> int | None:
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        return min(found)[1] if found else None

    def _opening_at_end(self, text: str) -> int:
        """Characters at the end of `text` that may be the beginning of a stop string."""
        return max(_overlap(text, stop) for stop in self._stops)


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` that begin `stop`, without all of it; prefixes are compared, never stored."""
    at = max(0, len(text) - len(stop) + 1)
    while (at := text.find(stop[0], at)) >= 0:
        if stop.startswith(text[at:]):
            return len(text) - at
        at += 1
    return 0
