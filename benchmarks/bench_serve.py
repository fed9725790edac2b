"""One stream through HTTP against a bare llama_decode loop on the same model; time to first token; time to ready.

    python benchmarks/bench_serve.py [MODEL] [--tokens 96] [--rounds 7] [--answers 1] [--threads 1] [--starts 5]

Without MODEL a synthetic 0.5B of Qwen2 shape (q8_0) is written to a temporary folder and removed afterwards.

Tokens per CPU second count the user and system time of the server and of its engine process, not the client's:
a long answer less a short one to the same question, so that the prompt and the connection cancel out. The bare
loop runs inside the same engine process, on the same weights and context, after a prompt of the same length, in
turns with the server (see bench_engine.py, which says why).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bench_engine
import httpx
from bench_engine import summary

QUESTION = "What is the dose of paracetamol for fever in a child of 12 kg?"
SHORT = 4
"""Tokens of the answer that is subtracted."""
_PACK = 1_000_000
_CHILD_BODY = "import sys; sys.path[:] = {path!r}; import bench_serve; bench_serve.main_of_child()"
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}<|im_start|>assistant\n"
)


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--answers", type=int, default=1, help="per round; more for a model whose answers are short")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--be-the-server", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.be_the_server:
        be_the_server(asked.model, asked.threads)
        return
    with tempfile.TemporaryDirectory() as folder:
        model = asked.model or bench_engine.synthetic_model(Path(folder))
        found: dict[str, Any] = {"model": model.name, "threads": asked.threads, "tokens": asked.tokens}
        found |= {"rounds": asked.rounds, "answers_per_round": asked.answers}
        found |= compare(model, asked.threads, asked.tokens, asked.rounds, asked.answers)
        found |= starts(model, asked.starts, Path(folder))
        print(json.dumps(found, indent=2))


def compare(model: Path, threads: int, n_tokens: int, rounds: int, answers: int) -> dict[str, Any]:
    """Both sides in turns, their ratio, and the time to the first token of every streamed answer."""
    pairs, first_ms, own_us = [], [], []
    with server(model, threads) as (http, tell):
        for turn in range(rounds + 1):
            n_prompt, _ = stream(http, SHORT)
            bare_s = [1 / tell(f"bare {n_prompt} {n_tokens - SHORT}") for _ in range(answers)]
            before, own_before = tell("cpu"), tell("own")
            short = [stream(http, SHORT) for _ in range(answers)]
            middle, own_middle = tell("cpu"), tell("own")
            long = [stream(http, n_tokens) for _ in range(answers)]
            after, own_after = tell("cpu"), tell("own")
            n = answers * (n_tokens - SHORT)
            served = n / ((after - middle) - (middle - before))
            if turn:  # the first turn warms both up
                pairs.append((1 / statistics.mean(bare_s), served))
                own_us.append(((own_after - own_middle) - (own_middle - own_before)) / n * 1e6)
                first_ms += [ttft for _, ttft in short + long]
    return {
        "prompt_tokens": n_prompt,
        "bare_tokens_per_cpu_s": summary([bare for bare, _ in pairs]),
        "http_tokens_per_cpu_s": summary([served for _, served in pairs]),
        "overhead_us_per_token": summary([1e6 / served - 1e6 / bare for bare, served in pairs]),
        "server_process_us_per_token": summary(own_us),
        "ratio": summary([served / bare for bare, served in pairs]),
        "ttft_ms": summary(first_ms),
    }


def stream(http: httpx.Client, n_tokens: int) -> tuple[int, float]:
    """One streamed answer of exactly that many tokens: its prompt's tokens, and milliseconds to its first text."""
    body = {
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": n_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        "cache": "off",  # the same question again and again: a saved answer would be measured
    }
    began, first, usage = time.perf_counter(), 0.0, None
    with http.stream("POST", "/v1/chat/completions", json=body) as response:
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                raise SystemExit(chunk["error"]["message"])
            usage = chunk.get("usage")
            if not first and chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
                first = time.perf_counter()
    assert usage is not None, "the stream ended early"
    if usage["completion_tokens"] != n_tokens:
        raise SystemExit(f"the answer ended by itself after {usage['completion_tokens']} tokens: use fewer --tokens")
    return usage["prompt_tokens"], (first - began) * 1000


