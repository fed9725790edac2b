"""Times the engine on a model in a process of its own: how long it reads a prompt, how long it writes an answer.

What profile, plan and bench stand on. The process loads the model as `EngineConfig` says, then answers one measurement
after the other, so that two models can take turns. One token after the other through `llama_decode`, with greedy
sampling and no text: what the engine itself needs. A process that dies (memory, driver) is a StopwatchFailed with its
last words; the caller's process never loads llama.cpp.
"""

from __future__ import annotations

import json
import os
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from pydantic import Field, ValidationError

from edgemed.core.errors import EdgemedError, EngineFailed, UsageError
from edgemed.core.records import Record
from edgemed.core.settings import (
    ENGINE_ENVIRONMENT,
    OFFLINE_ENVIRONMENT,
    environment_of_engine,
    set_environment,
)
from edgemed.engines.base import EngineConfig

_LOAD_TIMEOUT_S = 900.0
"""A 7B from a slow stick."""
_LAST_WORDS = 2000


class StopwatchFailed(Exception):
    """The engine did not load or did not answer; the message says what it said last."""


class Measurement(Record):
    """What to time: read `prompt_tokens` after `depth` others, then write `answer_tokens`, several times."""

    prompt_tokens: int = Field(ge=1)
    answer_tokens: int = Field(default=0, ge=0)
    depth: int = Field(default=0, ge=0)
    """Tokens that stand in the KV cache before; reading them is not timed."""
    n_threads: int | None = None
    """Threads for decoding; None leaves them as loaded."""
    n_threads_batch: int | None = None
    adapter: str = ""
    """One of the configuration's."""
    leaves: str | None = None
    """Another one, that a step is made with before each repetition: the switch is then part of the prompt's time."""
    repetitions: int = Field(default=3, ge=1)
    at_most_s: float = Field(default=60.0, gt=0)
    """No further repetition begins after that many seconds; the first always runs."""


class Timed(Record):
    """What came out, one entry per repetition."""

    prompt_s: tuple[float, ...]
    answer_s: tuple[float, ...]
    """Seconds from the end of the prompt to the last token of the answer."""
    step_s: tuple[float, ...] = ()
    """Median seconds of one decoding step, by repetition: hardly moved by somebody else's burst of work."""
    cpu_s: tuple[float, ...]
    """CPU seconds of the engine's process for prompt and answer; a device in another process is not counted."""

    def prompt_median_s(self) -> float:
        """Median seconds for the prompt."""
        return statistics.median(self.prompt_s)

    def step_median_s(self) -> float:
        """Median over the repetitions of the median step; 0 where nothing was written."""
        return statistics.median(self.step_s) if self.step_s else 0.0


class Loaded(Record):
    """The engine is ready, and what it took."""

    seconds: float
    memory: dict[str, tuple[int, int, int]]
    """Bytes of weights, KV cache and compute buffers by place, asked of the engine; empty where it cannot be asked."""
    resident_bytes: int
    """Resident memory of the process after a first step; 0 where the system does not say."""


