"""How long an engine process may be silent, and how often it may die."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """How long is too long, and how often too often."""

    load_stall_s: float = 180.0
    """Without progress while loading: one step of it may be a large tensor from a slow stick."""
    step_stall_s: float = 120.0
    """Without a finished step while requests run, before the machine's steps are known (stall.py): n_ubatch prompt
    tokens of a 7B on a busy old CPU take a minute."""
    least_stall_s: float = 10.0
    """The same once they are known and quick."""
    longest_stall_s: float = 600.0
    tick_s: float = 0.5
    """How often the watch looks, while there is something to watch."""
    first_pause_s: float = 0.2
    longest_pause_s: float = 10.0
    max_restarts: int = 5
    """Within `window_s`; after that the engine has failed, until it has rested."""
    window_s: float = 600.0
    rest_s: float = 300.0
    """After too many losses, before one more try: nobody may be there who could start the server again."""
    proven_answers: int = 3
    """Answers that came to their end after a loss: the new child was worth its start, and the loss counts no more."""
    tokenize_s: float = 30.0
    embed_s: float = 60.0
    """For 512 tokens of a 7B on an old CPU this can be too short; callers do without an embedding then."""
    close_s: float = 1.5
    """For a polite end; then the child is killed."""


class RestartBudget:
    """Decides whether a lost child gets a successor, and after which pause."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._losses: deque[float] = deque()
        self._n_answers = 0

    def note_answer(self) -> None:
        """An answer came to its end."""
        self._n_answers += 1
        if self._n_answers >= self._limits.proven_answers:
            self._losses.clear()

    def pause_after_loss(self, now: float) -> float | None:
        """Seconds to wait before the next child; None when too many were lost within the window."""
        self._losses.append(now)
        self._n_answers = 0
        while now - self._losses[0] > self._limits.window_s:
            self._losses.popleft()
        n_losses = len(self._losses)
        if n_losses > self._limits.max_restarts:
            return None
        return min(self._limits.first_pause_s * 2.0 ** (n_losses - 1), self._limits.longest_pause_s)
