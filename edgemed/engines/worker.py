"""The engine's process: loads one model, then answers commands from its input until that ends.

Two threads. The reader hears commands, cuts text into tokens, and ends the process when the input ends, also in
the middle of a step: there is nothing to save. The main thread runs the batch and sleeps while there is none.
Started by the supervisor with its own pipes; nothing else may be printed, so stdout is turned to stderr.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

from edgemed.core.errors import EdgemedError, EngineFailed
from edgemed.core.offline import forbid_outgoing_connections
from edgemed.core.privacy import forbid_core_dumps, forbid_tracebacks
from edgemed.core.settings import (
    ENGINE_ENVIRONMENT,
    OFFLINE_ENVIRONMENT,
    WITHOUT_DEVICES_ENVIRONMENT,
    set_environment,
)
from edgemed.core.units import MIB
from edgemed.engines import wire
from edgemed.engines.balance import WorkerOrders
from edgemed.engines.base import EngineConfig
from edgemed.engines.embedding import encode_vector
from edgemed.engines.llama_cpp import LlamaCpp
from edgemed.engines.scheduler import Scheduler
from edgemed.engines.thread_balance import ThreadBalance
from edgemed.engines.warm_up import warm_up

_MOST_REFUSED_STEPS = 3
"""Refused steps in a row after which the process gives up; the supervisor starts a new one."""
_CELLS_S = 1.0
"""How often the parent is told of a KV cache that fills or empties."""
_REPORT_S = 0.5
"""How often the warm-up says how far it is."""
_READER_STACK_BYTES = 64 * MIB
"""For llama.cpp's std::regex; see its adapter."""
_PR_SET_PDEATHSIG = 1
"""prctl(2)."""


def main() -> None:
    """The body of the process: configuration, the parent's id and orders (JSON) are its arguments."""
    commands, events = _take_pipes()
    config = EngineConfig.model_validate_json(sys.argv[1])
    _harden(parent=int(sys.argv[2]))
    orders = WorkerOrders.model_validate_json(sys.argv[3]) if len(sys.argv) > 3 else WorkerOrders()
    set_environment(ENGINE_ENVIRONMENT)
    if orders.hides_devices:
        set_environment(WITHOUT_DEVICES_ENVIRONMENT)
    if config.offline:
        set_environment(OFFLINE_ENVIRONMENT)
        forbid_outgoing_connections()
    worker = _Worker(commands, events)
    try:
        worker.run(config, orders)
    except EdgemedError as error:
        worker.send(wire.encode_line([wire.failed_row(error)]))
        os._exit(error.exit_code)
    except Exception as error:  # the one door of this process; its words go to the parent without a traceback
        place = _place_of(error)
        fault = EngineFailed(f"The engine's process met a fault of its own: {type(error).__name__} in {place}.")
        worker.send(wire.encode_line([wire.failed_row(fault)]))
        os._exit(fault.exit_code)