class Stopwatch:
    """One loaded model; use it as a context manager. Raises StopwatchFailed when the engine cannot load it."""

    def __init__(self, config: EngineConfig, on_progress: Callable[[float], None] | None = None) -> None:
        self._process = _start(config)
        self._unread = b""
        self._on_progress = on_progress or (lambda _: None)
        self.loaded = Loaded.model_validate(self._answer(_LOAD_TIMEOUT_S))

    def __enter__(self) -> Stopwatch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def measure(self, wanted: Measurement, timeout_s: float = 900.0) -> Timed:
        """Time it. Raises StopwatchFailed when the engine dies, refuses a step or takes longer than `timeout_s`."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(wanted.model_dump_json().encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise StopwatchFailed(self._epitaph()) from None
        try:
            return Timed.model_validate(self._answer(timeout_s))
        except ValidationError as error:
            raise StopwatchFailed(f"the engine's answer could not be read: {error}") from error

    def resident_bytes(self) -> int:
        """Resident memory of the engine's process now; 0 where the system does not say."""
        import psutil

        try:
            return int(psutil.Process(self._process.pid).memory_info().rss)
        except psutil.Error:
            return 0

    def close(self) -> None:
        """End the process; it has nothing to save."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def _answer(self, timeout_s: float) -> dict[str, Any]:
        end = time.monotonic() + timeout_s
        try:
            while True:
                line = self._line(end)
                answer: dict[str, Any] = json.loads(line)
                if "loading" in answer:
                    self._on_progress(float(answer["loading"]))
                elif "fault" in answer:
                    raise StopwatchFailed(str(answer["fault"]))
                else:
                    return answer
        except ValueError as error:
            self.close()
            raise StopwatchFailed(f"the engine's answer could not be read: {error}") from error
        except StopwatchFailed:
            self.close()
            raise

    def _line(self, end: float) -> bytes:
        """The next whole line. Raises StopwatchFailed when the process ends or the time `end` is reached."""
        pipe = self._process.stdout
        assert pipe is not None
        while b"\n" not in self._unread:
            if sys.platform != "win32" and not select.select([pipe], [], [], max(0.0, end - time.monotonic()))[0]:
                raise StopwatchFailed("the engine gave no answer in the time that it had")
            part = pipe.read(65536) if sys.platform != "win32" else pipe.readline()
            if not part:
                raise StopwatchFailed(self._epitaph())
            self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _epitaph(self) -> str:
        self._process.wait()
        said = b"" if self._process.stderr is None else self._process.stderr.read()[-_LAST_WORDS:]
        lines = said.decode(errors="replace").strip().splitlines()[-1:]
        ended = f"the engine's process ended with {self._process.returncode}"
        return f"{ended}: {lines[0]}" if lines else ended


def _start(config: EngineConfig) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-c", _BODY.format(path=[entry for entry in sys.path if entry])]
    try:
        return subprocess.Popen(
            [*command, config.model_dump_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=environment_of_engine(),
            start_new_session=True,  # a Ctrl-C is the parent's to handle
        )
    except OSError as error:
        raise StopwatchFailed(f"the engine's process could not be started: {error.strerror or error}") from error


_BODY = "import sys; sys.path[:] = {path!r}; from edgemed.engines.stopwatch import main; main()"


def main() -> None:
    """The body of the process: the configuration as argument, measurements on stdin, answers on stdout."""
    from edgemed.engines.llama_cpp import LlamaCpp
    from edgemed.engines.memory_breakdown import resident_bytes

    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # the engine and its drivers print; answers must stay alone on stdout
    set_environment(ENGINE_ENVIRONMENT | OFFLINE_ENVIRONMENT)

    def say(content: dict[str, Any]) -> None:
        answers.write(json.dumps(content).encode() + b"\n")

    try:
        config = EngineConfig.model_validate_json(sys.argv[1])
        began = time.monotonic()
        engine = LlamaCpp(config, lambda done: say({"loading": done}))
        seconds = time.monotonic() - began
        say(Loaded(seconds=seconds, memory=engine.info.memory, resident_bytes=resident_bytes()).model_dump(mode="json"))
        loop = _Loop(engine.native, config, engine.use_adapter)
        for line in sys.stdin:
            say(loop.run(Measurement.model_validate_json(line)).model_dump(mode="json"))
    except EdgemedError as error:
        say({"fault": str(error)})
    os._exit(0)  # some drivers crash while they unload; the answers are out


class _Loop:
    """The plain decoding loop on a loaded engine's context."""

    def __init__(self, native: Any, config: EngineConfig, use_adapter: Callable[[str], None]) -> None:
        self._use_adapter = use_adapter
        self._api, self._context, self._config = native.api, native.context, config
        self._memory = self._api.llama_get_memory(self._context)
        self._vocab_size = self._api.llama_vocab_n_tokens(self._api.llama_model_get_vocab(native.model))
        self._batch = self._api.llama_batch_init(self._n_batch, 0, 1)
        self._greedy = self._api.llama_sampler_init_greedy()
        self._at = 0

    @property
    def _n_batch(self) -> int:
        return max(self._config.n_ubatch, self._config.n_slots)

    def run(self, wanted: Measurement) -> Timed:
        """Time it; the KV cache is empty again afterwards."""
        self._check(wanted)
        config, api = self._config, self._api
        threads = wanted.n_threads or config.n_threads
        api.llama_set_n_threads(self._context, threads, wanted.n_threads_batch or config.n_threads_batch or threads)
        self._forget(0)
        self._use_adapter(wanted.adapter)
        if wanted.depth:
            self._read(wanted.depth)
        rows: list[tuple[float, float, float, float]] = []
        began = time.monotonic()
        while len(rows) < wanted.repetitions and (not rows or time.monotonic() - began < wanted.at_most_s):
            if wanted.leaves is not None:
                self._use_adapter(wanted.leaves)
                self._read(1)
                self._forget(wanted.depth)
            rows.append(self._once(wanted))
            self._forget(wanted.depth)
        self._forget(0)
        prompt, answer, step, cpu = zip(*rows, strict=True)
        return Timed(prompt_s=prompt, answer_s=answer, step_s=step if wanted.answer_tokens else (), cpu_s=cpu)

    def _check(self, wanted: Measurement) -> None:
        room = self._config.n_slots * self._config.context_length
        tokens = wanted.depth + wanted.prompt_tokens + wanted.answer_tokens
        if tokens > room:
            raise UsageError(f"{tokens} tokens were to be timed; the context holds {room}.")

    def _once(self, wanted: Measurement) -> tuple[float, float, float, float]:
        cpu, began = time.process_time(), time.perf_counter()
        self._use_adapter(wanted.adapter)
        self._read(wanted.prompt_tokens)
        token = self._api.llama_sampler_sample(self._greedy, self._context, -1)
        read = time.perf_counter()
        steps, last = [], read
        for _ in range(wanted.answer_tokens):
            self._decode([token])
            token = self._api.llama_sampler_sample(self._greedy, self._context, -1)
            now = time.perf_counter()
            steps.append(now - last)
            last = now
        step = statistics.median(steps) if steps else 0.0
        return read - began, last - read, step, time.process_time() - cpu

    def _read(self, n_tokens: int) -> None:
        """Read `n_tokens` made-up tokens in batches; the last one's logits are wanted."""
        left = n_tokens
        while left:
            size = min(left, self._n_batch)
            left -= size
            # Spread over the vocabulary, and never its first tokens, which are often special ones.
            ids = [(1000 + 7919 * (self._at + n)) % self._vocab_size for n in range(size)]
            self._decode(ids, wants_logits=left == 0)

    def _decode(self, ids: list[int], *, wants_logits: bool = True) -> None:
        batch = self._batch
        for n, token in enumerate(ids):
            batch.token[n], batch.pos[n], batch.n_seq_id[n], batch.seq_id[n][0] = token, self._at + n, 1, 0
            batch.logits[n] = wants_logits and n == len(ids) - 1
        batch.n_tokens = len(ids)
        code = self._api.llama_decode(self._context, batch)
        if code != 0:
            raise EngineFailed(f"llama.cpp refused a step of {len(ids)} tokens with code {code}.")
        self._api.llama_synchronize(self._context)
        self._at += len(ids)

    def _forget(self, position: int) -> None:
        self._api.llama_memory_seq_rm(self._memory, 0, position, -1)
        self._at = position
