"""SIGKILL of the whole server at random moments under traffic, again and again in one data folder: is anything lost?

    python benchmarks/serve/kills.py [--kills 200] [--model demo] [--clients 4] [--longest 2.5] [--seed 1]
                                     [--keep FOLDER]

Each round starts `edgemed serve`, asks from so many clients at once (each with a session of its own, whole answers and
streams), and kills the server up to `--longest` seconds after it was ready; every eighth one while it still starts. The
engine's process must end with it. After each start all of this is checked, and counted where it does not hold:

    starts              it comes up, and its engine answers
    journal             every line is readable, and no row is left open
    acknowledged        whole answers with 200 and streams that told their end, of all rounds: each has its row, not
                        "interrupted"
    interrupted         every stream that had begun and was cut has a row; its session is told the question, and
                        nobody else's
    erased              what was erased with a 204 stays so
    caches              the answer cache is open, on disk, without a warning; nothing was damaged

Prints progress with the time left, then one JSON object. About 4 s a round on two cores.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from real_process import SERVE, RealServer, data_folder
from traffic import CANARY, Outcome, call, plan, send

from edgemed.serve.journal import INTERRUPTED, Journal, JournalRows, read_journal


@dataclass
class Findings:
    """What did not hold, and how much was tried."""

    wrong: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    acknowledged: dict[str, str] = field(default_factory=dict)
    """Answer ids that a client was told of, and the end that it was told."""

    def expect(self, holds: object, words: str) -> None:
        """Note what does not hold."""
        if not holds:
            self.wrong.append(words)


def main() -> None:
    """Run, then print one JSON object; exit code 1 when anything did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--longest", type=float, default=2.5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="copy the data folder and the server's words there")
    asked = parser.parse_args()
    with data_folder(asked.keep) as home:
        found = kills(home, asked)
    print(json.dumps(found, indent=2))
    raise SystemExit(bool(found["wrong"]))


def kills(home: Path, asked: argparse.Namespace, command: Sequence[str] = SERVE) -> dict[str, Any]:
    """All rounds, and one last start."""
    rng, found, cut = random.Random(asked.seed), Findings(), list[Outcome]()
    began = time.monotonic()
    for number in range(asked.kills + 1):
        server = RealServer(home, asked.model, command)
        try:
            if number % 8 == 7:
                time.sleep(rng.uniform(0, 0.6))
            else:
                server.wait_ready()
                check_start(home, server, cut, found, number)
                cut = []
                if number < asked.kills:
                    outcomes = traffic(server, asked, number, rng.uniform(0.0, asked.longest))
                    cut = note(outcomes, found)
        finally:
            if number == asked.kills:
                found.expect(server.stop() == 0, "the last server did not end well")
            else:
                found.expect(server.kill(), f"kill {number}: the engine outlived its server")
        say(number, asked.kills, time.monotonic() - began)
    words = (home.parent / "stderr.txt").read_text()
    found.expect("damaged" not in words and "Traceback" not in words, "the server's words tell of damage")
    held = [path.name for path in home.parent.rglob("*") if path.is_file() and CANARY.search(path.read_text("latin-1"))]
    found.expect(not held, f"canaries in {held}")
    counts = dict(found.counts) | {"acknowledged": len(found.acknowledged), "torn_lines_cut": words.count("was torn")}
    seconds = round(time.monotonic() - began, 1)
    return {"kills": asked.kills, "seconds": seconds, "wrong": found.wrong, "counts": counts}


def traffic(server: RealServer, asked: argparse.Namespace, round_number: int, seconds: float) -> list[Outcome]:
    """What came of every request until the server is killed, which this does after so many seconds."""
    outcomes: list[Outcome] = []
    dead = threading.Event()

    def client(index: int) -> None:
        try:
            key = str(call(server.port, "POST", "/api/sessions")[1]["id"])
            for turn in range(1_000):
                if dead.is_set():
                    return
                number = (round_number * 100 + index) * 1_000 + turn
                one, _ = plan(number, asked.seed, lambda: key)
                outcomes.append(send(server.port, one, key))
        except (OSError, ValueError, KeyError, TypeError):
            return  # killed while it was asked for a session

    threads = [threading.Thread(target=client, args=(index,)) for index in range(asked.clients)]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    dead.set()
    server.kill_now()
    for thread in threads:
        thread.join()
    return outcomes