class _Worker:
    def __init__(self, commands: IO[bytes], events: IO[bytes]) -> None:
        self._commands = commands
        self._events = events
        self._inbox: SimpleQueue[list[Any]] = SimpleQueue()
        self._writing = threading.Lock()
        self._engine: LlamaCpp | None = None
        self._texts: deque[list[Any]] = deque()
        """EMBED rows: the first is being read, the others wait."""
        self._told_cells, self._told_at = (-1, 0), 0.0

    def run(self, config: EngineConfig, orders: WorkerOrders) -> None:
        """Load the model, warm it up if ordered, then serve; returns never."""
        threading.stack_size(_READER_STACK_BYTES)
        threading.Thread(target=self._read, name="commands", daemon=True).start()
        engine = LlamaCpp(config, lambda done: self.send(wire.encode_line([[wire.LOADING, done]])))
        info = engine.info.model_copy(update={"warm_up_tokens": self._warm_up(engine, orders.warm_up_s)})
        self._engine = engine
        self.send(wire.encode_line([[wire.READY, info.model_dump(mode="json")]]))
        balance = ThreadBalance(engine, config, self.send, adapts=orders.adapts_threads)
        self._serve(Scheduler(engine, time.monotonic, balance.times.decode))

    def _warm_up(self, engine: LlamaCpp, limit_s: float) -> int:
        """Tokens read; says every second how far it is, so that nobody takes it for hung."""
        if limit_s <= 0:
            return 0
        said = time.monotonic()

        def report(n_read: int) -> None:
            nonlocal said
            if (now := time.monotonic()) - said >= _REPORT_S:
                said = now
                self.send(wire.encode_line([[wire.WARMING, n_read / engine.context_length]]))

        return warm_up(engine, engine.info.vocab_size, limit_s, time.monotonic, report)

    def send(self, line: bytes) -> None:
        """Write one line to the parent; ends the process when nobody listens any more."""
        try:
            with self._writing:
                self._events.write(line)
                self._events.flush()
        except OSError:
            os._exit(0)

    def _serve(self, scheduler: Scheduler) -> None:
        refused = 0
        while True:
            self._take_commands(scheduler)
            if self._texts:
                self._embed_chunk()
                if scheduler.idle:
                    continue
            if begun := scheduler.admit():
                # Said before the step: should the step kill this process, they must not be tried again.
                self.send(wire.encode_line([[wire.BEGUN, request_id] for request_id in begun]))
            if told := scheduler.drain():  # places, which must not wait for a long step
                self.send(wire.encode_events(told))
            try:
                events = scheduler.step()
                refused = 0
            except EngineFailed as error:
                refused += 1
                if refused >= _MOST_REFUSED_STEPS:
                    raise
                scheduler.fail_running(f"The engine refused a step. {error.what}")
                events = scheduler.drain()
            self.send(wire.encode_events(events))
            self._tell_cells(scheduler, _CELLS_S)

    def _tell_cells(self, scheduler: Scheduler, after_s: float = 0.0) -> None:
        """Say how full the KV cache is, if that has changed and was not said within `after_s`."""
        cells, now = scheduler.kv_cells, time.monotonic()
        if cells != self._told_cells and now - self._told_at >= after_s:
            self._told_cells, self._told_at = cells, now
            self.send(wire.encode_line([[wire.CELLS, *cells]]))

    def _take_commands(self, scheduler: Scheduler) -> None:
        """Hand all waiting commands to the scheduler; sleeps until there is one when nothing else is to do."""
        inbox = self._inbox
        while not inbox.empty() or (scheduler.idle and not self._texts):
            if inbox.empty():
                self._tell_cells(scheduler)
            row = inbox.get()
            if row[0] == wire.SUBMIT:
                request, age_s = wire.decode_request(row)
                scheduler.submit(request, time.monotonic() - age_s)
            elif row[0] == wire.EMBED:
                self._texts.append(row)
            elif row[0] == wire.CANCEL:
                scheduler.cancel(row[1])
            elif row[0] == wire.PIN:
                scheduler.pin(row[1])
            elif row[0] == wire.FORGET:
                scheduler.forget_session(row[1])

    def _embed_chunk(self) -> None:
        """Read one chunk of the oldest text, so that the batch waits for no more than that."""
        assert self._engine is not None
        _, number, ids = self._texts[0]
        try:
            vector = self._engine.embed_chunk(number, ids)
            answer = None if vector is None else [wire.VECTOR, number, encode_vector(vector)]
        except EdgemedError as error:
            answer = [wire.VECTOR, number, None, wire.failed_row(error)]
        if answer is not None:
            self._texts.popleft()
        self.send(wire.encode_line([] if answer is None else [answer]))  # [] tells the watch of the progress

    def _read(self) -> None:
        try:
            for line in self._commands:
                self._hear(json.loads(line))
        except Exception:  # a deaf engine helps nobody: end, and be started again
            os._exit(EngineFailed.exit_code)
        os._exit(0)

    def _hear(self, row: list[Any]) -> None:
        if row[0] == wire.TOKENIZE:
            self.send(wire.encode_line([self._tokenize(row)]))
        else:
            self._inbox.put(row)

    def _tokenize(self, row: Sequence[Any]) -> list[Any]:
        engine, number = self._engine, row[1]
        if engine is None:
            return [wire.TOKENS, number, None, wire.failed_row(EngineFailed("The model is still being loaded."))]
        try:
            return [wire.TOKENS, number, engine.tokenize(wire.decode_parts(row))]
        except EdgemedError as error:
            return [wire.TOKENS, number, None, wire.failed_row(error)]


def _take_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """The command and event pipes under numbers of their own; libraries may print, to stderr."""
    commands = os.fdopen(os.dup(0), "rb")
    events = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return commands, events


def _harden(parent: int) -> None:
    """No core file with a patient's words, no signal meant for the parent, no life without the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a service manager sends it to both; the parent ends us in order
    forbid_core_dumps()
    forbid_tracebacks()
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(0)


def _place_of(error: Exception) -> str:
    import traceback

    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"
