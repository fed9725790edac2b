"""Throughput and latency at 1, 2, 4 and 8 streams: edgemed's server against llama.cpp's own llama-server.

    python benchmarks/serve/streams.py [--model MODEL] [--streams 1 2 4 8] [--tokens 96] [--rounds 5] [--threads 2]

Without --model: a synthetic 0.5B of Qwen2 shape in the nf4-int8 mix, made in a temporary folder; "demo" is the
demonstration model, whose answers end by themselves: use --tokens 12 with it. Both servers have the same model,
threads, slots (as many as the most streams) and tokens of context, and get the same prompts, all different: edgemed's
own template around a question, given to llama-server as messages. Answers have the same number of tokens, greedy
(`ignore_eos` there; a benchmark that ends early here stops). Rounds are interleaved (edgemed, llama-server,
llama-server, edgemed); everything else is each server's default, prompt caches included. With more than one thread
llama-server's threads spin while they wait, which costs CPU time: measure --passive-peer as well. Needs llama-server:
python benchmarks/peers/build.py.

    tokens_per_cpu_s    tokens of the answers for each CPU second of server and engine process, from the questions to
                        the last words: prompts, medical layer, HTTP and all
    writing_per_cpu_s   the same between the last stream's first word and the first stream's last one
    ttft_ms, gap_ms     time to the first text, and between texts, of all answers of all rounds
    ratio               edgemed by llama-server, of each round: median, lowest and highest

The second part asks questions of all categories one after the other (--prefix-questions), for the time to the first
text with prompt prefixes shared and without: pinned templates against none here, `cache_prompt` on (its default)
and off there. Takes about 15 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from clients import Timed, ask, share, together
from made_up import half_b
from questions import edgemed_body, llama_body, questions
from servers import Served, Setting, edgemed, llama_server

from edgemed.demo import demo_model_path

_SETTLE_S = 0.1
"""After the last word a server still writes its journal."""


@dataclass
class Block:
    """What one server did in one turn."""

    tokens_per_cpu_s: float
    writing_per_cpu_s: float
    tokens_per_s: float
    answers: list[Timed] = field(default_factory=list)


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help='a GGUF file, or "demo"')
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--tokens", type=int, default=96, help="of each answer")
    parser.add_argument("--each", type=int, default=2, help="questions of each stream in a turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--passive-peer", action="store_true", help="llama-server with OMP_WAIT_POLICY=passive")
    parser.add_argument("--prefix-questions", type=int, default=24, help="of the second part; 0 leaves it out")
    parser.add_argument("--prefix-rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = (
            demo_model_path() if asked.model == "demo" else Path(asked.model) if asked.model else half_b(Path(folder))
        )
        setting = Setting(str(model), asked.threads, max(asked.streams), peer_passive=asked.passive_peer)
        found: dict[str, Any] = {"model": model.name, "threads": asked.threads, "slots": setting.slots}
        found |= {"tokens": asked.tokens, "each": asked.each, "rounds": asked.rounds}
        texts = questions()
        if asked.rounds:
            with edgemed(setting) as ours, llama_server(setting) as theirs:
                for n_streams in asked.streams:
                    found[f"{n_streams} streams"] = compare(ours, theirs, texts, n_streams, asked)
        if asked.prefix_questions:
            found["first text"] = prefixes(setting, texts, asked.prefix_questions, asked.prefix_rounds)
    print(json.dumps(found, indent=2))


def compare(ours: Served, theirs: Served, texts: Iterator[str], n_streams: int, asked: argparse.Namespace) -> Any:
    """Both servers in turns at so many streams."""
    blocks: dict[str, list[Block]] = {ours.name: [], theirs.name: []}
    ratios: list[tuple[float, float, float]] = []
    for turn in range(asked.rounds + 1):
        mine, yours = [], []
        for server in (ours, theirs, theirs, ours):
            wording = list(islice(texts, n_streams * asked.each))
            block = one_turn(server, wording, n_streams, asked.tokens)
            (mine if server is ours else yours).append(block)
        if turn == 0:  # the first turn warms both up
            continue
        blocks[ours.name] += mine
        blocks[theirs.name] += yours
        ratios.append(tuple(_mean(mine, name) / _mean(yours, name) for name in _FIGURES))  # type: ignore[arg-type]
        shown = ", ".join(f"{name} {value:.3f}" for name, value in zip(_FIGURES, ratios[-1], strict=True))
        print(f"{n_streams} streams, round {turn}: {shown}", file=sys.stderr, flush=True)
    found: dict[str, Any] = {name: figures(turns) for name, turns in blocks.items()}
    columns = list(zip(*ratios, strict=True))
    found["ratio"] = {name: summary(list(column)) for name, column in zip(_FIGURES, columns, strict=True)}
    return found


_FIGURES = ("tokens_per_cpu_s", "writing_per_cpu_s", "tokens_per_s")


def _mean(blocks: list[Block], name: str) -> float:
    return statistics.mean(getattr(block, name) for block in blocks)


def body_for(server: Served, question: str, n_tokens: int) -> dict[str, Any]:
    """The question as this server wants it."""
    return edgemed_body(question, n_tokens) if server.name == "edgemed" else llama_body(question, n_tokens)


def one_turn(server: Served, wording: list[str], n_streams: int, n_tokens: int) -> Block:
    """So many clients ask their share of the questions at the same time."""
    bodies = [body_for(server, text, n_tokens) for text in wording]
    each = len(bodies) // n_streams
    watch = WritingWatch(server.cpu_s, n_streams)
    before, began = server.cpu_s(), time.monotonic()
    first = together(server.port, [bodies[at * each : at * each + 1] for at in range(n_streams)], watch.on_text)
    answers = first + together(server.port, [bodies[at * each + 1 : (at + 1) * each] for at in range(n_streams)])
    seconds = time.monotonic() - began
    time.sleep(_SETTLE_S)
    spent = server.cpu_s() - before
    short = [answer for answer in answers if answer.answer_tokens != n_tokens]
    if short:
        raise SystemExit(f"{server.name}: an answer ended after {short[0].answer_tokens} tokens: use fewer --tokens")
    n = len(answers) * n_tokens
    return Block(n / spent, watch.rate(first), n / seconds, answers)


class WritingWatch:
    """CPU time while every stream writes: after the last one's first text, before the first one's end."""

    def __init__(self, cpu_s: Callable[[], float], n_streams: int) -> None:
        self._cpu_s = cpu_s
        self._n_streams = n_streams
        self._lock = threading.Lock()
        self._begun: set[int] = set()
        self._samples: list[tuple[float, float]] = []

    def on_text(self) -> None:
        """A text came, in its client's thread."""
        with self._lock:
            self._begun.add(threading.get_ident())
            now = time.monotonic()
            if len(self._begun) == self._n_streams and (not self._samples or now - self._samples[-1][0] > 0.05):
                self._samples.append((now, self._cpu_s()))

    def rate(self, answers: list[Timed]) -> float:
        """Texts for each CPU second of that time; nan where it was too short."""
        end = min(answer.texts[-1] for answer in answers)
        inside = [sample for sample in self._samples if sample[0] <= end]
        if len(inside) < 2 or inside[-1][1] <= inside[0][1]:
            return float("nan")
        (began, cpu_began), (ended, cpu_ended) = inside[0], inside[-1]
        n = sum(began < at <= ended for answer in answers for at in answer.texts)
        return n / (cpu_ended - cpu_began)


