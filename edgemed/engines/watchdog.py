"""Is the engine as fast as it should be? Decoding now, against the plan or the engine's own first minute.

Drivers that run out of GPU memory move parts of the model to main memory without a word; a box overheats, or another
program takes the cores. Nothing fails then, answers only take several times as long, and somebody should say so.

Only decoding counts, in seconds of decoding: silence between questions is no evidence. Several streams together are
compared with the figure of one, which no sound machine falls below by adding a stream.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from edgemed.engines.base import Pace
from edgemed.engines.step_times import Block


@dataclass(frozen=True, slots=True)
class PaceRules:
    """When slow is slow."""

    slow_below: float = 0.5
    """Share of the expected rate."""
    normal_above: float = 0.65
    """To be called normal again: between the two, what was said stays."""
    window_s: float = 15.0
    """Seconds of decoding whose median decides, and that must have been seen before it does."""
    learn_s: float = 60.0
    """Seconds of decoding whose median is the expected rate where the plan has none."""
    forget_s: float = 300.0
    """Silence after which the last measurements say nothing any more."""


@dataclass(frozen=True, slots=True)
class _Seen:
    seconds: float
    tokens_per_s: float
    per_stream: float
    ratio: float | None


class PaceWatch:
    """The rate of one configuration; `planned` is its tokens/s of one stream, None where nobody knows."""

    def __init__(self, planned: float | None = None, rules: PaceRules | None = None) -> None:
        self._planned = planned
        self._rules = rules or PaceRules()
        self._window: deque[_Seen] = deque()
        self._window_s = 0.0
        self._learned: dict[int, list[tuple[float, float]]] = {}
        """By number of streams: (rate, seconds) of the first minute of each."""
        self._n_streams = 0
        self._n_threads = 0
        self._slow = False
        self._seen_at = float("-inf")

    def note(self, block: Block, now: float) -> None:
        """Take in what was measured until `now`."""
        if now - self._seen_at > self._rules.forget_s:
            self.forget()
        self._seen_at = now
        self._n_streams, self._n_threads = block.n_streams, block.n_threads
        self._learn(block)
        expected = self._expected(block.n_streams)
        rate = block.tokens_per_s
        ratio = rate / expected if expected else None
        self._window.append(_Seen(block.seconds, rate, rate / block.n_streams, ratio))
        self._window_s += block.seconds
        while self._window_s - self._window[0].seconds >= self._rules.window_s:
            self._window_s -= self._window.popleft().seconds
        self._judge()

    def pace(self, now: float) -> Pace | None:
        """The figures now; None before the first block, and after a long silence."""
        if now - self._seen_at > self._rules.forget_s:
            self.forget()
        if not self._window:
            return None
        return Pace(
            tokens_per_s=_median((seen.tokens_per_s, seen.seconds) for seen in self._window),
            tokens_per_s_per_stream=_median((seen.per_stream, seen.seconds) for seen in self._window),
            n_threads=self._n_threads,
            expected_tokens_per_s=self._expected(self._n_streams),
            ratio=self._ratio(),
            slow=self._slow,
        )

    def _judge(self) -> None:
        ratio = self._ratio()
        if ratio is None or self._window_s < self._rules.window_s:
            return
        limit = self._rules.normal_above if self._slow else self._rules.slow_below
        self._slow = ratio < limit

    def _ratio(self) -> float | None:
        known = [(seen.ratio, seen.seconds) for seen in self._window if seen.ratio is not None]
        return _median(known) if known else None

    def _learn(self, block: Block) -> None:
        if self._planned is not None:
            return
        first = self._learned.setdefault(block.n_streams, [])
        if sum(seconds for _, seconds in first) < self._rules.learn_s:
            first.append((block.tokens_per_s, block.seconds))

    def _expected(self, n_streams: int) -> float | None:
        """The rate of all streams: what was learned with as many, or with the next fewer."""
        if self._planned is not None:
            return self._planned
        for count in sorted(self._learned, reverse=True):
            first = self._learned[count]
            if count <= n_streams and sum(seconds for _, seconds in first) >= self._rules.learn_s:
                return _median(first)
        return None

    def forget(self) -> None:
        """Drop what was measured lately; what is expected stays."""
        self._window.clear()
        self._window_s, self._slow = 0.0, False


def _median(weighted: Iterable[tuple[float, float]]) -> float:
    """The value below which half of the weight lies; a single outlier does not move it."""
    ordered = sorted(weighted)
    half = sum(weight for _, weight in ordered) / 2
    passed = 0.0
    for value, weight in ordered:
        passed += weight
        if passed >= half:
            return value
    return ordered[-1][0]
