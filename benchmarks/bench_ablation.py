"""Mean response time of a mixed workload: with everything, without the answer cache, without limits per class.

    python benchmarks/bench_ablation.py [--questions 300] [--rounds 3] [--long-questions 10] [--long-rounds 3]

The mix: 10 % repeats of an earlier question word for word, 10 % earlier questions in another wording, 80 % new ones,
one in twenty of those an emergency. Questions, wordings and order come from the demonstration's facts by the seed; the
model is the demonstration model, over HTTP, one question after the other. Its answers end by themselves after some 40
tokens, so the limits per class cannot matter there. A second part asks a model of random weights, whose answers never
end before their limit: an upper bound of what limits can save. Each arm begins with an empty cache; arms take turns.
"cpu_mean_ms" is the CPU time of client, server and engine for one question: on a machine that others use, it tells
more than the time that passed.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import psutil
from synthetic import SHAPES, write_synthetic

from edgemed.demo import demo_model_path
from edgemed.demo.questions import dose_examination, statement_examination
from edgemed.demo.supported import checked_facts
from edgemed.demo.table import fact_table
from edgemed.engines.base import EngineConfig
from edgemed.engines.registry import open_engine
from edgemed.serve.app import create_app
from edgemed.serve.care import WarmUp
from edgemed.serve.options import ServeOptions
from edgemed.serve.response_cache import CacheOptions, ResponseCache
from edgemed.serve.server import Server, listen, url_of

ARMS = ("everything", "without the cache", "without limits per class")
EMERGENCIES = (
    "A child of 3 years is convulsing now, what do I do?",
    "The baby is blue and not breathing, help",
    "Woman bleeding heavily after delivery, soaked three cloths",
    "He was bitten by a snake an hour ago and his leg is swelling",
    "Man with crushing chest pain, sweating and pale",
    "Girl swallowed kerosene and is drowsy",
    "Patient collapsed, unresponsive, no pulse",
    "Newborn not feeding and very cold",
)


@dataclass(frozen=True)
class Asked:
    """One question of the workload, and the fact it is about ("" for none)."""

    text: str
    fact_id: str
    kind: str


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--long-questions", type=int, default=10, help="of the second part; 0 leaves it out")
    parser.add_argument("--long-rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    questions = workload(asked.questions, asked.seed)
    WarmUp(checked_facts).wait(every_language=True)  # as a server does before its first question
    found: dict[str, Any] = {"mix": Counter(question.kind for question in questions)}
    found["demonstration model"] = compare(demo_model_path(), questions, asked.rounds, asked.threads)
    if asked.long_questions:
        with tempfile.TemporaryDirectory() as folder:
            shape = replace(SHAPES["qwen2-0.5b"], n_layers=4, vocab_size=32768)
            model = write_synthetic(Path(folder) / "random.gguf", shape)
            first = questions[: asked.long_questions]
            found["random weights, no answer ends early"] = compare(model, first, asked.long_rounds, asked.threads)
    print(json.dumps(found, indent=2))


def workload(n: int, seed: int) -> list[Asked]:
    """The questions in order; a repeat or another wording always follows its original."""
    rng = random.Random(seed)
    table = fact_table()
    by_fact: dict[str, list[str]] = {}
    for example in (*dose_examination(table, seed), *statement_examination(table, seed)):
        by_fact.setdefault(example.fact_id, []).append(example.question)
    fresh = [(fact, wordings) for fact, wordings in by_fact.items() if len(wordings) > 1]
    rng.shuffle(fresh)
    earlier: list[tuple[str, list[str]]] = []
    questions: list[Asked] = []
    while len(questions) < n:
        draw = rng.random()
        if draw < 0.1 and earlier:
            fact, wordings = rng.choice(earlier)
            questions.append(Asked(wordings[0], fact, "repeat"))
        elif draw < 0.2 and earlier:
            fact, wordings = rng.choice(earlier)
            questions.append(Asked(rng.choice(wordings[1:]), fact, "paraphrase"))
        elif draw < 0.24:
            questions.append(Asked(rng.choice(EMERGENCIES), "", "emergency"))
        else:
            fact, wordings = fresh.pop()
            rng.shuffle(wordings)
            earlier.append((fact, wordings))
            questions.append(Asked(wordings[0], fact, "new"))
    return questions


def compare(model: Path, questions: list[Asked], rounds: int, threads: int) -> dict[str, Any]:
    """All arms in turns over one engine."""
    config = EngineConfig(model_path=model, context_length=2048, n_slots=1, n_threads=threads, offline=True)
    engine = open_engine(config)
    times: dict[str, list[list[float]]] = {arm: [] for arm in ARMS}
    cpu: dict[str, list[float]] = {arm: [] for arm in ARMS}
    answers: dict[str, dict[str, list[float]]] = {arm: {} for arm in ARMS}
    try:
        for turn in range(rounds):
            for arm in ARMS[turn % 3 :] + ARMS[: turn % 3]:
                with serving(engine, arm) as http:
                    before = cpu_s()
                    measured = [ask(http, question) for question in questions]
                    cpu[arm].append((cpu_s() - before) / len(questions))
                times[arm].append([seconds for seconds, _ in measured])
                mean = statistics.mean(times[arm][-1])
                print(f"{model.name}, round {turn + 1}: {arm}, mean {1000 * mean:.0f} ms", file=sys.stderr, flush=True)
                for seconds, state in measured:
                    answers[arm].setdefault(state, []).append(seconds)
    finally:
        engine.close()
    return {arm: summary(times[arm], answers[arm], rounds) | {"cpu_mean_ms": middle(cpu[arm])} for arm in ARMS}


def cpu_s() -> float:
    """CPU seconds so far of this process, which is client and server, and of the engine's."""
    this = psutil.Process()
    return float(sum(sum(process.cpu_times()[:2]) for process in (this, *this.children(recursive=True))))


