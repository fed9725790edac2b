"""Token buckets and the delay after wrong tokens: what they let through, and that their memory is bounded."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from edgemed.serve.rate_limits import MOST_ADDRESSES, Buckets, FailedAttempts, Rate, TokenBucket

RATES = st.builds(Rate, per_s=st.floats(0.1, 100), burst=st.floats(1, 50))
PAUSES = st.lists(st.floats(0, 5), min_size=1, max_size=60)


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


@given(RATES, PAUSES)
def test_bucket_gives_no_more_than_its_burst_and_rate_in_any_stretch_of_time(rate: Rate, pauses: list[float]) -> None:
    bucket, now, given_at = TokenBucket(rate, rate.burst, 0.0), 0.0, []
    for pause in pauses:
        now += pause
        if bucket.take(now) == 0:
            given_at.append(now)
    for first in range(len(given_at)):
        for last in range(first, len(given_at)):
            limit = rate.burst + rate.per_s * (given_at[last] - given_at[first])
            assert last - first + 1 <= limit + 1e-6


@given(RATES, PAUSES)
def test_who_waits_as_long_as_told_is_let_in(rate: Rate, pauses: list[float]) -> None:
    bucket, now = TokenBucket(rate, rate.burst, 0.0), 0.0
    for pause in pauses:
        now += pause
        wait_s = bucket.take(now)
        if wait_s:
            assert bucket.take(now + wait_s * 0.9 - 1e-9) > 0
            now += wait_s + 1e-9
            assert bucket.take(now) == 0


@given(RATES, PAUSES)
def test_who_comes_no_faster_than_the_rate_never_waits(rate: Rate, pauses: list[float]) -> None:
    bucket, now = TokenBucket(rate, rate.burst, 0.0), 0.0
    for pause in pauses:
        now += pause + 1 / rate.per_s + 1e-9
        assert bucket.take(now) == 0


@given(RATES, PAUSES, st.floats(0.1, 20))
def test_reserved_turn_is_never_further_than_the_longest_wait(rate: Rate, pauses: list[float], longest: float) -> None:
    bucket, now = TokenBucket(rate, rate.burst, 0.0), 0.0
    for pause in pauses:
        now += pause
        assert 0 <= bucket.take_later(now, longest) <= longest + 1e-9


@given(RATES, st.lists(st.floats(-5, 5), max_size=40))
def test_clock_that_goes_back_makes_no_new_tokens(rate: Rate, steps: list[float]) -> None:
    bucket, now, latest, taken = TokenBucket(rate, rate.burst, 0.0), 0.0, 0.0, 0
    for step in steps:
        now += step
        latest = max(latest, now)
        taken += bucket.take(now) == 0
        assert taken <= rate.burst + rate.per_s * latest + 1e-6


def test_each_address_has_its_own_share_and_the_memory_is_bounded() -> None:
    clock = Clock()
    buckets = Buckets(Rate(per_s=1, burst=1), clock)
    assert buckets.take("10.0.0.1") == 0
    assert buckets.take("10.0.0.1") == 1
    assert buckets.take("10.0.0.2") == 0
    for number in range(2 * MOST_ADDRESSES):
        buckets.take(f"2001:db8::{number:x}")
    assert len(buckets) == MOST_ADDRESSES


@given(st.integers(0, 40))
def test_delay_grows_with_each_wrong_token_up_to_five_minutes(n_failures: int) -> None:
    clock = Clock()
    attempts = FailedAttempts(clock)
    for _ in range(n_failures):
        attempts.failed("10.0.0.1")
    expected = 0 if n_failures < 3 else min(300, 2 ** (n_failures - 3))
    assert attempts.wait_s("10.0.0.1") == expected
    assert attempts.wait_s("10.0.0.2") == 0
    clock.now_s += expected
    assert attempts.wait_s("10.0.0.1") == 0


def test_guesses_of_a_whole_night_from_one_address_are_a_few_hundred() -> None:
    clock, guesses = Clock(), 0
    attempts = FailedAttempts(clock)
    while clock.now_s < 12 * 3600:
        clock.now_s += max(0.01, attempts.wait_s("10.0.0.1"))
        attempts.failed("10.0.0.1")
        guesses += 1
    assert guesses < 200


def test_right_token_forgives_and_an_hour_forgets() -> None:
    clock = Clock()
    attempts = FailedAttempts(clock)
    for _ in range(10):
        attempts.failed("10.0.0.1")
    attempts.succeeded("10.0.0.1")
    assert attempts.wait_s("10.0.0.1") == 0
    for _ in range(10):
        attempts.failed("10.0.0.1")
    clock.now_s += 3601
    assert attempts.wait_s("10.0.0.1") == 0
    assert len(attempts) == 0


def test_memory_of_wrong_tokens_is_bounded() -> None:
    attempts = FailedAttempts(Clock())
    for number in range(2 * MOST_ADDRESSES):
        attempts.failed(f"2001:db8::{number:x}")
    assert len(attempts) == MOST_ADDRESSES
