"""An engine in a process of its own, watched: started, restarted, and closed in bounded time.

A malformed model, a driver's fault or the system's memory killer ends the child, not the server. Then
    running requests end with a retryable ErrorEvent: half an answer cannot be continued safely,
    requests that had not begun wait for the next child, and nobody notices more than a delay; they are then
    sent one at a time, and one whose sending ends a second child fails for good,
    a new child is started after a pause that doubles, until there were too many.
A child that shows no progress for too long while it has work is taken for hung and killed.

Threads: callers; one that starts and watches the children (it lives as long as they do, because Linux ends a
child with the thread that began it); one per child that reads its events. One lock guards the tables and is
held while `on_event` runs, which makes "exactly one terminal event" simple: `on_event` must not wait for others.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgemed.core.errors import EdgemedError, EngineFailed, EngineLost, MissingExtra, UsageError
from edgemed.core.progress import Progress, SilentProgress
from edgemed.core.prompt import PromptPart
from edgemed.engines import wire
from edgemed.engines.base import (
    DoneEvent,
    EngineConfig,
    EngineHealth,
    EngineInfo,
    ErrorEvent,
    Event,
    FinishReason,
    GenerationRequest,
    OnEvent,
)
from edgemed.engines.child import ChildProcess
from edgemed.engines.embedding import decode_vector, embedded_tokens
from edgemed.engines.limits import Limits, RestartBudget

_log = logging.getLogger(__name__)
_State = Literal["starting", "ready", "restarting", "failed", "closed"]

_MOST_LOSSES = 2
"""Children that one question may cost; with more, it would use up the restarts that all share."""
_GIVEN_UP = f"The engine's process ended {_MOST_LOSSES} times when it was given this question. Ask in other words."


@dataclass(slots=True)
class _Request:
    request: GenerationRequest
    on_event: OnEvent
    submitted: float
    sent: bool = False
    begun: bool = False
    cancelled: bool = False
    losses: int = 0
    """Children that ended after the request was sent to them and before they began it."""


class EngineProcess:
    """`Engine` over a supervised child process. Call `start` before anything else."""

    def __init__(self, config: EngineConfig, limits: Limits | None = None) -> None:
        self._config = config
        self._limits = limits or Limits()
        self._changed = threading.Condition(threading.RLock())
        self._requests: dict[str, _Request] = {}
        self._answers: dict[int, list[Any] | None] = {}
        """Numbers of tokenize and embed calls that wait, with their answer once it has come."""
        self._number = 0
        self._state: _State = "starting"
        self._detail = ""
        self._failure: EdgemedError | None = None
        self._info: EngineInfo | None = None
        self._loaded = 0.0
        self._child: ChildProcess | None = None
        self._child_ended = False
        self._progress_at = time.monotonic()
        self._budget = RestartBudget(self._limits)
        self._restarts = 0
        self._watcher = threading.Thread(target=self._supervise, name="engine-watch", daemon=True)

    def start(self, progress: Progress | None = None) -> None:
        """Load the model; returns when it answers.

        Raises ModelRefused before native code has seen a damaged file, EngineFailed when loading fails or
        stalls, MissingExtra without the binding. Ctrl-C ends the child and passes on.
        """
        _require_binding()
        with self._changed:
            if not self._watcher.is_alive() and self._state == "starting":
                self._watcher.start()
        try:
            self._wait_loaded(progress or SilentProgress())
        except BaseException:
            self.close()
            raise

    @property
    def info(self) -> EngineInfo:
        """What is loaded; waits while it is being loaded. Raises EngineFailed when that failed."""
        with self._changed:
            self._changed.wait_for(lambda: self._info or self._state in ("failed", "closed"))
            if self._info is None:
                raise self._failure or EngineFailed("The engine was closed before its model was loaded.")
            return self._info

    @property
    def pid(self) -> int | None:
        """Process id of the running child; None while there is none."""
        with self._changed:
            return self._child.pid if self._child and not self._child_ended else None

    def tokenize(self, parts: list[PromptPart]) -> list[int]:
        """Token ids of the prompt. Waits for the engine: up to `tokenize_s`, and longer while it is loading.

        A text that was with a child when it ended is sent to the next one. Raises EngineFailed, EngineLost when
        asking again may help, UsageError for a text that is no prose.
        """
        return list(self._call(lambda number: wire.encode_parts(number, parts), self._limits.tokenize_s))

    def embed(self, token_ids: Sequence[int]) -> list[float]:
        """The embedding of a text. Waits for the engine up to `embed_s`, and is sent again as in `tokenize`.

        Raises UsageError for no tokens, EngineFailed when the model cannot embed, EngineLost.
        """
        ids = embedded_tokens(token_ids)
        vector = self._call(lambda number: wire.encode_line([wire.EMBED, number, ids]), self._limits.embed_s)
        return decode_vector(vector)

    def submit(self, request: GenerationRequest, on_event: OnEvent) -> None:
        """Queue a request; never waits. Raises EngineFailed, or UsageError for a prompt that cannot fit."""
        _check_fits(request, self._config.context_length)
        with self._changed:
            self._require_open()
            if request.id in self._requests:
                raise UsageError(f"A request with the id {request.id!r} is already running.")
            self._note_work()
            entry = _Request(request, on_event, time.monotonic())
            self._requests[request.id] = entry
            self._send_waiting()

    def cancel(self, request_id: str) -> None:
        """End a request early; unknown and finished ids are ignored."""
        with self._changed:
            entry = self._requests.get(request_id)
            if entry is None:
                return
            entry.cancelled = True
            if entry.sent and self._child is not None:
                self._child.send(wire.encode_line([wire.CANCEL, request_id]))
            else:
                self._end_unsent(entry, "cancelled")

    def health(self) -> EngineHealth:
        """The state now, without waiting for the engine."""
        with self._changed:
            running = sum(entry.begun for entry in self._requests.values())
            return EngineHealth(
                state=self._state,
                running=running,
                waiting=len(self._requests) - running,
                restarts=self._restarts,
                seconds_since_progress=time.monotonic() - self._progress_at if self._busy() else None,
                detail=self._detail,
            )

    def close(self) -> None:
        """End the engine and every request, with an ErrorEvent. Returns within 5 seconds."""
        with self._changed:
            if self._state == "closed":
                return
            self._state = "closed"
            self._fail_all("The engine was closed.", retryable=True)
            child = self._child
            self._changed.notify_all()
        if child is not None:
            child.close_input()
            if not child.wait(self._limits.close_s):
                child.kill()
                child.wait(self._limits.close_s)
        inside = threading.current_thread() is self._watcher or (child is not None and child.in_its_thread())
        if self._watcher.is_alive() and not inside:  # inside an event the lock is held, and the watch needs it to end
            self._watcher.join(self._limits.close_s)

    # What callers' threads do with the lock held.

    def _wait_loaded(self, progress: Progress) -> None:
        shown = 0.0
        with progress.task(f"Loading {self._config.model_path.name}", 100, "%") as task:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._loaded > shown or self._state != "starting")  # noqa: B023
                    loaded, state, failure = self._loaded, self._state, self._failure
                task.advance((loaded - shown) * 100)
                shown = loaded
                if state in ("failed", "closed"):
                    raise failure or EngineFailed("The engine was closed while its model was being loaded.")
                if state != "starting":
                    return

    def _ready_child(self) -> ChildProcess:
        # A child that has just ended still counts as ready until the watch has seen it.
        self._changed.wait_for(
            lambda: self._state in ("failed", "closed") or (self._state == "ready" and not self._child_ended)
        )
        self._require_open()
        assert self._child is not None
        return self._child

    def _call(self, line_of: Callable[[int], bytes], timeout_s: float) -> Any:
        """The child's answer to a numbered command; a second child is asked when the first one ends meanwhile."""
        with self._changed:
            for _ in range(_MOST_LOSSES):
                row = self._answer_row(self._ready_child(), line_of, timeout_s)
                if row is not None:
                    break
            else:
                raise EngineFailed(
                    f"The engine's process ended {_MOST_LOSSES} times while it read this question.",
                    next_step="ask in other words",
                )
        if row[2] is None:
            raise wire.error_of(row[3])
        return row[2]

    def _answer_row(self, child: ChildProcess, line_of: Callable[[int], bytes], timeout_s: float) -> list[Any] | None:
        """The child's answer; None when it ended before it answered. Raises EngineLost when it takes too long."""
        self._number += 1
        number = self._number
        self._note_work()
        self._answers[number] = None
        child.send(line_of(number))
        over = self._changed.wait_for(
            lambda: self._answers[number] is not None or self._child is not child or self._child_ended,
            timeout_s,
        )
        row = self._answers.pop(number)
        if not over:
            raise EngineLost("The engine did not read the text in time.", next_step="ask again")
        return row

    def _require_open(self) -> None:
        if self._state == "failed":
            raise self._failure or EngineFailed("The engine has failed.")
        if self._state == "closed":
            raise EngineFailed("The engine is closed.", next_step="start it again")

    def _note_work(self) -> None:
        """Start the watch's clock when there was nothing to watch."""
        if not self._busy():
            self._progress_at = time.monotonic()
            self._changed.notify_all()

    def _busy(self) -> bool:
        return bool(self._requests or self._answers)

    def _send_waiting(self) -> None:
        """Send what waits: all of it, so that no slot is ever idle.

        While one of them was there when a child ended, only one that can begin at once: that shows whose fault it is.
        """
        if self._state != "ready" or self._child_ended:
            return
        assert self._info is not None
        for entry in self._requests.values():
            if entry.sent:
                continue
            if any(other.losses and not other.begun for other in self._requests.values()):
                sent = [other for other in self._requests.values() if other.sent]
                if len(sent) >= self._info.n_slots or not all(other.begun for other in sent):
                    return
            self._send(entry)

    def _send(self, entry: _Request) -> None:
        assert self._child is not None
        entry.sent = True
        self._child.send(wire.encode_request(entry.request, time.monotonic() - entry.submitted))

    # What the child's reading thread does.

    def _hear(self, rows: list[Any]) -> None:
        with self._changed:
            self._progress_at = time.monotonic()
            for row in rows:
                kind = row[0]
                if kind == wire.TEXT:
                    if entry := self._requests.get(row[1]):
                        self._deliver(entry, wire.decode_event(row))
                elif kind in (wire.DONE, wire.ERROR):
                    if entry := self._requests.pop(row[1], None):
                        self._deliver(entry, wire.decode_event(row))
                elif kind == wire.BEGUN:
                    if entry := self._requests.get(row[1]):
                        entry.begun = True
                else:
                    self._hear_control(row)
            self._send_waiting()

    def _hear_control(self, row: list[Any]) -> None:
        kind = row[0]
        if kind == wire.LOADING:
            self._loaded = max(self._loaded, min(row[1], 1.0))
        elif kind in (wire.TOKENS, wire.VECTOR) and row[1] in self._answers:
            self._answers[row[1]] = row
        elif kind == wire.FAILED:
            self._failure = wire.error_of(row)
        elif kind == wire.READY and self._state in ("starting", "restarting"):
            self._info = EngineInfo.model_validate(row[1])
            self._state, self._loaded = "ready", 1.0
        self._changed.notify_all()

    def _deliver(self, entry: _Request, event: Event) -> None:
        try:
            entry.on_event(event)
        except Exception as error:  # a caller's fault must not silence the other requests
            _log.error("A request's on_event failed with %s; the request is dropped.", type(error).__name__)
            self._requests.pop(entry.request.id, None)
            if entry.sent and self._child is not None:
                self._child.send(wire.encode_line([wire.CANCEL, entry.request.id]))

    def _end_of_child(self) -> None:
        with self._changed:
            self._child_ended = True
            self._changed.notify_all()

    # What the watching thread does.

    def _supervise(self) -> None:
        try:
            while self._launch():
                self._watch()
                if not self._pause(self._recover()):
                    return
        except Exception as error:  # this thread's door: without it everybody would wait for ever
            _log.exception("The engine's watch failed.")
            self._fail(EngineFailed(f"The engine's watch met a fault of its own: {type(error).__name__}."))

    def _pause(self, seconds: float) -> bool:
        """Wait before the next child; False when there is to be none."""
        end = time.monotonic() + seconds
        with self._changed:
            while self._state not in ("closed", "failed"):
                now = time.monotonic()
                if now >= end:
                    return True
                self._expire_unsent(now)
                self._changed.wait(min(end - now, self._limits.tick_s))
        return False

    def _launch(self) -> bool:
        """True when a new child is on its way."""
        try:
            # Every time: native code never sees a file that the bounds-checked reader has not passed.
            from edgemed.models.gguf import check_gguf

            check_gguf(self._config.model_path)
            with self._changed:
                if self._state == "closed":
                    return False
                self._failure = None
                self._child_ended = False
                self._progress_at = time.monotonic()
                self._child = ChildProcess(self._config, self._hear, self._end_of_child)
                return True
        except EdgemedError as error:
            self._fail(error)
        except OSError as error:
            self._fail(EngineFailed(f"The engine's process could not be started: {error.strerror or error}."))
        return False

    def _watch(self) -> None:
        """Return when the child has ended; kill it when it is hung."""
        child = self._child
        assert child is not None
        with self._changed:
            while not self._child_ended and self._state != "closed":
                quiet = self._state == "ready" and not self._busy()
                began = time.monotonic()
                self._changed.wait(None if quiet else self._limits.tick_s)
                now = time.monotonic()
                if now - began > 10 * self._limits.tick_s:
                    self._progress_at = max(self._progress_at, now)  # the machine slept, not the child
                self._expire_unsent(now)
                if self._hung(now):
                    child.kill()
        while not child.wait(self._limits.close_s):
            child.kill()

    def _hung(self, now: float) -> bool:
        loading = self._state in ("starting", "restarting")
        if self._child_ended or not (loading or self._busy()):
            return False
        limit = self._limits.load_stall_s if loading else self._limits.step_stall_s
        if now - self._progress_at <= limit:
            return False
        self._failure = EngineFailed(f"The engine made no progress for {limit:.0f} s and was ended.")
        return True

    def _recover(self) -> float:
        """Settle the accounts of a child that has ended; seconds to wait before the next one."""
        with self._changed:
            child = self._child
            assert child is not None
            self._child_ended = True
            if self._state == "closed":
                return 0.0
            error = self._failure or EngineLost(child.epitaph())
            if self._state == "starting":
                self._fail(error)
                return 0.0
            _log.warning("%s", error.what)
            self._detail = error.what
            self._end_begun(f"{error.what} The answer is incomplete: ask again.")
            return self._plan_restart(error)

    def _plan_restart(self, error: EdgemedError) -> float:
        pause = self._budget.pause_after_loss(time.monotonic())
        if pause is None:
            n_losses, minutes = self._limits.max_restarts + 1, self._limits.window_s / 60
            self._fail(
                EngineFailed(
                    f"The engine ended {n_losses} times within {minutes:.0f} minutes. {error.what}",
                    next_step="start again with fewer layers on the GPU or a shorter context",
                )
            )
            return 0.0
        self._state = "restarting"
        self._restarts += 1
        self._changed.notify_all()
        return pause

    def _end_begun(self, message: str) -> None:
        for entry in list(self._requests.values()):
            entry.losses += entry.sent
            entry.sent = False
            if entry.cancelled:
                self._end_unsent(entry, "cancelled")
            elif entry.begun:
                del self._requests[entry.request.id]
                self._deliver(entry, ErrorEvent(message, retryable=True))
            elif entry.losses >= _MOST_LOSSES:
                del self._requests[entry.request.id]
                self._deliver(entry, ErrorEvent(_GIVEN_UP, retryable=False))

    def _expire_unsent(self, now: float) -> None:
        for entry in list(self._requests.values()):
            limit = entry.request.deadline_s
            if not entry.sent and limit is not None and now - entry.submitted >= limit:
                self._end_unsent(entry, "deadline")

    def _end_unsent(self, entry: _Request, reason: FinishReason) -> None:
        del self._requests[entry.request.id]
        waited_ms = (time.monotonic() - entry.submitted) * 1000
        self._deliver(entry, DoneEvent(reason, len(entry.request.prompt), 0, waited_ms, 0.0, waited_ms))

    def _fail(self, error: EdgemedError) -> None:
        with self._changed:
            if self._state != "closed":
                self._state = "failed"
            self._failure = error
            self._detail = error.what
            self._fail_all(str(error), retryable=False)
            self._changed.notify_all()

    def _fail_all(self, message: str, *, retryable: bool) -> None:
        entries = list(self._requests.values())
        self._requests.clear()
        for entry in entries:
            self._deliver(entry, ErrorEvent(message, retryable=retryable))


def _require_binding() -> None:
    import importlib.util

    if importlib.util.find_spec("llama_cpp") is None:
        raise MissingExtra("llama-cpp-python", "llama-cpp")


def _check_fits(request: GenerationRequest, context_length: int) -> None:
    n_tokens = len(request.prompt)
    if n_tokens == 0:
        raise UsageError("The prompt holds no token.", next_step="write a question")
    if n_tokens >= context_length:
        raise UsageError(
            f"The prompt has {n_tokens} tokens; prompt and answer together may have {context_length}.",
            next_step="shorten the question, or start with a longer --context",
        )
    if request.max_tokens < 1:
        raise UsageError(f"max_tokens is {request.max_tokens}; it must be at least 1.")
