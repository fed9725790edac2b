"""Blocks of decoding steps: alike, long enough, and cheap to make."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from edgemed.engines.scheduler import Chunk
from edgemed.engines.step_times import Block, StepTimes

ONE = (40,)


class Machine:
    """An engine whose steps take what they are told to, on clocks of its own."""

    def __init__(self) -> None:
        self.now = self.cpu = 0.0
        self.step_s, self.cores = 0.1, 2.0
        self.blocks: list[Block] = []
        self.times = StepTimes(self._decode, 2, self.blocks.append, lambda: self.now, lambda: self.cpu)

    def _decode(self, chunks: Sequence[Chunk]) -> list[int]:
        self.now += self.step_s
        self.cpu += self.step_s * self.cores
        return [7] * len(chunks)

    def decode(self, n_steps: int, n_streams: int = 1) -> None:
        for _ in range(n_steps):
            assert self.times.decode([Chunk(slot, ONE, 5, True) for slot in range(n_streams)]) == [7] * n_streams


def test_a_block_holds_eight_steps_and_a_third_of_a_second() -> None:
    machine = Machine()
    machine.decode(7)
    assert machine.blocks == []
    machine.decode(1)
    (block,) = machine.blocks
    assert (block.n_streams, block.n_steps, block.n_threads) == (1, 8, 2)
    assert block.step_s == pytest.approx(0.1)
    assert block.cores == pytest.approx(2.0)
    assert block.seconds == pytest.approx(0.8)


def test_quick_steps_make_a_longer_block_and_slow_ones_a_shorter() -> None:
    quick, slow = Machine(), Machine()
    quick.step_s, slow.step_s = 0.001, 1.5
    quick.decode(301)
    slow.decode(3)
    assert [block.n_steps for block in quick.blocks] in ([300], [301])
    assert [block.n_steps for block in slow.blocks] == [3]


def test_one_long_step_does_not_move_the_figure() -> None:
    machine = Machine()
    machine.decode(4)
    machine.step_s = 5.0
    machine.decode(1)
    assert machine.blocks[0].step_s == pytest.approx(0.1)


def test_steps_that_read_a_prompt_are_not_counted() -> None:
    machine = Machine()
    machine.decode(4)
    machine.times.decode([Chunk(0, ONE, 5, True), Chunk(1, (1, 2, 3), 0)])
    machine.decode(4)
    assert [block.n_steps for block in machine.blocks] == [8]


def test_another_number_of_streams_or_threads_begins_anew() -> None:
    machine = Machine()
    machine.decode(7)
    machine.decode(7, n_streams=2)
    machine.times.set_threads(1)
    machine.decode(7, n_streams=2)
    assert machine.blocks == []
    machine.decode(1, n_streams=2)
    assert [(block.n_streams, block.n_threads) for block in machine.blocks] == [(2, 1)]


def test_a_step_costs_less_than_a_twentieth_of_a_millisecond() -> None:
    times = StepTimes(lambda chunks: [7], 2, lambda block: None)
    chunks = [Chunk(0, ONE, 5, True)]
    rounds = []
    for _ in range(5):
        began = time.process_time()
        for _ in range(2000):
            times.decode(chunks)
        rounds.append((time.process_time() - began) / 2000)
    assert min(rounds) < 50e-6
