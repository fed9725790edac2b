"""The engine in its own process, with the real binding: watched, restarted, closed in bounded time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Answer, ask

from edgemed.core.errors import EngineFailed, EngineLost, ModelRefused, UsageError
from edgemed.core.prompt import PromptPart
from edgemed.core.settings import ENGINE_ENVIRONMENT
from edgemed.engines import wire
from edgemed.engines.base import DoneEvent, EngineConfig, ErrorEvent, GenerationRequest, Sampling, TextEvent
from edgemed.engines.limits import Limits
from edgemed.engines.registry import open_engine
from edgemed.engines.supervisor import EngineProcess

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

CONTEXT = 20_000
LONG = CONTEXT - 100
"""An answer so long that a test can do what it wants meanwhile."""
PROMPT = tuple(range(40, 60))
posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


@contextmanager
def opened(model: Path, limits: Limits | None = None, **more: Any) -> Iterator[EngineProcess]:
    config = EngineConfig(model_path=model, **({"context_length": CONTEXT, "n_slots": 2} | more))
    engine = EngineProcess(config, limits)
    engine.start()
    try:
        yield engine
    finally:
        engine.close()


@pytest.fixture(scope="module")
def shared(endless_model: Path) -> Iterator[EngineProcess]:
    """One engine for the tests that leave it as they found it."""
    with opened(endless_model) as engine:
        yield engine


def request(name: str, max_tokens: int = 20, prompt: tuple[int, ...] = PROMPT, **more: Any) -> GenerationRequest:
    return GenerationRequest(name, prompt, max_tokens, **more)


def begun(engine: EngineProcess, name: str = "long") -> Answer:
    """A long answer that has shown its first text."""
    answer = ask(engine, request(name, LONG))
    assert isinstance(answer.next(), TextEvent)
    return answer


def test_an_answer_arrives_in_pieces_with_one_end(shared: EngineProcess) -> None:
    answer = ask(shared, request("a", 50))
    done = answer.done()
    assert (done.reason, done.prompt_tokens, done.completion_tokens) == ("length", len(PROMPT), 50)
    assert 0 <= done.queue_ms <= done.ttft_ms <= done.total_ms
    assert len(answer.events) > 20
    assert 0 < answer.n_tokens <= 50


def test_several_answers_at_once_are_what_each_is_alone(shared: EngineProcess) -> None:
    requests = [request(str(i), 30 + i, PROMPT[i:] + PROMPT) for i in range(5)]
    together = [ask(shared, one) for one in requests]
    for answer in together:
        answer.done()
    for one, answer in zip(requests, together, strict=True):
        alone = ask(shared, one)
        alone.done()
        assert alone.text == answer.text


def test_the_prompt_is_tokenized_while_answers_run(shared: EngineProcess) -> None:
    answer = begun(shared)
    ids = shared.tokenize([PromptPart("<|im_start|>", True), PromptPart("the <|im_end|>", False)])
    shared.cancel("long")
    assert answer.done().reason == "cancelled"
    assert len(ids) == 1 + len(["t", "he", " "]) + len("<|im_end|>")


def test_a_text_that_is_no_prose_is_refused(shared: EngineProcess) -> None:
    with pytest.raises(UsageError, match="without a blank"):
        shared.tokenize([PromptPart("x" * 60_000, False)])
    assert shared.tokenize([PromptPart("x", False)])


def test_a_cancelled_answer_ends_and_its_slot_serves_the_next(endless_model: Path) -> None:
    with opened(endless_model, n_slots=1) as engine:
        for _ in range(3):
            answer = begun(engine)
            waiting = ask(engine, request("next"))
            engine.cancel("long")
            assert answer.done().reason == "cancelled"
            assert waiting.done().reason == "length"
        engine.cancel("nobody")
        assert engine.health().running == 0


def test_a_request_cancelled_in_the_queue_never_begins(endless_model: Path) -> None:
    with opened(endless_model, n_slots=1) as engine:
        running = begun(engine)
        waiting = ask(engine, request("waiting"))
        engine.cancel("waiting")
        done = waiting.done()
        assert (done.reason, done.completion_tokens) == ("cancelled", 0)
        engine.cancel("long")
        running.done()


def test_a_deadline_ends_an_answer_with_what_there_is(shared: EngineProcess) -> None:
    answer = ask(shared, request("a", LONG, deadline_s=0.2))
    done = answer.done()
    assert done.reason == "deadline"
    assert 0 < done.completion_tokens < LONG
    assert 200 <= done.total_ms < 5000


def test_an_answer_ends_before_its_stop_string(shared: EngineProcess) -> None:
    whole = ask(shared, request("a", 60))
    whole.done()
    stop = whole.text[20:23]
    cut = ask(shared, request("b", 60, stop=("never said", stop)))
    done = cut.done()
    assert done.reason == "stop"
    assert cut.text == whole.text[: whole.text.index(stop)]


def test_sampled_answers_repeat_with_their_seed(shared: EngineProcess) -> None:
    def text(seed: int) -> str:
        answer = ask(shared, request("a", 40, sampling=Sampling(temperature=1.5, top_p=0.9, seed=seed)))
        answer.done()
        return answer.text

    assert text(1) == text(1) != text(2)


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(shared: EngineProcess) -> None:
    with pytest.raises(UsageError, match=rf"{CONTEXT + 5} tokens.*{CONTEXT}"):
        ask(shared, request("a", prompt=(40,) * (CONTEXT + 5)))
    assert ask(shared, request("a")).done().reason == "length"


@pytest.mark.parametrize("wrong", [{"prompt": ()}, {"max_tokens": 0}])
def test_a_request_that_makes_no_sense_is_refused(shared: EngineProcess, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ask(shared, request("a", **wrong))


def test_two_running_requests_cannot_share_an_id(shared: EngineProcess) -> None:
    answer = begun(shared)
    with pytest.raises(UsageError, match="already running"):
        ask(shared, request("long"))
    shared.cancel("long")
    answer.done()


def test_a_callers_fault_does_not_silence_the_other_requests(shared: EngineProcess) -> None:
    def faulty(_: object) -> None:
        raise ValueError

    shared.submit(request("faulty", LONG), faulty)
    other = ask(shared, request("other", 200))
    assert other.done().reason == "length"
    assert shared.health().running == 0


def test_many_threads_may_use_one_engine(shared: EngineProcess) -> None:
    ends: list[str] = []

    def use(number: int) -> None:
        for turn in range(5):
            answer = ask(shared, request(f"{number}-{turn}", 10 + number))
            if turn % 2:
                shared.cancel(f"{number}-{turn}")
            shared.tokenize([PromptPart("hello", False)])
            ends.append(answer.done().reason)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ends) == 30
    assert set(ends) <= {"length", "cancelled"}


@posix
def test_a_killed_worker_fails_the_running_and_serves_the_waiting(endless_model: Path) -> None:
    with opened(endless_model, n_slots=1) as engine:
        running = begun(engine)
        waiting = [ask(engine, request(f"waiting {i}", 10 + i)) for i in range(2)]
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        error = running.error()
        assert error.retryable
        assert "SIGKILL" in error.message
        assert [answer.done().completion_tokens for answer in waiting] == [10, 11]
        health = engine.health()
        assert (health.state, health.restarts) == ("ready", 1)
        assert ask(engine, request("again")).done().reason == "length"


@posix
def test_the_next_question_after_a_killed_worker_is_served(endless_model: Path) -> None:
    with opened(endless_model) as engine:
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        assert engine.tokenize([PromptPart("hello", False)])
        assert ask(engine, request("next")).done().reason == "length"
        assert engine.health().restarts == 1


NONSENSE = b"no line of ours\n"
"""Ends the child that reads it."""


def test_a_request_that_ends_two_workers_fails_and_those_around_it_are_served(
    endless_model: Path, monkeypatch: Any
) -> None:
    encode = wire.encode_request

    def poisoned(one: GenerationRequest, age_s: float) -> bytes:
        return NONSENSE if one.id == "poison" else encode(one, age_s)

    monkeypatch.setattr(wire, "encode_request", poisoned)
    with opened(endless_model, Limits(first_pause_s=0.01), n_slots=1) as engine:
        running = begun(engine)
        before, poison, after = (ask(engine, request(name)) for name in ("before", "poison", "after"))
        assert running.error().retryable
        error = poison.error()
        assert not error.retryable
        assert "2 times" in error.message
        assert [before.done().reason, after.done().reason] == ["length", "length"]
        assert (engine.health().state, engine.health().restarts) == ("ready", 2)


def test_a_text_that_ends_two_workers_is_refused(endless_model: Path, monkeypatch: Any) -> None:
    with opened(endless_model, Limits(first_pause_s=0.01)) as engine:
        with monkeypatch.context() as poisoned:
            poisoned.setattr(wire, "encode_parts", lambda *_: NONSENSE)
            with pytest.raises(EngineFailed, match="2 times") as caught:
                engine.tokenize([PromptPart("hello", False)])
        assert not isinstance(caught.value, EngineLost)
        assert engine.tokenize([PromptPart("hello", False)])
        assert engine.health().restarts == 2


@posix
def test_a_worker_that_is_stuck_before_it_begins_shows_no_progress(endless_model: Path) -> None:
    with opened(endless_model) as engine:
        assert engine.health().seconds_since_progress is None
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGSTOP)
        ask(engine, request("a"))
        health = engine.health()
        assert health.running == 0
        assert health.seconds_since_progress is not None


@posix
def test_a_request_made_while_the_worker_is_down_waits_for_the_next(endless_model: Path) -> None:
    with opened(endless_model, Limits(first_pause_s=0.3)) as engine:
        running = begun(engine)
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        running.error()
        assert engine.health().state == "restarting"
        late = ask(engine, request("late", deadline_s=0.1))
        given_up = ask(engine, request("given up"))
        patient = ask(engine, request("patient"))
        engine.cancel("given up")
        assert given_up.done().reason == "cancelled"
        assert late.done().reason == "deadline"
        assert patient.done().reason == "length"
        assert engine.tokenize([PromptPart("hello", False)])


@posix
def test_a_request_cancelled_just_before_the_worker_dies_is_not_tried_again(endless_model: Path) -> None:
    with opened(endless_model, n_slots=1) as engine:
        running = begun(engine)
        waiting = ask(engine, request("waiting"))
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGSTOP)  # so that the cancellation is not heard
        engine.cancel("waiting")
        engine.cancel("long")
        os.kill(engine.pid, signal.SIGKILL)
        assert [running.done().reason, waiting.done().reason] == ["cancelled", "cancelled"]
        assert ask(engine, request("again")).done().reason == "length"


@posix
def test_signals_meant_for_the_parent_do_not_end_the_worker(endless_model: Path) -> None:
    with opened(endless_model) as engine:
        running = begun(engine)
        pid = engine.pid
        assert pid is not None
        for sent in (signal.SIGINT, signal.SIGTERM):
            os.kill(pid, sent)
        assert os.getpgid(pid) != os.getpgid(0)
        engine.cancel("long")
        assert running.done().reason == "cancelled"
        assert engine.pid == pid


def test_a_worker_that_talks_nonsense_is_replaced(endless_model: Path, monkeypatch: Any) -> None:
    hear, spoil = EngineProcess._hear, threading.Event()

    def spoiled(engine: EngineProcess, rows: list[Any]) -> None:
        if spoil.is_set():
            spoil.clear()
            rows = [["t"]]
        hear(engine, rows)

    monkeypatch.setattr(EngineProcess, "_hear", spoiled)
    with opened(endless_model, Limits(first_pause_s=0.01)) as engine:
        running = begun(engine)
        spoil.set()
        assert running.error().retryable
        assert ask(engine, request("again")).done().reason == "length"


@posix
def test_a_deadline_holds_while_no_worker_runs(endless_model: Path) -> None:
    with opened(endless_model, Limits(first_pause_s=30, longest_pause_s=30, tick_s=0.05)) as engine:
        running = begun(engine)
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        running.error()
        done = ask(engine, request("late", deadline_s=0.1)).done()
        assert done.reason == "deadline"
        assert 100 <= done.total_ms < 5000


@posix
def test_a_hung_worker_is_killed_and_replaced(endless_model: Path) -> None:
    with opened(endless_model, Limits(step_stall_s=0.6, tick_s=0.1)) as engine:
        running = begun(engine)
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGSTOP)
        error = running.error()
        assert error.retryable
        assert "no progress for 1 s" in error.message
        assert ask(engine, request("again")).done().reason == "length"


@posix
def test_an_idle_worker_is_never_taken_for_hung(endless_model: Path) -> None:
    with opened(endless_model, Limits(step_stall_s=0.05, tick_s=0.02)) as engine:
        pid = engine.pid
        threading.Event().wait(0.3)
        assert ask(engine, request("a")).done().reason == "length"
        assert engine.pid == pid


@posix
def test_an_engine_that_keeps_dying_fails_for_good(endless_model: Path) -> None:
    limits = Limits(max_restarts=2, first_pause_s=0.01)
    with opened(endless_model, limits) as engine:
        for turn in range(3):
            running = begun(engine, str(turn))
            assert engine.pid is not None
            os.kill(engine.pid, signal.SIGKILL)
            running.error()
        with pytest.raises(EngineFailed, match="3 times"):
            engine.tokenize([PromptPart("a", False)])
        assert engine.health().state == "failed"
        with pytest.raises(EngineFailed, match="3 times"):
            ask(engine, request("a"))


def test_close_ends_every_request_and_returns_soon(endless_model: Path) -> None:
    with opened(endless_model, n_slots=1) as engine:
        running = begun(engine)
        waiting = ask(engine, request("waiting"))
        pid = engine.pid
        assert pid is not None
        began = time.monotonic()
        engine.close()
        assert time.monotonic() - began < 5
        assert [running.error().retryable, waiting.error().retryable] == [True, True]
        assert not psutil.pid_exists(pid)
        with pytest.raises(EngineFailed, match="closed"):
            ask(engine, request("a"))
        assert engine.health().state == "closed"


def test_the_end_of_its_input_ends_the_worker_in_the_middle_of_an_answer(endless_model: Path) -> None:
    with opened(endless_model) as engine:
        running = begun(engine)
        worker, child = psutil.Process(engine.pid), engine._child
        assert child is not None
        child.close_input()
        worker.wait(5)
        assert "exit code 0" in running.error().message


@posix
def test_close_does_not_wait_for_a_hung_worker(endless_model: Path) -> None:
    with opened(endless_model) as engine:
        running = begun(engine)
        pid = engine.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        engine.close()
        assert time.monotonic() - began < 5
        running.error()
        assert not psutil.pid_exists(pid)


def test_close_may_be_called_from_an_event(endless_model: Path) -> None:
    with opened(endless_model) as engine:
        ends: list[ErrorEvent | DoneEvent] = []
        closed = threading.Event()

        def on_event(event: object) -> None:
            if isinstance(event, ErrorEvent | DoneEvent):
                ends.append(event)
            elif not closed.is_set():
                closed.set()
                engine.close()

        engine.submit(request("a", LONG), on_event)
        assert closed.wait(20)
        assert len(ends) == 1


def test_an_idle_engine_uses_no_processor_time(endless_model: Path) -> None:
    with opened(endless_model) as engine:
        ask(engine, request("a")).done()
        child = psutil.Process(engine.pid)
        spent = []
        for _ in range(6):  # on a busy machine it is still putting the answer away in the first
            before = sum(child.cpu_times()[:2])
            threading.Event().wait(0.5)
            spent.append(sum(child.cpu_times()[:2]) - before)
            if spent[-1] <= 0.02:  # two clock ticks
                break
        assert min(spent) <= 0.02, spent


def test_the_engine_is_described_after_loading(endless_model: Path) -> None:
    titles: list[str] = []
    advanced: list[float] = []

    class Watching:
        def advance(self, amount: float = 1) -> None:
            advanced.append(amount)

        def describe(self, text: str) -> None: ...

    class Progress:
        @contextmanager
        def task(self, title: str, total: float, unit: str = "") -> Iterator[Watching]:
            titles.append(f"{title} {total} {unit}")
            yield Watching()

        def note(self, text: str) -> None: ...

    config = EngineConfig(model_path=endless_model, context_length=64)
    engine = open_engine(config, Progress())
    try:
        assert engine.info.architecture == "qwen2"
        assert titles == ["Loading endless.gguf 100 %"]
        assert sum(advanced) == pytest.approx(100)
    finally:
        engine.close()


def test_a_damaged_model_never_reaches_native_code(endless_model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(endless_model.read_bytes()[:5000])
    monkeypatch.setattr("edgemed.engines.supervisor.ChildProcess", None)
    engine = EngineProcess(EngineConfig(model_path=damaged))
    with pytest.raises(ModelRefused):
        engine.start()


def test_a_model_that_cannot_run_is_refused_with_the_childs_words(tmp_path: Path) -> None:
    from tiny_models import write_tiny_qwen2

    engine = EngineProcess(EngineConfig(model_path=write_tiny_qwen2(tmp_path / "nan.gguf", nan=True)))
    with pytest.raises(ModelRefused, match="no numbers"):
        engine.start()
    with pytest.raises(EngineFailed):
        ask(engine, request("a"))


def test_a_setting_the_engine_refuses_ends_the_start(endless_model: Path) -> None:
    engine = EngineProcess(EngineConfig(model_path=endless_model, kv_type="q8_0", flash_attention=False))
    with pytest.raises(EngineFailed, match="flash attention"):
        engine.start()


_ORPHAN = """
import os, sys, time
from pathlib import Path
from edgemed.engines.base import EngineConfig, GenerationRequest
from edgemed.engines.supervisor import EngineProcess
engine = EngineProcess(EngineConfig(model_path=Path(sys.argv[1]), context_length=20000))
engine.start()
engine.submit(GenerationRequest("a", tuple(range(40, 60)), 19000), lambda event: None)
helper = os.fork() if "fork" in sys.argv else 0  # it holds the worker's pipes open when the parent is gone
if "fork" not in sys.argv or helper:
    print(engine.pid, helper, flush=True)
