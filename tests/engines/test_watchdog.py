"""Slow or not: decided by medians over seconds of decoding, never by a single step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemed.engines.step_times import Block
from edgemed.engines.watchdog import PaceRules, PaceWatch

RULES = PaceRules(slow_below=0.5, normal_above=0.65, window_s=15.0, learn_s=60.0, forget_s=300.0)


class Watched:
    """A watch, and an engine that decodes at whatever rate it is told."""

    def __init__(self, planned: float | None = None) -> None:
        self.watch = PaceWatch(planned, RULES)
        self.now = 0.0

    def decode(self, seconds: float, tokens_per_s: float, n_streams: int = 1, n_threads: int = 4) -> None:
        """`tokens_per_s` of all streams together, for so long, in blocks of a second."""
        for _ in range(round(seconds)):
            self.now += 1.0
            step_s = n_streams / tokens_per_s
            self.watch.note(Block(n_streams, max(1, round(1.0 / step_s)), step_s, n_threads), self.now)

    @property
    def slow(self) -> bool:
        pace = self.watch.pace(self.now)
        return pace is not None and pace.slow


def test_nothing_is_known_before_the_first_answer() -> None:
    assert PaceWatch(10.0).pace(0.0) is None


def test_below_half_of_the_plan_is_slow_after_the_window_and_not_before() -> None:
    engine = Watched(planned=10.0)
    engine.decode(14, 4.0)
    assert not engine.slow
    engine.decode(2, 4.0)
    assert engine.slow
    pace = engine.watch.pace(engine.now)
    assert pace is not None
    assert (pace.tokens_per_s, pace.expected_tokens_per_s) == (pytest.approx(4.0), 10.0)
    assert pace.ratio == pytest.approx(0.4)


def test_a_short_dip_is_not_slow() -> None:
    engine = Watched(planned=10.0)
    for _ in range(10):
        engine.decode(14, 10.0)
        engine.decode(6, 1.0)
        assert not engine.slow


def test_between_the_two_limits_what_was_said_stays() -> None:
    engine = Watched(planned=10.0)
    engine.decode(60, 6.0)
    assert not engine.slow
    engine.decode(30, 4.0)
    assert engine.slow
    engine.decode(60, 6.0)
    assert engine.slow
    engine.decode(30, 8.0)
    assert not engine.slow


def test_without_a_plan_the_first_minute_is_the_measure() -> None:
    engine = Watched()
    engine.decode(50, 10.0)
    engine.decode(30, 10.0)
    pace = engine.watch.pace(engine.now)
    assert pace is not None
    assert pace.expected_tokens_per_s == pytest.approx(10.0)
    engine.decode(30, 3.0)
    assert engine.slow
    engine.decode(30, 9.0)
    assert not engine.slow


def test_in_its_first_minute_an_engine_without_a_plan_is_never_slow() -> None:
    engine = Watched()
    engine.decode(10, 10.0)
    engine.decode(40, 1.0)
    assert not engine.slow


def test_more_streams_are_measured_together_against_one() -> None:
    engine = Watched(planned=10.0)
    engine.decode(60, 12.0, n_streams=4)  # each of them at 3, and the machine does all it can
    assert not engine.slow
    pace = engine.watch.pace(engine.now)
    assert pace is not None
    assert (pace.tokens_per_s, pace.tokens_per_s_per_stream) == (pytest.approx(12.0), pytest.approx(3.0))
    engine.decode(30, 4.0, n_streams=4)
    assert engine.slow


def test_after_a_long_silence_nothing_is_said_any_more() -> None:
    engine = Watched(planned=10.0)
    engine.decode(30, 2.0)
    assert engine.slow
    engine.now += RULES.forget_s + 1
    assert engine.watch.pace(engine.now) is None
    engine.decode(5, 2.0)
    assert not engine.slow  # it has to be seen again


def test_the_threads_are_those_of_the_last_block() -> None:
    engine = Watched(planned=10.0)
    engine.decode(5, 10.0, n_threads=3)
    pace = engine.watch.pace(engine.now)
    assert pace is not None
    assert pace.n_threads == 3


@given(st.lists(st.floats(6.5, 100.0), min_size=1, max_size=60))
def test_no_rate_above_the_limit_is_ever_slow(rates: list[float]) -> None:
    engine = Watched(planned=10.0)
    for rate in rates:
        engine.decode(3, rate)
        assert not engine.slow


@given(st.lists(st.tuples(st.floats(0.1, 100.0), st.integers(1, 20)), max_size=40))
def test_whether_it_is_slow_changes_at_most_once_a_half_window(parts: list[tuple[float, int]]) -> None:
    engine = Watched(planned=10.0)
    changes, was = 0, False
    for rate, seconds in parts:
        for _ in range(seconds):
            engine.decode(1, rate)
            changes += engine.slow != was
            was = engine.slow
    assert changes <= engine.now / (RULES.window_s / 2 - 1) + 1
