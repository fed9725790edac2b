"""An engine without a model: it answers with ready words, at the pace and with the failures a test orders.

    engine = FakeEngine(answer="Give oral rehydration salts.")      # answers at once
    engine = FakeEngine(held=True); engine.release(3)               # three tokens, then it waits
    engine.fail_next(after_tokens=2)                                # the next request breaks off
    engine = FakeEngine(thought="The child is dry.")                # a reasoning model; embeds=False: no embeddings
    engine.lose_worker(); engine.restore_worker()                   # the process died and came back
    engine.move_to_rung(1, "memory", context_length=64)             # it was moved to a smaller configuration
    engine.report_pace(3.0, expected=10.0, slow=True)               # and writes slowly

One thread plays the scheduler, as in the real engine: requests queue for `n_slots`, every running one gets a
token per step, events arrive from that thread. A word with the blanks before it is one token. A grammar is not
looked at: the ready words are the answer. Log-probabilities are made up.
"""

from __future__ import annotations

import math
import re
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from edgemed.core.errors import EngineFailed
from edgemed.core.prompt import PromptPart
from edgemed.engines.base import (
    Cause,
    DoneEvent,
    DrawnToken,
    EngineHealth,
    EngineInfo,
    ErrorEvent,
    Event,
    FinishReason,
    GenerationRequest,
    OnEvent,
    Pace,
    TextEvent,
    TokenLogprob,
)
from edgemed.engines.embedding import embedded_tokens, normalised

