"""What balance at run time gains and costs: threads under contention, steps that are timed, falls and climbs.

    python benchmarks/bench_balance.py [--seconds S] [--rounds N] [--layers N] [--threads N]

A synthetic model of Qwen2-0.5B's widths in q8_0 decodes one answer in the real engine's process, once with all threads
fixed and once adapting, in turns, beside as many busy processes as said; each figure is the median of the rounds with
its smallest and largest. Times of a fall are from the kill of the engine's process to the next answer's first word.
Needs Linux or macOS; nothing else should run.
"""

from __future__ import annotations

import argparse
import os
import platform
import queue
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from synthetic import SHAPES, write_synthetic

from edgemed.engines.balance import Balance
from edgemed.engines.base import EngineConfig, Event, GenerationRequest, TextEvent
from edgemed.engines.ladder import LadderRules
from edgemed.engines.scheduler import Chunk
from edgemed.engines.step_times import Block, StepTimes
from edgemed.engines.supervisor import EngineProcess
from edgemed.engines.thread_tuner import ThreadTuner

CONTEXT = 4096
PROMPT = tuple(range(40, 60))
WARM_S = 3.0
"""Before the clock starts, an answer that adapts may find its threads."""


def main() -> None:
    """Print the three parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of decoding for each figure and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    chosen = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {chosen.threads} threads")
    print(
        f"timing a step costs {timing_cost_s() * 1e6:.2f} us; deciding after a block {deciding_cost_s() * 1e6:.2f} us"
    )
    with tempfile.TemporaryDirectory() as folder:
        shape = replace(SHAPES["qwen2-0.5b"], n_layers=chosen.layers, vocab_size=32_000)
        print("writing the model", file=sys.stderr)
        config = EngineConfig(
            model_path=write_synthetic(Path(folder) / "model.gguf", shape),
            context_length=CONTEXT,
            n_threads=chosen.threads,
        )
        for n_busy in sorted({0, 1, chosen.threads // 2, chosen.threads}):
            compare(config, n_busy, chosen.rounds, chosen.seconds)
        fall_and_climb(config)


def compare(config: EngineConfig, n_busy: int, rounds: int, seconds: float) -> None:
    """Print tokens/s with fixed and with adapting threads beside busy processes."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    threads = []
    for turn in range(rounds):
        for adapts in (False, True):
            print(f"{n_busy} busy, round {turn + 1}, adapting {adapts}", file=sys.stderr)
            with opened(config, Balance(adapts_threads=adapts, warm_up_s=0)) as engine, busy(n_busy):
                rates[adapts].append(decode_rate(engine, seconds))
                pace = engine.health().pace
                threads += [pace.n_threads] if adapts and pace else []
    for adapts, found in rates.items():
        how = f"adapting, ended with {threads} threads" if adapts else "fixed"
        print(f"{n_busy} busy processes, {how}: {statistics.median(found):.2f} tokens/s ({_spread(found)})")


def decode_rate(engine: EngineProcess, seconds: float) -> float:
    """Tokens per second of one answer, or of several one after another, after it has warmed up."""
    n_tokens, began, number = 0, 0.0, 0
    end = time.monotonic() + WARM_S + seconds
    while (now := time.monotonic()) < end:
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        number += 1
        engine.submit(GenerationRequest(str(number), PROMPT, CONTEXT // 2), events.put)
        while isinstance(event := events.get(timeout=60), TextEvent):
            now = time.monotonic()
            if not began and now >= end - seconds:
                began = now
            elif began:
                n_tokens += event.n_tokens
            if now >= end:
                engine.cancel(str(number))
                break
    return n_tokens / (now - began)


def fall_and_climb(config: EngineConfig, rounds: int = 5) -> None:
    """Print how long a killed engine keeps the next question waiting, and how long a climb takes."""
    less = config.model_copy(update={"context_length": CONTEXT // 4})
    falls, climbs = [], []
    for turn in range(rounds):
        print(f"fall {turn + 1}", file=sys.stderr)
        rules = LadderRules(quiet_s=0.5, idle_s=0.1)
        with opened(config, Balance(ladder=(less,), rules=rules, look_s=0.1, warm_up_s=20)) as engine:
            assert engine.pid is not None
            began = time.monotonic()
            os.kill(engine.pid, signal.SIGKILL)
            events: queue.SimpleQueue[Event] = queue.SimpleQueue()
            engine.submit(GenerationRequest("next", PROMPT, 4), events.put)
            events.get(timeout=120)
            falls.append(time.monotonic() - began)
            while engine.health().state != "restarting":
                time.sleep(0.01)
            began = time.monotonic()
            while engine.health().state != "ready":
                time.sleep(0.01)
            climbs.append(time.monotonic() - began)
    print(f"killed to the next answer's first word on rung 1: {statistics.median(falls):.2f} s ({_spread(falls)})")
    print(f"climb, full-length warm-up included: {statistics.median(climbs):.2f} s ({_spread(climbs)})")


def timing_cost_s(n_steps: int = 100_000) -> float:
    """CPU seconds that StepTimes adds to one step."""

    def step(chunks: Sequence[Chunk]) -> list[int]:  # noqa: ARG001
        return [7]

    times, chunks = StepTimes(step, 2, lambda _: None), [Chunk(0, (40,), 5, wants_token=True)]
    costs = []
    for run in (step, times.decode):
        began = time.process_time()
        for _ in range(n_steps):
            run(chunks)
        costs.append((time.process_time() - began) / n_steps)
    return costs[1] - costs[0]


def deciding_cost_s(n_blocks: int = 20_000) -> float:
    """CPU seconds of one decision of the tuner."""
    tuner = ThreadTuner(8)
    began = time.process_time()
    for number in range(n_blocks):
        tuner.next(Block(1, 8, 0.1, tuner.kept, 7.0), number * 0.8)
    return (time.process_time() - began) / n_blocks


@contextmanager
def opened(config: EngineConfig, balance: Balance) -> Iterator[EngineProcess]:
    """A started engine."""
    engine = EngineProcess(config, balance=balance)
    try:
        engine.start()
        yield engine
    finally:
        engine.close()


@contextmanager
def busy(n_processes: int) -> Iterator[None]:
    """Other programs that take a core each."""
    command = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(command) for _ in range(n_processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def _spread(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}, {len(values)} rounds"


if __name__ == "__main__":
    main()
