"""What a reasoning model says to itself, kept apart from its answer.

Such a model writes "<think>", its reasoning, "</think>" and then the answer; some prompts open the thinking
themselves. It may begin at the start of an answer only: a "<think>" further on is the answer's own text.
The tags are looked for in the bytes, so it does not matter whether they are one token of the vocabulary or many.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from typing import Literal

OPEN, CLOSE = "<think>", "</think>"
CLOSING = f"\n{CLOSE}\n\n"
"""What ends a thinking from outside: the form in which the models were taught to end it."""

_OPEN, _CLOSE = OPEN.encode(), CLOSE.encode()
_TAIL = 16
"""Tokens at a prompt's end among which "<think>" is looked for."""
_DECODER = codecs.getincrementaldecoder("utf-8")


def is_reasoning(template: str, *, both_are_tokens: bool) -> bool:
    """True for a model that knows the tags: by its chat template, or as single tokens of its vocabulary."""
    return both_are_tokens or CLOSE in template or OPEN in template


def opens_thinking(prompt: Sequence[int], piece: Callable[[int], bytes | None]) -> bool:
    """True when a prompt ends in "<think>" and nothing but blanks; `piece` gives a token's bytes."""
    return b"".join(piece(token) or b"" for token in prompt[-_TAIL:]).rstrip().endswith(_OPEN)


class Thinking:
    """Parts one answer's bytes into reasoning and answer as its tokens arrive; the tags belong to neither."""

    __slots__ = ("_answer_begun", "_decoder", "_held", "_n_held", "_state", "n_inside", "n_tokens")

    def __init__(self, *, opened: bool) -> None:
        self._state: Literal["before", "inside", "after"] = "inside" if opened else "before"
        self._held = b""
        self._answer_begun = False
        self._decoder = _DECODER(errors="replace")
        self._n_held = 0
        self.n_inside = 0
        """Tokens since the thinking began, the one that ends it included."""
        self.n_tokens = 0
        """All that are no answer: those of the tags and of the blanks around them as well."""

    @property
    def inside(self) -> bool:
        """True between the tags."""
        return self._state == "inside"

    @property
    def undecided(self) -> bool:
        """True while what has come may be the answer's beginning or half a tag."""
        return self._state == "before"

    def push(self, piece: bytes) -> tuple[str, bytes]:
        """Take one token's bytes; the text that is now certain to be reasoning, and the bytes of the answer."""
        if self._state == "after":
            answer = self._answer(piece)
            self.n_tokens += not self._answer_begun
            return "", answer
        self._held += piece
        if self._state == "before":
            self._n_held += 1
            start = self._held.lstrip()
            if _OPEN.startswith(start):  # blanks alone, or half a tag
                if start != _OPEN:
                    return "", b""
            elif not start.startswith(_OPEN):
                self._state, self._answer_begun, held = "after", True, self._held
                return "", held
            self._state, self._held = "inside", start[len(_OPEN) :]
            self.n_tokens = self._n_held
        else:
            self.n_inside += 1
            self.n_tokens += 1
        return self._inside()

    def flush(self) -> tuple[str, bytes]:
        """What was held back, when the answer ends; half a character of the reasoning is left out."""
        held, self._held = self._held, b""
        if self._state == "inside":
            return self._decoder.decode(held), b""
        return "", held.lstrip() if self._state == "before" else b""

    def _inside(self) -> tuple[str, bytes]:
        thought, closed, rest = self._held.partition(_CLOSE)
        if closed:
            self._state, self._held = "after", b""
            return self._decoder.decode(thought, final=True), self._answer(rest)
        keep = next((n for n in range(len(_CLOSE) - 1, 0, -1) if thought.endswith(_CLOSE[:n])), 0)
        self._held = thought[len(thought) - keep :]
        return self._decoder.decode(thought[: len(thought) - keep]), b""

    def _answer(self, piece: bytes) -> bytes:
        """Without the blanks between the thinking and the answer."""
        if not self._answer_begun:
            piece = piece.lstrip()
            self._answer_begun = bool(piece)
        return piece
