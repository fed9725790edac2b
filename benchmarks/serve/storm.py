"""Ten thousand requests against a real `edgemed serve`: mixed sizes, clients that leave, nonsense, an engine that dies.

    python benchmarks/serve/storm.py [--requests 10000] [--model demo] [--clients 10] [--kill-every 500] [--seed 1]
                                     [--signals ABRT SEGV] [--keep FOLDER]

5 % of the clients drop their connection (before the answer, or some events into it), 1 % send what is no valid request,
half of the rest stream; questions have 3 to 150 words, answers 1 to 32 tokens; half of them belong to a session. Every
question holds a canary word of its own. After every 500 answers the engine's process gets a signal (ABRT and SEGV in
turns: a fault; KILL is taken for the system's memory killer and moves the engine down a rung, after which memory
cannot be compared). The demonstration model is served, the questions of one client follow each other, so the box is
always full.

Prints progress, then one JSON object: hangs (no end within 120 s), how the requests ended, streams with other than
exactly one terminal event, memory of both processes after the first 500 and at the end, canary words found in another's
answer, in stderr, in stdout or in the data folder's files. Everything stays on loopback and ends with the last request.
"""

from __future__ import annotations

import argparse
import itertools
import json
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from real_process import SERVE, RealServer, Size, data_folder
from traffic import CANARY, Outcome, call, plan, send

from edgemed.core.units import MIB

_SETTLE_S = 2.0
_LATER_S = 0.5


class Storm:
    """All requests, their clients and what came of them."""

    def __init__(self, server: RealServer, asked: argparse.Namespace) -> None:
        self._server = server
        self._asked = asked
        self._numbers = iter(range(asked.requests))
        self._lock = threading.Lock()
        self._signals = itertools.cycle([getattr(signal, f"SIG{name}") for name in asked.signals])
        self._began = time.monotonic()
        self.n_ended = 0
        self.n_kills = 0
        self.ends: Counter[str] = Counter()
        self.wrong_streams: list[str] = []
        self.foreign: list[str] = []
        self.faults: Counter[str] = Counter()
        self.n_hangs = 0
        self.first: Size | None = None
        self._pause = threading.Event()
        self._pause.set()

    def run(self) -> None:
        """Every request, by so many clients at once."""
        threads = [threading.Thread(target=self._client) for _ in range(self._asked.clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _client(self) -> None:
        key: str | None = None
        while True:
            self._pause.wait()
            with self._lock:
                number = next(self._numbers, None)
            if number is None:
                return
            if number % 40 == 0:  # conversations come and go
                key = str(call(self._server.port, "POST", "/api/sessions")[1]["id"])
            asked, session = plan(number, self._asked.seed, lambda: key if number % 2 else None)  # noqa: B023
            outcome = send(self._server.port, asked, session)
            self._note(outcome)
            if outcome.status == 503:  # told to come again later
                time.sleep(_LATER_S)

    def _note(self, outcome: Outcome) -> None:
        with self._lock:
            self.n_ended += 1
            self._judge(outcome)
            if self.n_ended == min(500, self._asked.requests // 2):
                self.first = self._server.size()
            if self.n_ended % self._asked.kill_every == 0 and self.n_ended < self._asked.requests:
                self.n_kills += self._server.kill_engine(next(self._signals))
            if self.n_ended % 250 == 0:
                self._say()

    def _judge(self, outcome: Outcome) -> None:
        kind = outcome.asked.kind
        self.n_hangs += outcome.hung
        self.ends[f"{kind}: {outcome.status or 'gone'} {outcome.code}".strip()] += 1
        if outcome.fault and kind != "leaves":
            self.faults[f"{kind}: {outcome.fault}"] += 1
        streamed = kind == "stream" and outcome.status == 200
        if streamed and (outcome.terminal_events, outcome.done_lines) != (1, 1):
            self.wrong_streams.append(f"{outcome.asked.number}: {outcome.terminal_events}, {outcome.done_lines}")
        if outcome.foreign_canaries():
            self.foreign.append(f"{outcome.asked.number}")

    def _say(self) -> None:
        seconds = time.monotonic() - self._began
        left = seconds / self.n_ended * (self._asked.requests - self.n_ended)
        print(f"{self.n_ended} of {self._asked.requests}, {left:.0f} s left", file=sys.stderr, flush=True)


def main() -> None:
    """Run, then print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--kill-every", type=int, default=500)
    parser.add_argument("--signals", nargs="+", default=["ABRT", "SEGV"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="copy the data folder and the server's words there")
    asked = parser.parse_args()
    with data_folder(asked.keep) as home:
        found = storm(home, asked)
    print(json.dumps(found, indent=2))


def storm(home: Path, asked: argparse.Namespace, command: Sequence[str] = SERVE) -> dict[str, Any]:
    """The whole run in a data folder of its own."""
    server = RealServer(home, asked.model, command)
    try:
        serving = server.wait_ready()
        began = time.monotonic()
        run = Storm(server, asked)
        run.run()
        seconds = time.monotonic() - began
        time.sleep(_SETTLE_S)
        health, last = call(server.port, "GET", "/health")[1], server.size()
    finally:
        exit_code = server.stop()
    assert run.first is not None
    return {
        "model": serving["model"],
        "n_slots": serving["n_slots"],
        "requests": run.n_ended,
        "seconds": round(seconds, 1),
        "hangs": run.n_hangs,
        "ends": dict(sorted(run.ends.items())),
        "faults": dict(run.faults),
        "engine_kills": run.n_kills,
        "worker_restarts": health["worker_restarts"],
        "status_at_end": health["status"],
        "rung_at_end": health["rung"],
        "streams_not_ended_once": run.wrong_streams,
        "foreign_canaries_in_answers": run.foreign,
        "canaries_in_files": canaries_in(home.parent),
        "memory": {name: grown(name, run.first, last) for name in ("server_rss", "engine_rss")},
        "server_threads": [run.first.server_threads, last.server_threads],
        "server_files": [run.first.server_files, last.server_files],
        "exit_code": exit_code,
    }


def canaries_in(folder: Path) -> list[str]:
    """Files that hold a canary word: the data folder's, stderr and stdout."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path.name for path in files if CANARY.search(path.read_bytes().decode("latin-1"))]


def grown(name: str, first: Size, last: Size) -> dict[str, float]:
    """MiB after the first 500 and at the end, and their ratio."""
    before, after = getattr(first, name), getattr(last, name)
    if not before or not after:
        return {}
    return {"first_mib": round(before / MIB, 1), "last_mib": round(after / MIB, 1), "ratio": round(after / before, 3)}


if __name__ == "__main__":
    main()
