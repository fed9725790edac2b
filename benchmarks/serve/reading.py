"""A long prompt that arrives while others' answers are written: what they wait, and what it costs the reading.

    python benchmarks/serve/reading.py [--model MODEL] [--streams 1 3] [--prompt-tokens 2000] [--repeats 5]

Each repetition reads a prompt of that length with nothing else to do, then another while so many streams write:
`reading_kept` is its speed beside them by its speed alone, `gap_ratio` the 95th percentile of the streams' gaps
between texts while it is read by that of the seconds before (--before). Prompts differ, so
nothing is read from a cache.
Goals: a gap ratio under 3, at least 0.6 of the speed. Takes about 3 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from clients import Background, Timed, ask, share
from made_up import half_b
from questions import edgemed_body, questions
from servers import Setting, edgemed
from streams import summary

_CONTEXT = 4096
_LONG_ANSWER = 3900


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--prompt-tokens", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--before", type=float, default=5.0, help="seconds in which the streams are alone")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = asked.model or half_b(Path(folder))
        found: dict[str, Any] = {"model": model.name, "threads": asked.threads}
        setting = Setting(str(model), asked.threads, max(asked.streams) + 1, context=_CONTEXT)
        with edgemed(setting) as server:
            notes = long_notes(server.port, asked.prompt_tokens)
            for n_streams in asked.streams:
                found[f"{n_streams} streams"] = repeated(server.port, n_streams, notes, asked)
    print(json.dumps(found, indent=2))


def long_notes(port: int, n_tokens: int) -> Iterator[str]:
    """Questions whose prompts have about so many tokens, all different."""
    texts = questions(seed=2)

    def note(n_characters: int) -> str:
        text = ""
        while len(text) < n_characters:
            text += next(texts) + " "
        return text[:n_characters]

    tried = note(4000)
    per_token = len(tried) / ask(port, edgemed_body(tried, 1)).prompt_tokens
    while True:
        yield note(round(n_tokens * per_token))


def repeated(port: int, n_streams: int, notes: Iterator[str], asked: argparse.Namespace) -> dict[str, Any]:
    """Every repetition's figures."""
    turns: list[dict[str, float]] = []
    for turn in range(asked.repeats + 1):
        found = once(port, n_streams, next(notes), next(notes), asked.before)
        if turn:  # the first warms up
            turns.append(found)
            shown = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
            print(f"{n_streams} streams: {shown}", file=sys.stderr, flush=True)
    return {name: summary([turn[name] for turn in turns]) for name in turns[0]}


def once(port: int, n_streams: int, first: str, second: str, before_s: float) -> dict[str, float]:
    """One prompt read alone, one beside streams."""
    alone = read_per_s(ask(port, edgemed_body(first, 1)))
    others = Background(port, [edgemed_body(text, _LONG_ANSWER) for text in islice(questions(3), n_streams)])
    try:
        others.wait_begun()
        time.sleep(before_s + 0.1)
        note = ask(port, edgemed_body(second, 1))
    finally:
        others.stop()
    before = others.gaps_s(note.asked - before_s, note.asked)
    during = others.gaps_s(note.asked, note.texts[0])
    return {
        "alone_per_s": alone,
        "beside_per_s": read_per_s(note),
        "reading_kept": read_per_s(note) / alone,
        "gap_p50_before_ms": 1000 * statistics.median(before),
        "gap_p50_during_ms": 1000 * statistics.median(during),
        "gap_p95_before_ms": 1000 * share(before, 0.95),
        "gap_p95_during_ms": 1000 * share(during, 0.95),
        "gap_ratio": share(during, 0.95) / share(before, 0.95),
    }


def read_per_s(answer: Timed) -> float:
    """Tokens of the prompt for each second until the first text."""
    return answer.prompt_tokens / answer.ttft_s


if __name__ == "__main__":
    main()
