"""How many prompt tokens a step may read beside streams that decode, from what steps took so far.

A stream that decodes waits for the whole step, so a long prompt read in full batches would stop it for a second and
more. A step beside others shall take `STRETCH` of what the same streams need alone; what a prompt token adds to a step
is measured, for it depends on machine, model, chunk and how far the prompt is read. While nobody decodes, the whole
batch is read. Medians of the last steps: one that another program delayed changes nothing.

What it cannot do: llama.cpp reads fewer than sixteen tokens at a time at half its speed. By the times of steps of a
0.5B on one thread, the reading beside three streams keeps about 60 % of its speed; beside a single one, whose own steps
are short, a bearable step holds three prompt tokens, and about a third is kept.
"""

from __future__ import annotations

import statistics
from collections import deque

STRETCH = 2.6
"""Gaps between tokens stay under three times the usual also when steps vary, and the reading keeps most of its speed:
1 - 1/2.6 of each step is its own."""
_MOST = 1.15
"""Rounding to whole rows may go so far beyond what is wanted."""
_FEWEST = 2
"""A prompt is read on beside any number of streams, and however slow the machine is."""
_ROWS, _MANY_ROWS = 4, 16
"""llama.cpp multiplies packed weights with four tokens at a time, and twelve more cost as much as sixteen more: a step
of 8 tokens took 80 ms where 16 took 109, 12 about as long, and 4 took 49 (benchmarks/serve/chunks.py)."""
_SHORT = 32
"""So few tokens are read at once: in pieces they would cost half as much again, and one step is soon over."""
_DECODING, _READING = 15, 9
"""Steps that a median is taken of."""


class StepBudget:
    """Told every step with `note`, asked before each with `tokens`. Costs microseconds, only while prompts are read."""

    def __init__(self, n_batch: int) -> None:
        self._n_batch = n_batch
        self._alone: dict[int, deque[float]] = {}
        """Seconds of steps that only decoded, by streams."""
        self._beside: deque[float] = deque(maxlen=_READING)
        """Seconds that each prompt token added to steps of streams that decoded."""
        self._read_alone: deque[float] = deque(maxlen=_READING)
        """Seconds for each prompt token of steps in which nobody decoded."""

    def tokens(self, n_decoding: int, n_reading: int = 1, n_unread: int | None = None) -> int:
        """Most prompt tokens of the next step, beside so many streams; 0 to see once what the streams take alone.

        Prompts of `n_reading` requests have `n_unread` tokens left, None for many.
        """
        most = self._n_batch - n_decoding
        if n_decoding == 0 or most <= 0:
            return max(0, most)
        if n_unread is not None and n_unread <= _SHORT:
            return min(most, n_unread)
        step_s = self._step_s(n_decoding)
        if step_s is None:
            return 0
        token_s = self._token_s()
        if token_s is None:
            return min(most, _ROWS)
        # Who waits for the first word counts as much as who waits for the next.
        more_s = (STRETCH * max(1.0, n_reading / n_decoding) - 1) * step_s
        if token_s <= 0.0 or more_s >= most * token_s:  # also where the clock sees no time
            return most
        return min(most, _whole_rows(n_decoding, more_s / token_s))

    def note(self, n_decoding: int, n_read: int, seconds: float) -> None:
        """A step of `n_decoding` streams and `n_read` prompt tokens took so long."""
        if n_read == 0:
            self._alone.setdefault(n_decoding, deque(maxlen=_DECODING)).append(seconds)
        elif n_decoding == 0:
            self._read_alone.append(seconds / n_read)
        elif (step_s := self._step_s(n_decoding)) is not None:
            self._beside.append((seconds - step_s) / n_read)

    def _step_s(self, n_decoding: int) -> float | None:
        """What a step of so many streams takes alone, or of nearly as many."""
        if not self._alone:
            return None
        nearest = min(self._alone, key=lambda n: abs(n - n_decoding))
        return statistics.median(self._alone[nearest])

    def _token_s(self) -> float | None:
        """What a prompt token adds; never believed to be less than half of what it takes in a full batch."""
        alone = statistics.median(self._read_alone) if self._read_alone else None
        if not self._beside:
            return alone
        return max(statistics.median(self._beside), (alone or 0.0) / 2)


def _whole_rows(n_decoding: int, wanted: float) -> int:
    """About so many prompt tokens, so that none of the engine's rows stays empty; at least two."""
    bearable = n_decoding + _MOST * wanted
    n_rows = round((n_decoding + wanted) / _ROWS) * _ROWS
    if n_rows > bearable:
        n_rows -= _ROWS
    if n_rows % _MANY_ROWS == _MANY_ROWS - _ROWS and n_rows + _ROWS <= bearable:
        n_rows += _ROWS
    n_tokens = n_rows - n_decoding
    return n_tokens if n_tokens >= _FEWEST else n_tokens + _ROWS
