"""Tokens per CPU second of the engine process against a bare llama_decode loop on the same model.

    python benchmarks/bench_engine.py [MODEL] [--tokens 96] [--rounds 5] [--threads 1]

Without MODEL a synthetic 0.5B of Qwen2 shape (q8_0) is written to a temporary folder and removed afterwards.

Two processes with the same model differ by ten percent and more, by where their weights happen to lie in memory.
So the bare loop runs inside the engine's process, on the same weights and context, in turns with the real thing:
llama_decode of one token and llama.cpp's greedy sampler, nothing else. The engine's side counts the CPU seconds
of parent and child from the first token to the last: scheduler, text, pipe, dispatch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

PROMPT = tuple(range(40, 72))
_BARE, _CPU = "bare loop", "cpu time"
_CHILD_BODY = "import sys; sys.path[:] = {path!r}; import bench_engine; bench_engine.main_of_child()"


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = asked.model or synthetic_model(Path(folder))
        print(json.dumps(compare(model, asked.threads, asked.tokens, asked.rounds), indent=2))


def synthetic_model(folder: Path) -> Path:
    """A 0.5B of Qwen2 shape in `folder`, some 500 MB."""
    from synthetic import SHAPES, write_synthetic

    return write_synthetic(folder / "qwen2-0.5b-q8_0.gguf", SHAPES["qwen2-0.5b"])


def compare(model: Path, threads: int, n_tokens: int, rounds: int) -> dict[str, Any]:
    """Tokens per CPU second of both sides in `rounds` turns, and their ratio."""
    from edgemed.engines.base import EngineConfig
    from edgemed.engines.supervisor import EngineProcess

    children_with_bare_loop()
    engine = EngineProcess(EngineConfig(model_path=model, context_length=1024, n_slots=1, n_threads=threads))
    engine.start()
    pairs = []
    try:
        for turn in range(rounds + 1):
            bare = bare_rate(engine, n_tokens)
            ours = engine_rate(engine, n_tokens)
            if turn:  # the first turn warms both up
                pairs.append((bare, ours))
    finally:
        engine.close()
    return {
        "model": model.name,
        "threads": threads,
        "tokens": n_tokens,
        "rounds": rounds,
        "bare_tokens_per_cpu_s": summary([bare for bare, _ in pairs]),
        "engine_tokens_per_cpu_s": summary([ours for _, ours in pairs]),
        "overhead_us_per_token": summary([1e6 / ours - 1e6 / bare for bare, ours in pairs]),
        "ratio": summary([ours / bare for bare, ours in pairs]),
    }


def engine_rate(engine: Any, n_tokens: int) -> float:
    """Tokens per CPU second of parent and child, after the first token."""
    from edgemed.engines.base import DoneEvent, ErrorEvent, Event, GenerationRequest, TextEvent

    events: SimpleQueue[Event] = SimpleQueue()
    engine.submit(GenerationRequest(str(time.monotonic()), PROMPT, n_tokens), events.put)
    began: float | None = None
    n_first = n = 0
    while True:
        event = events.get()
        if isinstance(event, TextEvent):
            n += event.n_tokens
            if began is None:
                began, n_first = cpu_seconds(engine), n
        elif isinstance(event, ErrorEvent):
            raise SystemExit(event.message)
        elif isinstance(event, DoneEvent):
            assert began is not None, "no text came"
            return (event.completion_tokens - n_first) / (cpu_seconds(engine) - began)


def cpu_seconds(engine: Any) -> float:
    """User and system time of all threads of this process and of the engine's."""
    (child_us,) = _ask_child(engine, _CPU)
    return time.process_time() + child_us / 1e6


def bare_rate(engine: Any, n_tokens: int) -> float:
    """Tokens per CPU second of the plain loop in the engine's process, after the first token."""
    n, cpu_us = _ask_child(engine, f"{_BARE} {n_tokens}")
    return n / (cpu_us / 1e6)


def _ask_child(engine: Any, words: str) -> list[int]:
    from edgemed.core.prompt import PromptPart

    answer: list[int] = engine.tokenize([PromptPart(words, special=True)])
    return answer


def children_with_bare_loop() -> None:
    """From now on, engine processes answer two more questions through `tokenize`; needs this folder importable."""
    from edgemed.engines import child

    child._BODY = _CHILD_BODY


def main_of_child() -> None:
    """The engine process's body: the real worker, with the bare loop and its CPU time for the asking."""
    from edgemed.engines import llama_cpp, worker

    real: Callable[[Any, Any], list[int]] = llama_cpp.LlamaCpp.tokenize

    def tokenize(self: Any, parts: Any) -> list[int]:
        words = parts[0].text
        if words == _CPU:
            return [round(time.process_time() * 1e6)]
        if words.startswith(_BARE):  # the batch is idle now, so nobody else uses the context
            return bare_loop(self, int(words.rpartition(" ")[2]))
        return real(self, parts)

    llama_cpp.LlamaCpp.tokenize = tokenize  # type: ignore[method-assign]
    worker.main()


def bare_loop(engine: Any, n_tokens: int) -> list[int]:
    """Decode after the same prompt in a plain loop; tokens after the first, and their CPU microseconds."""
    api, context, memory = engine._api, engine._context, engine._memory
    greedy = api.llama_sampler_init_greedy()
    prompt = (api.llama_token * len(PROMPT))(*PROMPT)
    assert api.llama_decode(context, api.llama_batch_get_one(prompt, len(PROMPT))) == 0
    one = (api.llama_token * 1)(api.llama_sampler_sample(greedy, context, -1))
    began = time.process_time()
    for _ in range(n_tokens - 1):
        assert api.llama_decode(context, api.llama_batch_get_one(one, 1)) == 0
        one[0] = api.llama_sampler_sample(greedy, context, -1)
    spent = time.process_time() - began
    api.llama_memory_clear(memory, False)
    api.llama_sampler_free(greedy)
    return [n_tokens - 1, round(spent * 1e6)]


def summary(values: list[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {
        "median": round(statistics.median(values), 4),
        "low": round(min(values), 4),
        "high": round(max(values), 4),
    }


if __name__ == "__main__":
    main()
