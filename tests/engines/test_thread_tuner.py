"""Threads under contention, over a simulated machine: what is faster is kept, and trying costs little."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemed.engines.step_times import Block
from edgemed.engines.thread_tuner import ThreadTuner, TunerRules

N_STEPS = 8


@dataclass
class Machine:
    """Cores, some of them taken by other programs. A step ends with its slowest thread."""

    n_cores: int = 4
    taken: int = 0
    work_s: float = 0.4
    """Core seconds of one step."""
    free_cores_needed: bool = False
    """A step waits for something else, such as a GPU: threads change nothing and are mostly idle."""
    now: float = 0.0
    tuner: ThreadTuner = field(init=False)
    n_threads: int = field(init=False)
    steps: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tuner = ThreadTuner(self.n_cores)
        self.n_threads = self.n_cores

    def step_s(self, n_threads: int) -> float:
        if self.free_cores_needed:
            return 0.1
        shared = n_threads > self.n_cores - self.taken  # one thread then has less than half a core
        return self.work_s / n_threads * (2.5 if shared else 1.0)

    def cores(self, n_threads: int) -> float:
        if self.free_cores_needed:
            return 0.5
        return self.work_s / self.step_s(n_threads)

    def block(self, n_streams: int = 1, noise: float = 1.0) -> None:
        """One block of steps, and what follows from it."""
        step_s = self.step_s(self.n_threads) * noise
        self.now += N_STEPS * step_s
        self.steps[self.n_threads] = self.steps.get(self.n_threads, 0) + N_STEPS
        block = Block(n_streams, N_STEPS, step_s, self.n_threads, self.cores(self.n_threads))
        self.n_threads = self.tuner.next(block, self.now)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.block()


def test_on_a_calm_machine_nothing_is_tried() -> None:
    machine = Machine()
    machine.run(3600)
    assert set(machine.steps) == {4}


@pytest.mark.parametrize(("n_cores", "taken", "best"), [(2, 1, 1), (4, 1, 3), (8, 1, 7), (8, 3, 5)])
def test_taken_cores_are_left_to_others(n_cores: int, taken: int, best: int) -> None:
    machine = Machine(n_cores, taken=taken)
    machine.run(180)
    assert machine.tuner.kept == best


def test_threads_come_back_when_the_cores_do() -> None:
    machine = Machine(taken=2)
    machine.run(120)
    assert machine.tuner.kept == 2
    machine.taken = 0
    machine.run(1500)
    assert machine.tuner.kept == 4


def test_fewer_threads_that_are_not_faster_are_not_kept() -> None:
    machine = Machine(taken=1, n_cores=2)
    machine.step_s = lambda n_threads: {2: 0.3, 1: 0.4}[n_threads]  # type: ignore[method-assign]
    machine.run(3600)
    assert machine.tuner.kept == 2


def test_a_load_that_was_there_only_during_the_trial_decides_nothing() -> None:
    machine = Machine(n_cores=2, taken=1)
    machine.block()  # crowded: one thread is tried
    assert machine.n_threads == 1
    machine.block()  # it was faster
    machine.taken = 0
    machine.block()  # but two are as fast again
    assert (machine.n_threads, machine.tuner.kept) == (2, 2)


def test_more_streams_in_the_middle_of_a_trial_end_it() -> None:
    machine = Machine(n_cores=2, taken=1)
    machine.block()
    assert machine.n_threads == 1
    machine.block(n_streams=2)
    assert (machine.n_threads, machine.tuner.kept) == (2, 2)


def test_trials_that_fail_become_rare() -> None:
    machine = Machine(free_cores_needed=True)  # threads that wait for a GPU always look as if a core were missing
    machine.run(3600)
    tried = sum(n_steps for n_threads, n_steps in machine.steps.items() if n_threads != 4)
    assert machine.tuner.kept == 4
    assert tried <= 2 * N_STEPS * 12


def test_a_change_is_noticed_though_trials_have_become_rare() -> None:
    machine = Machine(n_cores=4, free_cores_needed=True)
    machine.run(3600)
    machine.free_cores_needed, machine.work_s, machine.taken = False, 0.8, 2
    machine.run(60)
    assert machine.tuner.kept == 2


def test_trials_take_at_most_a_tenth_of_the_time() -> None:
    machine = Machine(n_cores=16, work_s=16.0)
    machine.cores = lambda n_threads: n_threads / 2  # type: ignore[method-assign]
    machine.run(600)  # steps of a second, eight numbers of threads to try, none of them better
    tried = sum(n_steps for n_threads, n_steps in machine.steps.items() if n_threads != 16)
    assert 0 < tried <= 0.1 * sum(machine.steps.values()) + 8 * N_STEPS
    assert machine.tuner.kept == 16


def test_one_thread_is_never_taken_away() -> None:
    tuner = ThreadTuner(1)
    assert [tuner.next(Block(1, 8, 0.1 * turn, 1, 0.2), 20.0 * turn) for turn in range(1, 50)] == [1] * 49


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 8), st.lists(st.tuples(st.integers(0, 8), st.floats(1, 120)), max_size=12), st.data())
def test_threads_stay_within_the_plan_and_trials_within_their_share(
    n_cores: int, loads: list[tuple[int, float]], data: st.DataObject
) -> None:
    machine = Machine(n_cores)
    rules = TunerRules()
    changes, before = 0, machine.tuner.kept
    for taken, seconds in loads:
        machine.taken = min(taken, n_cores - 1)
        end = machine.now + seconds
        while machine.now < end:
            machine.block(data.draw(st.integers(1, 2)), data.draw(st.floats(0.8, 1.3)))
            assert 1 <= machine.n_threads <= n_cores
            assert machine.n_threads >= machine.tuner.kept // 2
            changes += machine.tuner.kept != before
            before = machine.tuner.kept
    assert changes <= machine.now / rules.first_rest_s + 1
