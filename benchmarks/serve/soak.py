"""`edgemed serve` at full width for half an hour: does a token still cost what it did, and does memory grow?

    python benchmarks/serve/soak.py [--minutes 30] [--model MODEL] [--slots 4] [--plot soak.png] [--seed 1]

As many clients as slots ask without a pause: short and long questions, short and long answers from a deck that is
dealt again and again, so that every minute has about the same mix; one question in ten is asked again and may come
from the answer cache, one client in fifty leaves in the middle of its answer. Prints a row for each minute and the
last five against the first five (shorter runs: a third of them): CPU seconds of both processes for each thousand
tokens, prompts included, and resident memory. Goal: within 5 %. The first half minute is not counted. Without --model a
synthetic 0.5B in the nf4-int8 mix is served, "demo" is the demonstration model.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients import Enough, Timed, ask
from made_up import half_b
from questions import edgemed_body, questions
from servers import Served, served

from edgemed.demo import demo_model_path

_SETTLE_S = 30.0
_MINUTE_S = 60.0
_DECK = [(n_questions, n_tokens) for n_questions in (1, 1, 1, 2, 8, 20) for n_tokens in (16, 48, 48, 96, 160)]
"""Questions in one message, tokens of the answer."""


@dataclass(frozen=True)
class Row:
    """One minute."""

    minute: float
    tokens: int
    answers: int
    cpu_ms_per_token: float
    server_mib: float
    engine_mib: float


def main() -> None:
    """Run, then print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--model", help='a GGUF file, or "demo"')
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        model = demo_model_path() if asked.model == "demo" else Path(asked.model) if asked.model else half_b(home)
        with edgemed_serve(model, asked.slots, home) as server:
            rows = soak(server, asked.slots, asked.minutes, asked.seed)
    print(json.dumps({"model": model.name, "slots": asked.slots} | judged(rows), indent=2))
    if asked.plot:
        plot(rows, asked.plot)


@contextmanager
def edgemed_serve(model: Path, slots: int, home: Path) -> Iterator[Served]:
    """The command itself, with its own plan; the first start makes it."""
    command = [sys.executable, "-m", "edgemed.cli.app", "serve", str(model), "--offline", "--port", "0", "--json"]
    environment = {**os.environ, "EDGEMED_HOME": str(home)}
    with subprocess.Popen(
        [*command, "--slots", str(slots)], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            record = _first_record(process)
            yield served("edgemed", process.pid, int(record["url"].rpartition(":")[2]))
        finally:
            process.terminate()


def _first_record(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What the command says when it is ready: one JSON object over several lines."""
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if line.startswith("}"):
            return json.loads(text)  # type: ignore[no-any-return]
    raise SystemExit("edgemed serve did not start")


def soak(server: Served, n_clients: int, minutes: float, seed: int) -> list[Row]:
    """One row for each minute; shorter ones for a short try."""
    clients = Clients(server.port, n_clients, seed)
    every_s = min(_MINUTE_S, minutes * _MINUTE_S / 6)
    rows = []
    try:
        time.sleep(min(_SETTLE_S, every_s))
        began = time.monotonic()
        while (passed := time.monotonic() - began) < minutes * _MINUTE_S:
            tokens, answers, cpu_s = clients.n_tokens, clients.n_answers, server.cpu_s()
            time.sleep(every_s)
            clients.check()
            n, cpu_s = clients.n_tokens - tokens, server.cpu_s() - cpu_s
            rss = {name: n_bytes / 2**20 for name, n_bytes in server.rss_bytes().items()}
            row = Row(
                minute=round(passed / _MINUTE_S, 2),
                tokens=n,
                answers=clients.n_answers - answers,
                cpu_ms_per_token=round(1000 * cpu_s / max(1, n), 3),
                server_mib=round(rss["server"], 1),
                engine_mib=round(rss["engine"], 1),
            )
            rows.append(row)
            print(row, file=sys.stderr, flush=True)
    finally:
        clients.stop()
    return rows


class Clients:
    """So many clients that ask one question after the other until `stop`."""

    def __init__(self, port: int, n_clients: int, seed: int) -> None:
        self._port = port
        self._stopped = False
        self._failure: BaseException | None = None
        self._lock = threading.Lock()
        self._texts = questions(seed)
        self._random = random.Random(seed)
        self._asked: list[dict[str, Any]] = []
        self._deck: list[tuple[int, int]] = []
        self.n_tokens = self.n_answers = 0
        self._threads = [threading.Thread(target=self._run) for _ in range(n_clients)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End every client after its next word."""
        self._stopped = True
        for thread in self._threads:
            thread.join()

    def check(self) -> None:
        """Raise what ended a client."""
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            while not self._stopped:
                self._ask(*self._next())
        except BaseException as error:  # told by `check`, in the thread that measures
            self._failure = error

    def _next(self) -> tuple[dict[str, Any], int]:
        """A question, and the number of texts after which the client leaves."""
        with self._lock:
            leaves = self._random.randint(1, 12) if self._random.random() < 0.02 else 1_000_000
            if self._asked and self._random.random() < 0.1:
                return self._random.choice(self._asked), leaves
            if not self._deck:
                self._deck = self._random.sample(_DECK, len(_DECK))
            n_questions, n_tokens = self._deck.pop()
            body = edgemed_body(" ".join(next(self._texts) for _ in range(n_questions)), n_tokens)
            del body["cache"]
            self._asked = [*self._asked[-200:], body]
            return body, leaves

    def _ask(self, body: dict[str, Any], leaves: int) -> None:
        n = 0

        def on_text() -> None:
            nonlocal n
            n += 1
            self._count(1)
            if self._stopped or n >= leaves:
                raise Enough

        answer: Timed = ask(self._port, body, on_text)
        if answer.saved:
            self._count(-n)
        with self._lock:
            self.n_answers += 1

    def _count(self, n: int) -> None:
        with self._lock:
            self.n_tokens += n


def judged(rows: list[Row]) -> dict[str, Any]:
    """The rows, and the last five minutes (a third of a short run) by the first five."""
    n = max(1, min(5, len(rows) // 3))
    ratios = {
        name: round(_mean(rows[-n:], name) / _mean(rows[:n], name), 4)
        for name in ("cpu_ms_per_token", "server_mib", "engine_mib")
    }
    return {"last_by_first": ratios, "rows": [vars(row) for row in rows]}


def _mean(rows: list[Row], name: str) -> float:
    return statistics.mean(getattr(row, name) for row in rows)


def plot(rows: list[Row], path: Path) -> None:
    """CPU time for each token, and memory, over the minutes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(8, 6))
    minutes = [row.minute for row in rows]
    above.plot(minutes, [row.cpu_ms_per_token for row in rows], marker=".")
    above.set_ylabel("CPU ms per token")
    below.plot(minutes, [row.server_mib for row in rows], label="server")
    below.plot(minutes, [row.engine_mib for row in rows], label="engine")
    below.set_ylabel("resident MiB")
    below.set_xlabel("minutes")
    for axes in (above, below):
        axes.set_ylim(bottom=0)
    below.legend()
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