def figures(turns: list[Block]) -> dict[str, Any]:
    """One server's rates over its turns, and the times of all its answers."""
    answers = [answer for block in turns for answer in block.answers]
    found: dict[str, Any] = {name: summary([getattr(block, name) for block in turns]) for name in _FIGURES}
    found["prompt_tokens"] = summary([answer.prompt_tokens for answer in answers])
    found["ttft_ms"] = times([answer.ttft_s for answer in answers])
    found["gap_ms"] = times([gap for answer in answers for gap in answer.gaps_s])
    return found


def prefixes(setting: Setting, texts: Iterator[str], n_questions: int, rounds: int) -> dict[str, Any]:
    """Time to the first text of one stream whose questions change their category, with shared prefixes and without."""
    first: dict[str, list[list[float]]] = {}
    one = replace(setting, slots=1)
    with edgemed(one) as pinned, edgemed(replace(one, pins=False)) as plain, llama_server(one) as theirs:
        arms: list[tuple[str, Served, bool]] = [
            ("edgemed, templates pinned", pinned, True),
            ("llama-server, cache_prompt", theirs, True),
            ("edgemed, nothing shared", plain, True),
            ("llama-server, no cache_prompt", theirs, False),
        ]
        for turn in range(rounds + 1):
            wording = list(islice(texts, n_questions))
            for name, server, cache in arms if turn % 2 else reversed(arms):
                seconds = [ask(server.port, _short(server, text, cache)).ttft_s for text in wording]
                if turn:
                    first.setdefault(name, []).append(seconds)
    found: dict[str, Any] = {name: times([s for turn in turns for s in turn]) for name, turns in first.items()}
    for shared, name in ((arms[:2], "ratio, shared"), (arms[2:], "ratio, not shared")):
        pairs = zip(first[shared[0][0]], first[shared[1][0]], strict=True)
        found[name] = summary([statistics.median(ours) / statistics.median(theirs) for ours, theirs in pairs])
    return found


def _short(server: Served, question: str, cache: bool) -> dict[str, Any]:
    if server.name == "edgemed":
        return edgemed_body(question, 2)
    return llama_body(question, 2, cache_prompt=cache)


def times(seconds: list[float]) -> dict[str, float]:
    """Milliseconds that half, and 95 in 100, stay within."""
    return {"p50": round(1000 * share(seconds, 0.5), 2), "p95": round(1000 * share(seconds, 0.95), 2)}


def summary(values: list[float]) -> dict[str, float] | None:
    """Median, smallest and largest; None where nothing could be measured."""
    values = [value for value in values if not math.isnan(value)]
    if not values:
        return None
    return {
        "median": round(statistics.median(values), 4),
        "low": round(min(values), 4),
        "high": round(max(values), 4),
    }


if __name__ == "__main__":
    main()