def ask(http: httpx.Client, question: Asked) -> tuple[float, str]:
    """Seconds to the whole answer, and where it came from; a saved answer about another fact ends the benchmark."""
    began = time.perf_counter()
    response = http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": question.text}]})
    seconds = time.perf_counter() - began
    response.raise_for_status()
    cached = response.json()["medical"]["cached"] is not None
    return seconds, f"{question.kind}, {'saved' if cached else 'asked'}"


@contextmanager
def serving(engine: Any, arm: str) -> Iterator[httpx.Client]:
    """A server of one arm, with an empty cache."""
    cache = ResponseCache(CacheOptions(memory_entries=0) if arm == ARMS[1] else CacheOptions())
    options = ServeOptions(model_name="bench", paced=arm != ARMS[2])
    app = create_app(engine, options, cache=cache, facts=checked_facts)
    sock = listen("127.0.0.1", 0)
    url, ready = url_of(sock), threading.Event()
    server = Server(app, _Kept(engine), sock, ready.set)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        ready.wait(10)
        with httpx.Client(base_url=url, timeout=600, trust_env=False) as http:
            yield http
    finally:
        server.stop()
        thread.join(20)


class _Kept:
    """The engine, which the next arm still needs: a server that ends closes its engine."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def close(self) -> None:
        """Nothing."""


def summary(rounds: list[list[float]], answers: dict[str, list[float]], n: int) -> dict[str, Any]:
    """Milliseconds: the mean of each round, median and 95th percentile over all."""
    every = sorted(1000 * seconds for one in rounds for seconds in one)
    return {
        "mean_ms": middle([statistics.mean(one) for one in rounds]),
        "median_ms": round(statistics.median(every), 1),
        "p95_ms": round(every[int(0.95 * len(every))], 1),
        "answers_per_round": {state: len(times) / n for state, times in sorted(answers.items())},
        "median_ms_by_kind": {state: round(1000 * statistics.median(times), 1) for state, times in answers.items()},
    }


def middle(seconds: list[float]) -> dict[str, float]:
    """Median, lowest and highest, in milliseconds."""
    found = {"median": statistics.median(seconds), "lowest": min(seconds), "highest": max(seconds)}
    return {name: round(1000 * value, 1) for name, value in found.items()}


if __name__ == "__main__":
    main()
