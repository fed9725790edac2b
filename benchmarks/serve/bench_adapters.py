"""Adapters: what requests of one or two of them cost beside a merged model, and what a switch costs.

    python benchmarks/serve/bench_adapters.py [--quick] [--repeats 3] [--json FILE]

A synthetic 0.5B (Qwen2's sizes) in the nf4-int8 mix and two random LoRA adapters of rank 16 on every projection; with
--quick a model of two small layers. Each arrangement is a fresh process with the engine and its scheduler, 4 slots:

    merged           no adapter: a merged model has the base's shapes and formats, and so its speed
    loaded           two adapters lie beside the model, nobody asks for them
    one adapter      every stream asks for the same
    two adapters     the streams ask for them in turn: steps alternate by the rule of engines/adapter_turns.py

of 1, 2 and 4 streams, in turn, the best of the repetitions. Tokens per second of wall time and of CPU time, and the
longest gap between two tokens of a stream. The switch is timed alone: setting another adapter, and how much longer the
step after it takes. Memory: resident bytes with adapters beside those without, against what the plan counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from synthetic import SHAPES, write_synthetic, write_synthetic_adapter

from edgemed.core.settings import ENGINE_ENVIRONMENT, set_environment

RANK = 16
SLOTS = 4
PROMPT = 32
ARRANGEMENTS: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    "merged": ((), (1, 2, 4)),
    "loaded": (("",), (1, 4)),
    "one adapter": (("one",), (1, 2, 4)),
    "two adapters": (("one", "two"), (2, 4)),
}
"""Adapters that streams ask for in turn (none: none is loaded), and the numbers of streams."""


def main() -> None:
    """Run everything, or one arrangement in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny model and short answers: to try the script")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(_measure(Path(asked.child[0]), json.loads(asked.child[1]))))
        return
    with tempfile.TemporaryDirectory(prefix="edgemed-adapters-") as folder:
        found = _all(Path(folder), asked)
    _show(found)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2) + "\n")