@contextmanager
def server(model: Path, threads: int) -> Iterator[tuple[httpx.Client, Any]]:
    """A client of a server process, and a function that asks that process for a figure."""
    command = [sys.executable, __file__, str(model), "--threads", str(threads), "--be-the-server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ask, answers = process.stdin, process.stdout

        def tell(words: str) -> float:
            ask.write(words + "\n")
            ask.flush()
            return float(answers.readline())

        url = answers.readline().strip()
        try:
            with httpx.Client(base_url=url, timeout=600, trust_env=False) as http:
                yield http, tell
        finally:
            process.send_signal(signal.SIGTERM)


def be_the_server(model: Path, threads: int) -> None:
    """The server process: the real server over the real engine; answers "cpu" and "bare PROMPT TOKENS" on stdin."""
    from edgemed.engines import child
    from edgemed.engines.base import EngineConfig
    from edgemed.engines.supervisor import EngineProcess
    from edgemed.serve.app import create_app
    from edgemed.serve.options import ServeOptions
    from edgemed.serve.server import listen, run, url_of

    child._BODY = _CHILD_BODY
    engine = EngineProcess(EngineConfig(model_path=model, context_length=2048, n_slots=1, n_threads=threads))
    engine.start()
    sock = listen("127.0.0.1", 0)
    with_template = _Templated(engine)
    app = create_app(with_template, ServeOptions(model_name="bench"))

    def answer() -> None:
        for line in sys.stdin:
            words = line.split()
            if words[0] == "cpu":
                figure = bench_engine.cpu_seconds(engine)
            elif words[0] == "own":
                figure = time.process_time()
            else:
                figure = bench_engine.bare_rate(engine, int(words[1]) * _PACK + int(words[2]))
            print(figure, flush=True)

    threading.Thread(target=answer, daemon=True).start()
    run(app, with_template, sock, lambda: print(url_of(sock), flush=True))


class _Templated:
    """The engine, with ChatML where its model brings no chat template."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        info = engine.info
        self.info = info if info.chat_template else info.model_copy(update={"chat_template": CHATML})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def main_of_child() -> None:
    """The engine process's body: bench_engine's, whose bare loop gets the length of its prompt with its tokens."""
    plain = bench_engine.bare_loop

    def bare_loop(engine: Any, packed: int) -> list[int]:
        n_prompt, n_tokens = divmod(packed, _PACK)
        bench_engine.PROMPT = tuple(40 + n % 100 for n in range(n_prompt))
        return plain_in_chunks(plain, engine, n_tokens)

    bench_engine.bare_loop = bare_loop
    bench_engine.main_of_child()


def plain_in_chunks(plain: Any, engine: Any, n_tokens: int) -> list[int]:
    """The bare loop after a prompt that may be longer than the engine's batch: all but its end is read first."""
    api, context, prompt = engine._api, engine._context, bench_engine.PROMPT
    room = 64
    for start in range(0, len(prompt) - room, room):
        part = (api.llama_token * room)(*prompt[start : start + room])
        assert api.llama_decode(context, api.llama_batch_get_one(part, room)) == 0
        bench_engine.PROMPT = prompt[start + room :]
    return plain(engine, n_tokens)  # type: ignore[no-any-return]


def starts(model: Path, repeats: int, home: Path) -> dict[str, Any]:
    """Seconds from the start of `edgemed serve` until it is ready, and from SIGTERM to its end; the plan is there."""
    ready, ended = [], []
    for turn in range(repeats + 1):
        command = [sys.executable, "-m", "edgemed.cli.app", "serve", str(model), "--offline", "--port", "0", "--json"]
        environment = {**os.environ, "EDGEMED_HOME": str(home)}
        began = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as process:
            assert process.stdout is not None
            process.stdout.readline()
            is_ready = time.perf_counter()
            process.send_signal(signal.SIGTERM)
            process.communicate()
        if turn:  # the first start measures the machine and makes the plan
            ready.append(is_ready - began)
            ended.append(time.perf_counter() - is_ready)
    return {"ready_s": summary(ready), "end_s": summary(ended)}


if __name__ == "__main__":
    main()
