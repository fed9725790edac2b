"""An engine in a process of its own, watched: started, restarted, and closed in bounded time.

A malformed model, a driver's fault or the system's memory killer ends the child, not the server. Then
    running requests end with a retryable ErrorEvent: half an answer cannot be continued safely,
    requests that had not begun wait for the next child, and nobody notices more than a delay; they are then
    sent one at a time, and one whose sending ends a second child fails for good,
    a new child is started after a pause that doubles; after too many all requests fail until it has rested,
    on a lower rung of the plan's ladder where memory or a device was lost (ladder.py says when, and when back).
A child that shows no progress for too long while it has work is taken for hung and killed; stall.py says how long that
is. After a sleep of the machine devices are looked for again.

Threads: callers; one that starts and watches the children (it lives as long as they do, because Linux ends a
child with the thread that began it); one per child that reads its events. One lock guards the tables and is
held while `on_event` runs, which makes "exactly one terminal event" simple: `on_event` must not wait for others.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

from edgemed.core.errors import EdgemedError, EngineFailed, EngineLost, MissingExtra
from edgemed.core.privacy import place_of
from edgemed.core.progress import Progress, SilentProgress
from edgemed.core.prompt import PromptPart
from edgemed.engines import wire
from edgemed.engines.balance import Balance
from edgemed.engines.base import DoneEvent, EngineConfig, EngineHealth, EngineInfo, GenerationRequest, OnEvent
from edgemed.engines.calls import Calls
from edgemed.engines.child import Child, ChildProcess, StartChild
from edgemed.engines.embedding import decode_vector, embedded_tokens
from edgemed.engines.fallback import Fallback, Hung, Loss
from edgemed.engines.in_flight import InFlight, check_fits
from edgemed.engines.limits import Limits
from edgemed.engines.load_progress import LoadProgress
from edgemed.engines.sleep import CLOCKS_GO_ON
from edgemed.engines.stall import StallLimit

_log = logging.getLogger(__name__)
_State = Literal["starting", "ready", "restarting", "failed", "closed"]


class EngineProcess:
    """`Engine` over a supervised child process. Call `start` before anything else.

    Without a balance there is no ladder, no warm-up and no change of threads: for short jobs. `start_child` stands in
    for ChildProcess in tests.
    """

    def __init__(
        self,
        config: EngineConfig,
        limits: Limits | None = None,
        balance: Balance | None = None,
        start_child: StartChild | None = None,
    ) -> None:
        self._limits = limits or Limits()
        self._start_child = start_child
        self._fallback = Fallback(config, self._limits, balance)
        self._ladder = self._fallback.ladder
        self._stall = StallLimit(self._limits)
        self._changed = threading.Condition(threading.RLock())
        self._requests = InFlight(self._send_line)
        self._calls = Calls(self._changed, self._ready_child, self._has_left)
        self._state: _State = "starting"
        self._detail = ""
        self._failure: EdgemedError | None = None
        self._info: EngineInfo | None = None
        self._loading = LoadProgress(self._changed)
        self._child: Child | None = None
        self._child_ended = False
        self._leaving = False
        """The child was told to end, for one on another rung; what it still says is not heard."""
        self._progress_at = self._idle_since = time.monotonic()
        self._restarts = 0
        self._cells: tuple[int, int] | None = None
        """Of the KV cache: those that hold a token, and all; None until the child has said it."""
        self._worn_out = False
        """It failed by too many losses, and not for a reason that stays."""
        self._stood_still = False
        """The last look came much later than it was due: the whole machine did."""
        self._pinned = b""
        """The PIN line, once there is one."""
        self._watcher = threading.Thread(target=self._supervise, name="engine-watch", daemon=True)

    def start(self, progress: Progress | None = None) -> None:
        """Load the model, warmed up and on the first rung that runs; returns when it answers.

        Raises ModelRefused before native code has seen a damaged file, EngineFailed when loading fails or
        stalls on every rung, MissingExtra without the binding. Ctrl-C ends the child and passes on.
        """
        if self._start_child is None:
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
        return list(self._ask(lambda number: wire.encode_parts(number, parts), self._limits.tokenize_s))

    def embed(self, token_ids: Sequence[int]) -> list[float]:
        """The embedding of a text. Waits for the engine up to `embed_s`, and is sent again as in `tokenize`.

        Raises UsageError for no tokens, EngineFailed when the model cannot embed, EngineLost.
        """
        ids = embedded_tokens(token_ids)
        vector = self._ask(lambda number: wire.encode_line([wire.EMBED, number, ids]), self._limits.embed_s)
        return decode_vector(vector)

    def submit(self, request: GenerationRequest, on_event: OnEvent) -> None:
        """Queue a request; never waits. Raises EngineFailed, or UsageError for a prompt that cannot fit."""
        with self._changed:
            check_fits(request, self._ladder.config.context_length)
            self._require_open()
            self._note_work()
            self._requests.add(request, on_event)
            self._send_waiting()

    def cancel(self, request_id: str) -> None:
        """End a request early; unknown and finished ids are ignored."""
        with self._changed:
            self._requests.cancel(request_id)

    def pin(self, prefixes: Sequence[Sequence[int]]) -> None:
        """Beginnings of prompts to share; every child from now on reads them."""
        with self._changed:
            self._pinned = wire.encode_line([wire.PIN, [list(prefix) for prefix in prefixes]])
            self._send_pinned()

    def forget_session(self, session: str) -> None:
        """Erase what is kept of a session; a child that is not ready keeps nothing."""
        with self._changed:
            self._requests.forget_session(session)
            if self._state == "ready":
                self._send_line(wire.encode_line([wire.FORGET, session]))

    def health(self) -> EngineHealth:
        """The state now, without waiting for the engine."""
        with self._changed:
            now, running, ladder = time.monotonic(), self._requests.n_begun, self._ladder
            return EngineHealth(
                state=self._state,
                running=running,
                waiting=len(self._requests) - running,
                restarts=self._restarts,
                seconds_since_progress=now - self._progress_at if self._busy() else None,
                detail=self._detail,
                rung=ladder.rung,
                cause=ladder.cause,
                reason=ladder.reason,
                pace=self._fallback.pace(now),
                pid=self.pid,
                kv_used=self._cells[0] if self._cells and self._state == "ready" else None,
                kv_cells=self._cells[1] if self._cells and self._state == "ready" else None,
            )

    def close(self) -> None:
        """End the engine and every request, with an ErrorEvent. Returns within 5 seconds."""
        with self._changed:
            if self._state == "closed":
                return
            self._state = "closed"
            self._requests.fail_all("The engine was closed.", retryable=True)
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
        warms_up = self._fallback.orders.warm_up_s > 0
        while True:
            with self._changed:
                config, rung = self._ladder.config, self._ladder.rung
            self._loading.show(progress, config, lambda: self._start_is_over(rung), warms_up=warms_up)  # noqa: B023
            with self._changed:
                state, failure, reason = self._state, self._failure, self._ladder.reason
            if state in ("failed", "closed"):
                raise failure or EngineFailed("The engine was closed while its model was being loaded.")
            if state != "starting":
                return
            progress.note(f"{reason} Trying with less.")

    def _start_is_over(self, rung: int) -> bool:
        """Whether the child on this rung is ready, or will never be."""
        return self._state != "starting" or self._ladder.rung != rung

    def _ready_child(self) -> Child:
        # A child that has just ended still counts as ready until the watch has seen it.
        self._changed.wait_for(
            lambda: self._state in ("failed", "closed") or (self._state == "ready" and not self._child_ended)
        )
        self._require_open()
        assert self._child is not None
        return self._child

    def _ask(self, line_of: Callable[[int], bytes], timeout_s: float) -> Any:
        return self._calls.ask(line_of, timeout_s, self._note_work)

    def _has_left(self, child: Child) -> bool:
        return self._child is not child or self._child_ended

    def _require_open(self) -> None:
        if self._state == "failed":
            raise self._failure or EngineFailed("The engine has failed.")
        if self._state == "closed":
            raise EngineFailed("The engine is closed.", next_step="start it again")

    def _note_work(self) -> None:
        """Start the watch's clock when there was nothing to watch."""
        if not self._busy():
            self._progress_at = self._idle_since = time.monotonic()
            self._changed.notify_all()

    def _busy(self) -> bool:
        return bool(self._requests or self._calls)

    def _send_waiting(self) -> None:
        if self._state == "ready" and not self._child_ended:
            assert self._info is not None
            self._requests.send_waiting(self._info.n_slots)

    def _send_pinned(self) -> None:
        if self._pinned and self._state == "ready":
            self._send_line(self._pinned)

    def _send_line(self, line: bytes) -> None:
        if self._child is not None:
            self._child.send(line)

    # What the child's reading thread does.

    def _hear(self, rows: list[Any]) -> None:
        with self._changed:
            self._note_progress(rows)
            if self._leaving:
                return
            for row in rows:
                if not self._requests.hear(row):
                    self._hear_control(row)
            self._send_waiting()

    def _note_progress(self, rows: list[Any]) -> None:
        """A step was done, or something was loaded. Cutting text into tokens is no step: a child whose steps hang still
        can."""
        kinds = {row[0] for row in rows}
        if kinds == {wire.TOKENS} and self._requests:
            return
        now, rung = time.monotonic(), self._ladder.rung
        if wire.WARMING in kinds or (self._state == "ready" and self._busy()):
            self._stall.note_step(rung, now - self._progress_at)
        self._progress_at = now
        for row in rows:
            if row[0] == wire.DONE and row[2] in ("stop", "length"):
                done = wire.decode_event(row)
                assert isinstance(done, DoneEvent)
                self._stall.note_prompt(rung, done.prompt_tokens - done.cached_tokens, self._ladder.config.n_ubatch)
                self._fallback.answered()

    def _hear_control(self, row: list[Any]) -> None:
        kind = row[0]
        if kind == wire.CELLS:
            self._cells = (row[1], row[2])
            return
        if kind == wire.PACE:
            self._fallback.note(wire.decode_block(row), time.monotonic())
            return
        if kind == wire.LOADING:
            self._loading.read(row[1])
        elif kind == wire.WARMING:
            self._loading.warmed(row[1])
        elif kind in (wire.TOKENS, wire.VECTOR):
            self._calls.hear(row)
        elif kind == wire.FAILED:
            self._failure = wire.error_of(row)
        elif kind == wire.READY and self._state in ("starting", "restarting"):
            self._take_ready(EngineInfo.model_validate(row[1]))
        self._changed.notify_all()

    def _take_ready(self, info: EngineInfo) -> None:
        if self._fallback.lacks_devices(info):
            self._failure = EngineLost("The engine has no device to put its layers on.")
            assert self._child is not None
            self._child.kill()
            return
        self._info, self._state, self._cells = info, "ready", None
        self._stall.note_prompt(self._ladder.rung, info.warm_up_tokens, self._ladder.config.n_ubatch)
        self._loading.warmed(1.0)
        self._send_pinned()
        self._fallback.took(info, time.monotonic())
        self._requests.refuse_too_long(info.context_length)

    def _end_of_child(self) -> None:
        with self._changed:
            self._child_ended = True
            self._changed.notify_all()

    # What the watching thread does.

    def _supervise(self) -> None:
        try:
            while self._launch():
                self._watch()
                if not self._pause(self._recover()) and not self._rest():
                    return
        except Exception as error:  # this thread's door: without it everybody would wait for ever
            _log.error("The engine's watch failed: %s.", place_of(error))
            self._fail(EngineFailed(f"The engine's watch met a fault of its own: {type(error).__name__}."))

    def _pause(self, seconds: float) -> bool:
        """Wait before the next child; False when there is to be none."""
        end = time.monotonic() + seconds
        with self._changed:
            while self._state not in ("closed", "failed"):
                now = time.monotonic()
                if now >= end:
                    return True
                self._requests.expire_unsent(now)
                self._changed.wait(min(end - now, self._limits.tick_s))
        return False

    def _rest(self) -> bool:
        """After too many losses: wait, then True for one more try; False when there is to be none."""
        end = time.monotonic() + self._limits.rest_s
        with self._changed:
            while self._state == "failed" and self._worn_out:
                now = time.monotonic()
                if now >= end:
                    self._worn_out = False
                    self._fallback.rested()
                    self._begin_restart("It had failed too often, has rested, and is tried again.")
                    return True
                self._changed.wait(end - now)
        return False

    def _launch(self) -> bool:
        """True when a new child is on its way."""
        try:
            # Every time: native code never sees a file that the bounds-checked reader has not passed.
            from edgemed.models.gguf import check_gguf

            config = self._ladder.config
            check_gguf(config.model_path)
            with self._changed:
                if self._state == "closed":
                    return False
                self._failure = None
                self._child_ended = self._leaving = False
                self._loading.begin()
                self._progress_at = time.monotonic()
                start = self._start_child or ChildProcess
                self._child = start(config, self._fallback.orders, self._hear, self._end_of_child)
                return True
        except EdgemedError as error:
            self._fail(error)
        except OSError as error:
            self._fail(EngineFailed(f"The engine's process could not be started: {error.strerror or error}."))
        return False

    def _watch(self) -> None:
        """Return when the child has ended; kill it when it is hung, leave it for another rung when that is better."""
        child = self._child
        assert child is not None
        while self._tick(child):
            if self._fallback.slept_s() or (CLOCKS_GO_ON and self._stood_still):
                self._wake_up()
            self._climb_if_due()
        while not child.wait(self._limits.close_s):
            child.kill()

    def _tick(self, child: Child) -> bool:
        """One look at the child; False when there is nothing left to look at."""
        with self._changed:
            if self._is_over():
                return False
            quiet = self._state == "ready" and not self._busy()
            began = time.monotonic()
            wait_s = self._fallback.look_s if quiet else self._limits.tick_s
            self._changed.wait(wait_s)
            now = time.monotonic()
            late_s = now - began - (wait_s or 0.0)
            self._stood_still = wait_s is not None and late_s > 10 * self._limits.tick_s
            if self._stood_still:
                self._progress_at = max(self._progress_at, now)
                self._requests.not_charged(late_s)
            if self._busy():
                self._idle_since = now
            self._requests.expire_unsent(now)
            if self._hung(now):
                child.kill()
            if self._state == "ready" and not self._child_ended and self._fallback.squeezed(now, busy=self._busy()):
                self._leave(self._ladder.reason)
            return not self._is_over()

    def _is_over(self) -> bool:
        return self._child_ended or self._leaving or self._state == "closed"

    def _wake_up(self) -> None:
        """The machine has slept: look for the devices again, without the lock, and forget how fast it was."""
        _log.info("The computer slept; its devices are looked at again.")
        state = self._fallback.look() if self._ladder.knows_devices else None
        with self._changed:
            now = time.monotonic()
            self._progress_at = max(self._progress_at, now)
            if not self._is_over() and self._fallback.woke(state, now):
                self._leave(self._ladder.reason)

    def _climb_if_due(self) -> None:
        """Move up when nobody asks and a better rung's resources are there; devices are asked for without the lock."""
        with self._changed:
            now = time.monotonic()
            idle_s = 0.0 if self._busy() else now - self._idle_since
            if self._state != "ready" or self._is_over() or not self._ladder.climb_due(now, idle_s):
                return
        state = self._fallback.look()
        with self._changed:
            if self._busy() or self._is_over():
                return
            if self._ladder.climb(state, time.monotonic()):
                self._leave("Memory and devices seem to be there again.")

    def _leave(self, why: str) -> None:
        """End the child for one on the rung that the ladder now stands on."""
        _log.warning("%s The engine is started again on rung %d of its plan.", why, self._ladder.rung)
        self._leaving = True
        self._begin_restart(why)
        self._requests.end_begun(f"{why} The answer is incomplete: ask again.", blame=False)
        assert self._child is not None
        self._child.close_input()

    def _begin_restart(self, detail: str) -> None:
        self._state, self._detail = "restarting", detail
        self._restarts += 1
        self._changed.notify_all()

    def _hung(self, now: float) -> bool:
        loading = self._state in ("starting", "restarting")
        if self._child_ended or not (loading or self._busy()):
            return False
        limit = self._limits.load_stall_s if loading else self._stall.limit_s(self._ladder.rung)
        if now - self._progress_at <= limit:
            return False
        self._failure = Hung(f"The engine made no progress for {limit:.0f} s and was ended.")
        return True

    def _recover(self) -> float:
        """Settle the accounts of a child that has ended; seconds to wait before the next one."""
        with self._changed:
            child = self._child
            assert child is not None
            self._child_ended = True
            if self._state == "closed" or self._leaving:
                return 0.0
            error = self._failure or EngineLost(child.epitaph())
            starting = self._state == "starting"
            loss = Loss(error, child.cause(), loaded=self._state == "ready")
            verdict = self._fallback.after_loss(loss, time.monotonic())
            if starting and not verdict.moved:
                self._fail(error)
                return 0.0
            _log.warning("%s", error.what)
            self._requests.end_begun(f"{error.what} The answer is incomplete: ask again.", blame=not verdict.moved)
            if verdict.pause_s is None:
                self._worn_out = True
                self._fail(self._too_often(error))
                return 0.0
            self._loading.begin()
            if starting:
                self._changed.notify_all()
            else:
                self._begin_restart(error.what)
            return verdict.pause_s

    def _too_often(self, error: EdgemedError) -> EngineFailed:
        n_losses, minutes = self._limits.max_restarts + 1, self._limits.window_s / 60
        return EngineFailed(
            f"The engine ended {n_losses} times within {minutes:.0f} minutes. {error.what}",
            next_step="start again with fewer layers on the GPU or a shorter context",
        )

    def _fail(self, error: EdgemedError) -> None:
        with self._changed:
            if self._state != "closed":
                self._state = "failed"
            self._failure = error
            self._detail = error.what
            self._requests.fail_all(str(error), retryable=False)
            self._changed.notify_all()


def _require_binding() -> None:
    import importlib.util

    if importlib.util.find_spec("llama_cpp") is None:
        raise MissingExtra("llama-cpp-python", "llama-cpp")