_EMBEDDING_SIZE = 64
_HALF = math.log(0.5)
_WORD = re.compile(r"\s*\S+|\s+$")

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML, the form of the Qwen models."""

AnswerOf = Callable[[str], str]
State = Literal["starting", "ready", "restarting", "failed", "closed"]


@dataclass(slots=True)
class _Running:
    """One request between `submit` and its last event."""

    request: GenerationRequest
    on_event: OnEvent
    thoughts: deque[str]
    words: deque[str]
    cut: bool
    """The answer has more words than `max_tokens`."""
    submitted: float = field(default_factory=time.monotonic)
    first: float = 0.0
    n_tokens: int = 0
    n_thoughts: int = 0
    cancelled: bool = False
    fail_after: int | None = None

    def overdue(self, now: float) -> bool:
        limit = self.request.deadline_s
        return limit is not None and now - self.submitted >= limit

    def done(self, reason: FinishReason) -> DoneEvent:
        now = time.monotonic()
        ttft = (self.first - self.submitted) * 1000 if self.first else 0.0
        total = (now - self.submitted) * 1000
        return DoneEvent(reason, len(self.request.prompt), self.n_tokens, 0.0, ttft, total, self.n_thoughts)


class FakeEngine:
    """An `Engine` that needs no model; see the module for what can be ordered."""

    def __init__(
        self,
        answer: str | AnswerOf = "This is an answer made of ready words.",
        *,
        n_slots: int = 1,
        context_length: int = 512,
        seconds_per_token: float = 0.0,
        held: bool = False,
        model_name: str = "fake",
        thought: str = "",
        embeds: bool = True,
    ) -> None:
        self._thought, self._embeds = thought, embeds
        self._answer_of: AnswerOf = answer if callable(answer) else lambda _prompt: answer
        self._seconds_per_token = seconds_per_token
        self._permits: int | None = 0 if held else None
        self._lock = threading.Condition()
        self._waiting: deque[_Running] = deque()
        self._active: list[_Running] = []
        self._ids: dict[str, int] = {}
        self._pieces: list[str] = []
        self._state: State = "ready"
        self._restarts = 0
        self._rung = 0
        self._cause: Cause | None = None
        self._pace: Pace | None = None
        self._progress = time.monotonic()
        self._fail_after: deque[int] = deque()
        self.requests: list[GenerationRequest] = []
        """Every request ever submitted, in order."""
        self.cancelled: list[str] = []
        """Ids that `cancel` was called with, in order."""
        self.pinned: list[tuple[int, ...]] = []
        """What the last `pin` was given."""
        self.forgotten: list[str] = []
        """Sessions that `forget_session` was called with, in order."""
        self.info = EngineInfo(
            engine="fake 1",
            architecture="fake",
            model_name=model_name,
            context_length=context_length,
            n_slots=n_slots,
            vocab_size=1 << 20,
            chat_template=CHAT_TEMPLATE,
            eos_token="<|im_end|>",
            reasoning=bool(thought),
        )
        self._thread = threading.Thread(target=self._loop, name="fake-engine", daemon=True)
        self._thread.start()

    # What every engine offers

    def tokenize(self, parts: list[PromptPart]) -> list[int]:
        """One id per word; the same word always has the same id."""
        with self._lock:
            self._require_open()
            return [self._id_of(piece) for part in parts for piece in _words(part.text)]

    def embed(self, token_ids: Sequence[int]) -> list[float]:
        """A vector that texts of the same words share, in whatever order; each other word turns it a little."""
        ids = embedded_tokens(token_ids)
        with self._lock:
            self._require_open()
            words = [self._pieces[i].strip().lower() for i in ids]
        if not self._embeds:
            raise EngineFailed("This model cannot embed texts.")
        values = [0.0] * _EMBEDDING_SIZE
        for word in words:
            values[zlib.crc32(word.encode("utf-8", errors="replace")) % _EMBEDDING_SIZE] += 1.0
        return normalised(values)

    def submit(self, request: GenerationRequest, on_event: OnEvent) -> None:
        """Queue a request; its events come from the engine's own thread."""
        words = _words(_before_stop(self._answer_of(self.text_of(request.prompt)), request.stop))
        limit = request.max_tokens
        thoughts = deque(_words(self._thought)[: request.reasoning_limit])
        running = _Running(request, on_event, thoughts, deque(words[:limit]), cut=len(words) > limit)
        with self._lock:
            self._require_open()
            if self._fail_after:
                running.fail_after = self._fail_after.popleft()
            self.requests.append(request)
            self._waiting.append(running)
            self._lock.notify_all()

    def cancel(self, request_id: str) -> None:
        """End a request early; it still gets its DoneEvent."""
        with self._lock:
            self.cancelled.append(request_id)
            for running in (*self._active, *self._waiting):
                if running.request.id == request_id:
                    running.cancelled = True
            self._lock.notify_all()

    def pin(self, prefixes: Sequence[Sequence[int]]) -> None:
        """Remembered for tests to look at."""
        with self._lock:
            self.pinned = [tuple(prefix) for prefix in prefixes]

    def forget_session(self, session: str) -> None:
        """Remembered for tests to look at."""
        with self._lock:
            self.forgotten.append(session)

    def health(self) -> EngineHealth:
        """The state now."""
        with self._lock:
            idle = not self._active
            return EngineHealth(
                state=self._state,
                running=len(self._active),
                waiting=len(self._waiting),
                restarts=self._restarts,
                seconds_since_progress=None if idle else time.monotonic() - self._progress,
                rung=self._rung,
                cause=self._cause,
                reason=f"ordered: {self._cause}" if self._cause else "",
                pace=self._pace,
            )

    def close(self) -> None:
        """Every request still here gets an ErrorEvent."""
        with self._lock:
            self._state = "closed"
            orphans = [*self._active, *self._waiting]
            self._active.clear()
            self._waiting.clear()
            _fail(orphans, ErrorEvent("The engine was closed.", retryable=False))
            self._lock.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=5)

    # What a test may order

    def release(self, n_tokens: int) -> None:
        """Let `n_tokens` more tokens out of an engine made with `held=True`."""
        with self._lock:
            self._permits = (self._permits or 0) + n_tokens
            self._lock.notify_all()

    def run_free(self) -> None:
        """Stop holding: every token comes as soon as it can."""
        with self._lock:
            self._permits = None
            self._lock.notify_all()

    def fail_next(self, *, after_tokens: int = 0) -> None:
        """The next request submitted breaks off with a retryable ErrorEvent after that many tokens."""
        with self._lock:
            self._fail_after.append(after_tokens)

    def lose_worker(self) -> None:
        """The engine's process dies: what runs fails, what waits stays queued until `restore_worker`."""
        with self._lock:
            self._state = "restarting"
            self._restarts += 1
            orphans = list(self._active)
            self._active.clear()
            _fail(orphans, ErrorEvent("The engine's process ended. It is being started again.", retryable=True))

    def restore_worker(self) -> None:
        """The process is back; the queue goes on."""
        self._set_state("ready")

    def break_down(self) -> None:
        """The engine cannot be restarted: state "failed", and nothing more is accepted."""
        self._set_state("failed")

    def move_to_rung(self, rung: int, cause: Cause | None, *, context_length: int, n_slots: int = 1) -> None:
        """The engine runs in another configuration: what ran fails, and what waits and does not fit as well."""
        self.lose_worker()
        with self._lock:
            self._rung, self._cause = rung, cause
            self.info = self.info.model_copy(update={"context_length": context_length, "n_slots": n_slots})
            late = [running for running in self._waiting if len(running.request.prompt) >= context_length]
            for running in late:
                self._waiting.remove(running)
                _fail([running], _too_long(running.request, context_length))
        self.restore_worker()

    def report_pace(self, tokens_per_s: float, *, expected: float | None = None, slow: bool = False) -> None:
        """What `health` says of its speed from now on."""
        with self._lock:
            self._pace = Pace(
                tokens_per_s=tokens_per_s,
                tokens_per_s_per_stream=tokens_per_s,
                n_threads=1,
                expected_tokens_per_s=expected,
                ratio=tokens_per_s / expected if expected else None,
                slow=slow,
            )

    def text_of(self, ids: Iterable[int]) -> str:
        """The text those ids were made from."""
        with self._lock:
            return "".join(self._pieces[i] for i in ids)

    def wait_until_idle(self, timeout_s: float = 5.0) -> bool:
        """True when no request runs or waits; False when `timeout_s` passed first."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._active and not self._waiting, timeout_s)

    def wait_until_running(self, n_requests: int = 1, timeout_s: float = 5.0) -> bool:
        """True when at least `n_requests` have a slot; False when `timeout_s` passed first."""
        with self._lock:
            return self._lock.wait_for(lambda: len(self._active) >= n_requests, timeout_s)

    # The scheduler's thread

    def _loop(self) -> None:
        while True:
            with self._lock:
                if self._state == "closed":
                    return
                self._admit()
                events = self._step()
                for running, event in events:  # under the lock, so that nothing follows a request's last event
                    running.on_event(event)
                self._lock.notify_all()
                if not events:
                    self._lock.wait(self._until_deadline())
            if events and self._seconds_per_token:
                self._pause(self._seconds_per_token)

    def _admit(self) -> None:
        for running in [r for r in self._waiting if r.cancelled]:
            self._waiting.remove(running)
            self._active.append(running)  # it needs no slot: the next step ends it
        while self._state == "ready" and self._waiting and len(self._active) < self.info.n_slots:
            self._active.append(self._waiting.popleft())
            self._progress = time.monotonic()

    def _step(self) -> list[tuple[_Running, Event]]:
        events: list[tuple[_Running, Event]] = []
        now = time.monotonic()
        for running in list(self._active):
            event = self._next_event(running, now)
            if event is None:
                continue
            self._progress = now
            events.append((running, event))
            if not isinstance(event, TextEvent):
                self._active.remove(running)
        return events

    def _next_event(self, running: _Running, now: float) -> Event | None:
        if running.cancelled:
            return running.done("cancelled")
        if running.overdue(now):
            return running.done("deadline")
        if running.fail_after == running.n_tokens:
            return ErrorEvent("The engine's process ended. It is being started again.", retryable=True)
        if not running.words and not running.thoughts:
            return running.done("length" if running.cut else "stop")
        if self._permits == 0:
            return None
        if self._permits is not None:
            self._permits -= 1
        running.n_tokens += 1
        running.first = running.first or now
        if running.thoughts:
            running.n_thoughts += 1
            return TextEvent(running.thoughts.popleft(), 1, reasoning=True)
        word = running.words.popleft()
        return TextEvent(word, 1, tokens=_drawn(word, running.request.top_logprobs))

    def _until_deadline(self) -> float | None:
        now = time.monotonic()
        left = [r.submitted + r.request.deadline_s - now for r in self._active if r.request.deadline_s is not None]
        return max(0.0, min(left)) if left else None

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        with self._lock:
            while self._state != "closed" and not any(r.cancelled for r in self._active):
                left = until - time.monotonic()
                if left <= 0:
                    return
                self._lock.wait(left)

    def _set_state(self, state: State) -> None:
        with self._lock:
            self._state = state
            self._lock.notify_all()

    def _id_of(self, piece: str) -> int:
        if piece not in self._ids:
            self._ids[piece] = len(self._pieces)
            self._pieces.append(piece)
        return self._ids[piece]

    def _require_open(self) -> None:
        if self._state in ("closed", "failed"):
            raise EngineFailed(f"The engine is {self._state}.", next_step="start edgemed again")


def _drawn(word: str, n_likeliest: int | None) -> tuple[DrawnToken, ...]:
    """A word as likely as a coin's side, each next one half as likely."""
    if n_likeliest is None:
        return ()
    others = [TokenLogprob(b"other%d" % n, (n + 1) * _HALF) for n in range(1, n_likeliest)]
    drawn = TokenLogprob(word.encode("utf-8", errors="replace"), _HALF)
    return (DrawnToken(drawn, (drawn, *others) if n_likeliest else ()),)


def _words(text: str) -> list[str]:
    return _WORD.findall(text)


def _before_stop(text: str, stop: tuple[str, ...]) -> str:
    ends = [at for at in (text.find(word) for word in stop) if at >= 0]
    return text[: min(ends)] if ends else text


def _too_long(request: GenerationRequest, context_length: int) -> ErrorEvent:
    n_tokens = len(request.prompt)
    words = f"The prompt has {n_tokens} tokens; prompt and answer together may have {context_length}."
    return ErrorEvent(words, retryable=False, too_long=True)


def _fail(orphans: list[_Running], event: ErrorEvent) -> None:
    for running in orphans:
        running.on_event(event)