time.sleep(60)
"""


@posix
@pytest.mark.parametrize(
    "how", ["", pytest.param("fork", marks=pytest.mark.skipif(sys.platform != "linux", reason="prctl of Linux"))]
)
def test_an_orphaned_worker_dies_with_its_parent(endless_model: Path, how: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", _ORPHAN, str(endless_model), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, helper = map(int, parent.stdout.readline().split())
        worker = psutil.Process(pid)
        parent.kill()
        worker.wait(5)
        if helper:
            os.kill(helper, signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_worker_writes_no_core_file_and_inherits_no_socket(shared: EngineProcess) -> None:
    folder = Path(f"/proc/{shared.pid}")
    limits = {line[:26].strip(): line[26:].split() for line in (folder / "limits").read_text().splitlines()}
    assert limits["Max core file size"][:2] == ["0", "0"]
    if os.getuid() == 0:  # for others the files of a process that may not be dumped are closed
        open_files = [str(entry.readlink()) for entry in (folder / "fd").iterdir()]
        assert not any("socket" in name for name in open_files)


def test_the_worker_sets_its_environment_before_the_library_is_loaded(endless_model: Path) -> None:
    code = """
import sys
from edgemed.engines import llama_cpp, worker
def load(config, on_progress):
    import os, socket
    from edgemed.core.errors import EngineFailed
    try:
        socket.create_connection(("192.0.2.1", 9), 0.1)
    except Exception as error:
        raise EngineFailed(repr([sorted(os.environ.items()), type(error).__name__]))
worker.LlamaCpp = load
worker.main()
"""
    config = EngineConfig(model_path=endless_model, offline=True).model_dump_json()
    command = [sys.executable, "-c", code, config, str(os.getpid())]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdout is not None
        said = child.stdout.read()
    for name, value in {**ENGINE_ENVIRONMENT, "HF_HUB_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1"}.items():
        assert f"('{name}', '{value}')" in said
    assert "OfflineViolation" in said
