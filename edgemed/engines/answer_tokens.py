"""The drawn tokens of an answer, held back with its text, for callers who want log-probabilities.

A token leaves with the text that holds its last byte. What is thinking, a tag, a blank between the two, or part of a
stop string never leaves: joined, the pieces that left are the bytes of the answer's text.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from edgemed.engines.base import DrawnToken, TokenLogprob


class AnswerTokens:
    """What was drawn and has not left. Pieces of tokens that are not wholly the answer's are cut to what is."""

    __slots__ = ("_answer", "_fresh", "_n_answer", "_n_gone")

    def __init__(self) -> None:
        self._fresh: list[DrawnToken] = []
        self._answer: deque[DrawnToken] = deque()
        self._n_answer = 0
        self._n_gone = 0

    def push(self, token: DrawnToken) -> None:
        """A token as it is drawn: `keep` says later what of it belongs to the answer."""
        self._fresh.append(token)

    def keep(self, n_bytes: int, *, decided: bool = True) -> None:
        """The last `n_bytes` of what was pushed belong to the answer; the rest does not, once that is decided."""
        if not n_bytes:
            if decided:
                self._fresh.clear()
            return
        kept: list[DrawnToken] = []
        for token in reversed(self._fresh):
            if n_bytes <= 0:
                break
            piece = token.drawn.piece[-n_bytes:]
            n_bytes -= len(piece)
            kept.append(_cut(token, piece))
        self._fresh.clear()
        self._answer.extend(reversed(kept))
        self._n_answer += sum(len(token.drawn.piece) for token in kept)

    def take(self, n_held: int) -> tuple[DrawnToken, ...]:
        """Those that may leave when all but the answer's last `n_held` bytes have become text."""
        gone = []
        while self._answer and self._n_gone + len(self._answer[0].drawn.piece) <= self._n_answer - n_held:
            token = self._answer.popleft()
            self._n_gone += len(token.drawn.piece)
            gone.append(token)
        return tuple(gone)

    def finish(self, n_held: int) -> tuple[DrawnToken, ...]:
        """The last that may leave, at the answer's end: one that the end cuts through is cut."""
        gone = self.take(n_held)
        left = self._n_answer - n_held - self._n_gone
        if self._answer and left > 0:
            token = self._answer.popleft()
            gone = (*gone, _cut(token, token.drawn.piece[:left]))
        self._answer.clear()
        return gone


def _cut(token: DrawnToken, piece: bytes) -> DrawnToken:
    if len(piece) == len(token.drawn.piece):
        return token
    return replace(token, drawn=TokenLogprob(piece, token.drawn.logprob))