def _all(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    shape = SHAPES["tiny" if asked.quick else "qwen2-0.5b"]
    write_synthetic(folder / "base.gguf", shape, "nf4-int8")
    for seed, name in enumerate(("one", "two")):
        write_synthetic_adapter(folder / f"{name}.gguf", shape, rank=RANK, seed=seed)
    tokens = 24 if asked.quick else 96
    rounds: dict[str, list[dict[str, Any]]] = {}
    switch: list[dict[str, Any]] = []
    for _ in range(1 if asked.quick else asked.repeats):
        for name, (adapters, streams) in ARRANGEMENTS.items():
            order = {"adapters": adapters, "streams": streams, "tokens": tokens, "threads": asked.threads}
            rounds.setdefault(name, []).append(_child(folder, order))
        switch.append(_child(folder, {"switches": 20 if asked.quick else 100, "threads": asked.threads}))
    return {"model": "tiny" if asked.quick else "qwen2-0.5b", "rounds": rounds, "switch": switch}


def _child(folder: Path, order: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", str(folder), json.dumps(order)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _measure(folder: Path, order: dict[str, Any]) -> dict[str, Any]:
    """In the child: one arrangement, or switches."""
    set_environment(ENGINE_ENVIRONMENT)
    from edgemed.engines.base import AdapterFile, EngineConfig
    from edgemed.engines.llama_cpp import LlamaCpp
    from edgemed.models.gguf import check_gguf, spec_from_gguf
    from edgemed.plan.memory import adapter_needs

    loads = bool(order.get("adapters")) or "switches" in order
    files = tuple(AdapterFile(name=name, path=folder / f"{name}.gguf") for name in ("one", "two")) if loads else ()
    config = EngineConfig(
        model_path=folder / "base.gguf",
        context_length=512,
        n_slots=SLOTS,
        n_threads=order["threads"],
        adapters=files,
    )
    engine = LlamaCpp(config)
    planned = sum(need.n_bytes for need in adapter_needs(spec_from_gguf(check_gguf(config.model_path)), config))
    if "switches" in order:
        return _switches(engine, order["switches"])
    runs = {n: _streams(engine, order["adapters"] or ("",), n, order["tokens"]) for n in order["streams"]}
    import psutil

    memory = {"rss": psutil.Process().memory_info().rss, "planned": planned}
    compute = {place: sizes[2] for place, sizes in engine.info.memory.items()}
    return {"streams": runs, "memory": memory, "compute": compute}


def _streams(engine: Any, adapters: tuple[str, ...], n: int, tokens: int) -> dict[str, float]:
    from edgemed.engines.base import GenerationRequest, TextEvent
    from edgemed.engines.scheduler import Scheduler

    scheduler = Scheduler(engine, time.monotonic)
    for number in range(n):
        prompt = tuple((number * 37 + at * 11) % 250 for at in range(PROMPT))
        scheduler.submit(GenerationRequest(str(number), prompt, tokens, adapter=adapters[number % len(adapters)]))
    last: dict[str, float] = {}
    gaps: list[float] = []
    written = 0
    began, cpu = time.perf_counter(), time.process_time()
    while not scheduler.idle:
        scheduler.admit()
        for name, event in scheduler.step():
            if isinstance(event, TextEvent):
                now = time.perf_counter()
                if name in last:
                    gaps.append(now - last[name])
                last[name] = now
                written += event.n_tokens
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    return {
        "tokens_per_s": n * tokens / seconds,
        "tokens_per_cpu_s": n * tokens / cpu_s,
        "gap_p50_ms": 1000 * statistics.median(gaps) if gaps else 0.0,
        "gap_max_ms": 1000 * max(gaps, default=0.0),
    }


def _switches(engine: Any, n: int) -> dict[str, float]:
    """Milliseconds of the call, and of a step after it beside one without."""
    from edgemed.engines.base import Sampling
    from edgemed.engines.scheduler import Chunk

    engine.acquire(0, Sampling())
    calls, after, plain = [], [], []
    place = 0
    for number in range(n):
        began = time.perf_counter()
        engine.use_adapter(("one", "two")[number % 2])
        calls.append(time.perf_counter() - began)
        for times in (after, plain, plain):
            began = time.perf_counter()
            engine.decode([Chunk(0, (7,), place, wants_token=True)])
            times.append(time.perf_counter() - began)
            place += 1
    middle = {
        name: 1000 * statistics.median(times) for name, times in (("call", calls), ("after", after), ("plain", plain))
    }
    return {"call_ms": middle["call"], "step_after_ms": middle["after"], "step_ms": middle["plain"]}


def _show(found: dict[str, Any]) -> None:
    print(f"model {found['model']}, adapters of rank {RANK}, {SLOTS} slots; best of {len(found['switch'])}")
    print(f"{'':14}{'streams':>8}{'tokens/s':>10}{'per CPU s':>10}{'gap p50 ms':>12}{'gap max ms':>12}")
    for name, rounds in found["rounds"].items():
        for n in rounds[0]["streams"]:
            runs = [one["streams"][n] for one in rounds]
            best = max(runs, key=lambda run: run["tokens_per_cpu_s"])
            print(
                f"{name:14}{n:>8}{best['tokens_per_s']:>10.1f}{best['tokens_per_cpu_s']:>10.1f}"
                f"{best['gap_p50_ms']:>12.1f}{best['gap_max_ms']:>12.1f}"
            )
    best = min(found["switch"], key=lambda one: one["step_ms"])
    call, step = best["call_ms"], best["step_ms"]
    print(
        f"switch: call {call:.3f} ms; the step after it {best['step_after_ms'] - step:.2f} ms longer than {step:.2f} ms"
    )
    rss = {name: statistics.median(one["memory"]["rss"] for one in rounds) for name, rounds in found["rounds"].items()}
    planned = found["rounds"]["loaded"][0]["memory"]["planned"]
    grown = rss["two adapters"] - rss["merged"]
    print(f"memory: {grown / 2**20:.1f} MiB more resident with two adapters; the plan counts {planned / 2**20:.1f} MiB")
    compute = {name: rounds[0]["compute"] for name, rounds in found["rounds"].items()}
    print(f"compute buffers: {compute['merged']} without, {compute['loaded']} with adapters")


if __name__ == "__main__":
    main()
