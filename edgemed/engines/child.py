"""A running engine process as its parent holds it: the pipes, and the threads that wait on them."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import IO, Any, Protocol

from edgemed.core.settings import environment_of_engine
from edgemed.engines.balance import WorkerOrders
from edgemed.engines.base import Cause, EngineConfig
from edgemed.engines.losses import cause_of, tells_no_text

_log = logging.getLogger(__name__)
_LONGEST_LINE = 32 * 1024 * 1024
"""Bytes; a child that writes more without a newline has lost its mind."""
_BODY = "import sys; sys.path[:] = {path!r}; from edgemed.engines.worker import main; main()"


class Child(Protocol):
    """What a supervisor asks of a child process."""

    @property
    def pid(self) -> int:
        """The process id."""

    def in_its_thread(self) -> bool:
        """True in one of this child's own threads, as inside `on_rows`."""

    def send(self, line: bytes) -> None:
        """Queue a line for the child; never waits."""

    def close_input(self) -> None:
        """Order the child to exit."""

    def kill(self) -> None:
        """End the child, whatever it is doing."""

    def wait(self, timeout_s: float) -> bool:
        """True when the child has exited."""

    def epitaph(self) -> str:
        """How an exited child ended, for a person."""

    def cause(self) -> Cause:
        """Why an exited child ended."""


StartChild = Callable[[EngineConfig, WorkerOrders, Callable[[list[Any]], None], Callable[[], None]], Child]


class ChildProcess:
    """A spawned worker. `on_rows` gets each line's rows and `on_end` its end, both from the reading thread.

    Create it in a thread that lives as long as the child may: Linux ends the child with the thread that began it.
    Raises OSError when no process can be started.
    """

    def __init__(
        self,
        config: EngineConfig,
        orders: WorkerOrders,
        on_rows: Callable[[list[Any]], None],
        on_end: Callable[[], None],
    ) -> None:
        # -P keeps the current folder, perhaps a stranger's stick, out of the module path.
        body = _BODY.format(path=[entry for entry in sys.path if entry])
        command = [sys.executable, "-P", "-c", body, config.model_dump_json(), str(os.getpid())]
        command.append(orders.model_dump_json())
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment_of_engine(),
            start_new_session=True,  # a Ctrl-C is the parent's to handle
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        self._outbox: SimpleQueue[bytes | None] = SimpleQueue()
        self._words: deque[str] = deque(maxlen=5)
        self._said: Cause = "fault"
        self._killed = False
        stdin, stdout, stderr = self._process.stdin, self._process.stdout, self._process.stderr
        assert stdin is not None
        assert stdout is not None
        assert stderr is not None
        self._threads = [
            threading.Thread(target=self._write, args=(stdin,), name="engine-commands", daemon=True),
            threading.Thread(target=self._read, args=(stdout, on_rows, on_end), name="engine-events", daemon=True),
            threading.Thread(target=self._listen, args=(stderr,), name="engine-words", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def in_its_thread(self) -> bool:
        """True in one of this child's own threads, as inside `on_rows`."""
        return threading.current_thread() in self._threads

    def send(self, line: bytes) -> None:
        """Queue a line for the child; never waits, lines to a dead child are dropped."""
        self._outbox.put(line)

    def close_input(self) -> None:
        """Order the child to exit, which it does at once."""
        self._outbox.put(None)

    def kill(self) -> None:
        """End the child, whatever it is doing."""
        self._killed = True
        self._end()

    def _end(self) -> None:
        with suppress(OSError):
            self._process.kill()

    def wait(self, timeout_s: float) -> bool:
        """True when the child has exited; its threads then get the rest of `timeout_s` to end as well."""
        end = time.monotonic() + timeout_s
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        self._outbox.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.1, end - time.monotonic()))
        return True

    def epitaph(self) -> str:
        """How an exited child ended, for a person."""
        code = self._process.returncode
        said = f" Its last words: {self._words[-1]}" if self._words else ""
        if code is None:
            return "The engine's process stopped answering."
        if code >= 0:
            return f"The engine's process ended with exit code {code}.{said}"
        name = signal.Signals(-code).name if -code in {item.value for item in signal.Signals} else ""
        hint = " The machine may have run out of memory." if name == "SIGKILL" else ""
        return f"The engine's process was ended by signal {-code} {name}.{hint}{said}".replace(" .", ".")

    def cause(self) -> Cause:
        """Why an exited child ended: what its libraries wrote, and a SIGKILL that was not ours, which is the memory
        killer's."""
        if self._process.returncode == -getattr(signal, "SIGKILL", 9) and not self._killed:
            return "memory"
        return self._said

    def _write(self, stdin: IO[bytes]) -> None:
        with suppress(OSError), stdin:  # a broken pipe: the reading thread sees the end
            while (line := self._outbox.get()) is not None:
                stdin.write(line)
                stdin.flush()

    def _read(self, stdout: IO[bytes], on_rows: Callable[[list[Any]], None], on_end: Callable[[], None]) -> None:
        try:
            with stdout:
                while (line := stdout.readline(_LONGEST_LINE)).endswith(b"\n"):
                    on_rows(json.loads(line))
        except Exception as error:  # what it says makes no sense: it is ended like one that says nothing
            _log.error("The engine's process wrote a line that cannot be read: %s.", type(error).__name__)
            self.kill()
        finally:
            self._end()
            on_end()

    def _listen(self, stderr: IO[bytes]) -> None:
        with stderr:
            for line in stderr:
                if text := line.decode(errors="replace").strip():
                    if tells_no_text(text):
                        self._words.append(text[:300])
                    if self._said == "fault":
                        self._said = cause_of(text)