def note(outcomes: list[Outcome], found: Findings) -> list[Outcome]:
    """Enter what was acknowledged; the streams that were cut."""
    cut = []
    for outcome in outcomes:
        found.counts["requests"] += 1
        found.counts["hangs"] += outcome.hung
        if outcome.asked.kind == "stream" and outcome.status == 200:
            found.expect(outcome.terminal_events <= 1, f"{outcome.terminal_events} terminal events in one stream")
        if outcome.acknowledged:
            found.acknowledged[outcome.answer_id] = outcome.code
        elif outcome.asked.kind == "stream" and outcome.answer_id:
            cut.append(outcome)
        found.expect(not outcome.foreign_canaries(), "another's canary in an answer")
    return cut


def check_start(home: Path, server: RealServer, cut: list[Outcome], found: Findings, number: int) -> None:
    """All that must hold after a start."""
    found.counts["starts"] += 1
    status, said = call(server.port, "GET", "/health")
    found.expect(status == 200, f"start {number}: /health says {said}")
    cache = call(server.port, "GET", "/api/status")[1]["cache"]
    found.expect(cache["disk"] and not cache["warning"], f"start {number}: the cache says {cache['warning']}")
    rows = read_journal(Journal(home).files())
    check_journal(rows, cut, found, number)
    for outcome in cut:
        found.counts["cut_streams"] += 1
        check_session(server, outcome, found, number)


def check_journal(rows: JournalRows, cut: list[Outcome], found: Findings, number: int) -> None:
    """Every line readable, nothing open, every acknowledged answer there, every cut one known."""
    found.expect(not rows.n_unreadable, f"start {number}: {rows.n_unreadable} unreadable lines")
    found.expect(not rows.open_rows(), f"start {number}: rows are left open")
    ends: dict[str, list[str]] = {}
    for row in rows.entries:
        if row.kind == "ended":
            ends.setdefault(row.answer_id, []).append(row.ended)
    twice = [name for name, ended in ends.items() if name and len(ended) > 1]
    found.expect(not twice, f"start {number}: {len(twice)} rows ended twice")
    lost = [name for name, code in found.acknowledged.items() if not _matches(ends.get(name, []), code)]
    found.expect(not lost, f"start {number}: {len(lost)} acknowledged answers have no row of their own end")
    found.counts["rows"] = len(rows.entries)
    found.counts["interrupted_rows"] = sum(INTERRUPTED in ended for ended in ends.values())
    for outcome in cut:
        found.expect(outcome.answer_id in ends, f"start {number}: a stream that was cut has no row")


def _matches(ended: list[str], code: str) -> bool:
    return ended == [code] if code else ended in (["stop"], ["length"])


def check_session(server: RealServer, outcome: Outcome, found: Findings, number: int) -> None:
    """The session is told its own question and no other's; then it is erased."""
    status, said = call(server.port, "GET", f"/api/sessions/{outcome.session}")
    told = [one["question"] for one in said["unfinished"]] if status == 200 else []
    found.expect(outcome.asked.question in told, f"start {number}: a stream that was cut is not told ({status})")
    found.expect(len(told) == 1, f"start {number}: {len(told)} questions are told")
    erased = call(server.port, "DELETE", f"/api/sessions/{outcome.session}/unfinished")[0]
    again = call(server.port, "GET", f"/api/sessions/{outcome.session}")[1]
    found.expect(erased == 204 and again["unfinished"] == [], f"start {number}: what was erased is still told")


def say(number: int, n_kills: int, seconds: float) -> None:
    """Progress."""
    left = seconds / (number + 1) * (n_kills - number)
    print(f"{number + 1} of {n_kills + 1}, {left:.0f} s left", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
