"""How long does it take until a hung engine is noticed, and until the next question is answered?

    python benchmarks/serve/hung.py [--rounds 5] [--model demo]

A real `edgemed serve`; while an answer streams the engine's process gets SIGSTOP: it lives and does nothing. Seconds
from there to the stream's error event, and from that to the whole answer to another question. The limit follows the
engine's own steps (edgemed/engines/stall.py): ten times the slowest, at least 10 s. Takes about a minute for 5 rounds.
"""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from real_process import RealServer

_QUESTION = "Fever and cough since three days. " * 20 + "What is the dose of paracetamol?"


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="demo")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        home.mkdir()
        server = RealServer(home, asked.model)
        try:
            server.wait_ready()
            ask(server.port, stream=False).read()
            rounds = [one_round(server) for _ in range(asked.rounds)]
        finally:
            server.stop()
    noticed, served = ([seconds[index] for seconds in rounds] for index in (0, 1))
    print(json.dumps({"model": asked.model, "noticed_s": summary(noticed), "next_answer_s": summary(served)}, indent=2))


def one_round(server: RealServer) -> tuple[float, float]:
    """Seconds until the hung stream has its error, and from there until another question has its answer."""
    while True:
        response = ask(server.port, stream=True)
        response.readline()
        began = time.monotonic()
        server.kill_engine(signal.SIGSTOP)
        if b'"engine_lost"' in response.read():  # else the answer had ended before
            break
    noticed = time.monotonic()
    assert ask(server.port, stream=False).status == 200
    return noticed - began, time.monotonic() - noticed


def ask(port: int, *, stream: bool) -> http.client.HTTPResponse:
    """The response to the question."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=700)
    body: dict[str, Any] = {"messages": [{"role": "user", "content": _QUESTION}], "stream": stream, "cache": "off"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    return connection.getresponse()


def summary(seconds: list[float]) -> dict[str, float]:
    """Median and range."""
    shown = (statistics.median(seconds), min(seconds), max(seconds))
    return dict(zip(("median", "least", "most"), (round(value, 2) for value in shown), strict=True))


if __name__ == "__main__":
    main()
