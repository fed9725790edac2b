"""What a prompt token costs in a step, by how many are read at once and how many streams decode beside them.

    python benchmarks/serve/chunks.py [--model MODEL] [--streams 0 1 4] [--chunks 4 7 8 16] [--repeats 7] [--threads 2]

The step engine alone, in this process, no server. Sizes take turns; a row tells the median seconds of a step and the
prompt tokens read per second beyond what the same streams take alone. Explains the step budget's rounding
(edgemed/engines/step_budget.py). Takes about two minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from made_up import half_b

from edgemed.core.settings import ENGINE_ENVIRONMENT, set_environment
from edgemed.engines.base import EngineConfig, Sampling
from edgemed.engines.scheduler import Chunk

_FILLED = 200
"""Tokens that each decoding stream holds, and the prompt when the chunk comes."""


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--streams", type=int, nargs="+", default=[0, 1, 4])
    parser.add_argument("--chunks", type=int, nargs="+", default=[4, 7, 8, 11, 12, 15, 16, 20, 24, 31, 32, 64, 120])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    set_environment(ENGINE_ENVIRONMENT)
    from edgemed.engines.llama_cpp import LlamaCpp

    with tempfile.TemporaryDirectory() as folder:
        model = asked.model or half_b(Path(folder))
        slots = max(asked.streams) + 1
        engine = LlamaCpp(EngineConfig(model_path=model, context_length=1024, n_slots=slots, n_threads=asked.threads))
        rows = [row for n in asked.streams for row in measure(engine, n, asked.chunks, asked.repeats)]
        print(json.dumps({"model": model.name, "threads": asked.threads, "rows": rows}, indent=2))
        engine.close()


def measure(engine: Any, n_streams: int, sizes: list[int], repeats: int) -> list[dict[str, Any]]:
    """One row for each size beside so many streams; 0 is the streams alone."""
    for slot in range(n_streams):
        engine.acquire(slot, Sampling())
        fill(engine, slot)
    seconds: dict[int, list[float]] = {size: [] for size in (0, *sizes) if size + n_streams}
    for _ in range(repeats):
        for size in seconds:
            engine.acquire(n_streams, Sampling())
            fill(engine, n_streams)
            chunks = [Chunk(slot, (300 + slot,), _FILLED, wants_token=True) for slot in range(n_streams)]
            if size:
                chunks.append(Chunk(n_streams, tuple(range(300, 300 + size)), _FILLED, wants_token=False))
            began = time.perf_counter()
            engine.decode(chunks)
            seconds[size].append(time.perf_counter() - began)
            engine.release(n_streams)
            for slot in range(n_streams):  # back to where it was: the same step again
                api = engine.native.api
                api.llama_memory_seq_rm(api.llama_get_memory(engine.native.context), slot, _FILLED, -1)
    for slot in range(n_streams):
        engine.release(slot)
    alone = statistics.median(seconds[0]) if n_streams else 0.0
    return [row(n_streams, size, statistics.median(times), alone) for size, times in seconds.items()]


def row(n_streams: int, size: int, step_s: float, alone: float) -> dict[str, Any]:
    """One line of the table."""
    found = {"streams": n_streams, "prompt_tokens": size, "step_ms": round(1000 * step_s, 2)}
    if size:
        found["read_per_s_beyond"] = round(size / max(step_s - alone, 1e-9), 1)
        found["read_per_s"] = round(size / step_s, 1)
    return found


def fill(engine: Any, slot: int) -> None:
    """Let a slot hold `_FILLED` tokens."""
    for start in range(0, _FILLED, 100):
        engine.decode([Chunk(slot, tuple(range(200 + start, 300 + start)), start)])


if __name__ == "__main__":
    main()
