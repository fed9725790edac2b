"""The requests between `submit` and their last event, and the one promise about them: exactly one last event each.

Every method is called with the engine's lock held, and `on_event` runs inside it: an event that follows the last one
cannot happen, and `on_event` must not wait for others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from edgemed.core.errors import UsageError
from edgemed.engines import wire
from edgemed.engines.base import DoneEvent, ErrorEvent, Event, FinishReason, GenerationRequest, OnEvent

_log = logging.getLogger(__name__)

MOST_LOSSES = 2
"""Children that one question may cost; with more, it would use up the restarts that all share."""
_GIVEN_UP = f"The engine's process ended {MOST_LOSSES} times when it was given this question. Ask in other words."


@dataclass(slots=True)
class _Entry:
    request: GenerationRequest
    on_event: OnEvent
    submitted: float
    sent: bool = False
    begun: bool = False
    cancelled: bool = False
    losses: int = 0
    """Children that ended after the request was sent to them and before they began it."""


class InFlight:
    """The requests of one engine; `send` takes lines for the child that runs now."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._entries: dict[str, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def n_begun(self) -> int:
        """Requests that hold a slot."""
        return sum(entry.begun for entry in self._entries.values())

    def add(self, request: GenerationRequest, on_event: OnEvent) -> None:
        """Take one in. Raises UsageError for an id that is here already."""
        if request.id in self._entries:
            raise UsageError(f"A request with the id {request.id!r} is already running.")
        self._entries[request.id] = _Entry(request, on_event, time.monotonic())

    def cancel(self, request_id: str) -> None:
        """End one early; unknown ids are ignored."""
        entry = self._entries.get(request_id)
        if entry is None:
            return
        entry.cancelled = True
        if entry.sent:
            self._send(wire.encode_line([wire.CANCEL, request_id]))
        else:
            self._end_unsent(entry, "cancelled")

    def hear(self, row: list[Any]) -> bool:
        """Pass on what the child says of a request; False for a row that is about something else."""
        kind = row[0]
        if kind in (wire.TEXT, wire.PLACE):
            if entry := self._entries.get(row[1]):
                self._deliver(entry, wire.decode_event(row))
        elif kind in (wire.DONE, wire.ERROR):
            if entry := self._entries.pop(row[1], None):
                self._deliver(entry, wire.decode_event(row))
        elif kind == wire.BEGUN:
            if entry := self._entries.get(row[1]):
                entry.begun = True
        else:
            return False
        return True

    def send_waiting(self, n_slots: int) -> None:
        """Send what waits: all of it, so that no slot is ever idle.

        While one of them was there when a child ended, only one that can begin at once: that shows whose fault it is.
        """
        unsent = [entry for entry in self._entries.values() if not entry.sent]
        for entry in sorted(unsent, key=lambda entry: entry.request.lane != "emergency"):
            if any(other.losses and not other.begun for other in self._entries.values()):
                sent = [other for other in self._entries.values() if other.sent]
                if len(sent) >= n_slots or not all(other.begun for other in sent):
                    return
            entry.sent = True
            self._send(wire.encode_request(entry.request, time.monotonic() - entry.submitted))

    def forget_session(self, session: str) -> None:
        """What the next child is told of its requests names no session any more."""
        for entry in self._entries.values():
            if entry.request.session == session:
                entry.request = replace(entry.request, session="")

    def end_begun(self, message: str, *, blame: bool) -> None:
        """Settle the accounts of a child that has ended: what had begun fails, the rest waits for the next child.

        With `blame`, those that were sent and had not begun may be the cause, and fail when it happens again.
        """
        for entry in list(self._entries.values()):
            entry.losses += entry.sent and blame
            entry.sent = False
            if entry.cancelled:
                self._end_unsent(entry, "cancelled")
            elif entry.begun:
                self._end(entry, ErrorEvent(message, retryable=True))
            elif entry.losses >= MOST_LOSSES:
                self._end(entry, ErrorEvent(_GIVEN_UP, retryable=False))

    def refuse_too_long(self, context_length: int) -> None:
        """End those that wait and do not fit the context that the engine has now."""
        for entry in list(self._entries.values()):
            if not entry.sent and (words := too_long(entry.request, context_length)):
                message = f"{words} The engine has less memory than when the question was asked. Shorten it."
                self._end(entry, ErrorEvent(message, retryable=False, too_long=True))

    def expire_unsent(self, now: float) -> None:
        """End those that wait and whose time is over."""
        for entry in list(self._entries.values()):
            limit = entry.request.deadline_s
            if not entry.sent and limit is not None and now - entry.submitted >= limit:
                self._end_unsent(entry, "deadline")

    def not_charged(self, seconds: float) -> None:
        """The process itself stood still for so long: no waiting request has to pay for it."""
        for entry in self._entries.values():
            entry.submitted += seconds

    def fail_all(self, message: str, *, retryable: bool) -> None:
        """End every request with an error."""
        for entry in list(self._entries.values()):
            self._end(entry, ErrorEvent(message, retryable=retryable))

    def _end_unsent(self, entry: _Entry, reason: FinishReason) -> None:
        waited_ms = (time.monotonic() - entry.submitted) * 1000
        self._end(entry, DoneEvent(reason, len(entry.request.prompt), 0, waited_ms, 0.0, waited_ms))

    def _end(self, entry: _Entry, event: Event) -> None:
        if self._entries.pop(entry.request.id, None) is not None:  # else an event before has ended it
            self._deliver(entry, event)

    def _deliver(self, entry: _Entry, event: Event) -> None:
        try:
            entry.on_event(event)
        except Exception as error:  # a caller's fault must not silence the other requests
            _log.error("A request's on_event failed with %s; the request is dropped.", type(error).__name__)
            self._entries.pop(entry.request.id, None)
            if entry.sent:
                self._send(wire.encode_line([wire.CANCEL, entry.request.id]))


def too_long(request: GenerationRequest, context_length: int) -> str:
    """Why a prompt does not fit, with both numbers, or ""."""
    n_tokens = len(request.prompt)
    if n_tokens < context_length:
        return ""
    return f"The prompt has {n_tokens} tokens; prompt and answer together may have {context_length}."


def check_fits(request: GenerationRequest, context_length: int) -> None:
    """Raises UsageError for a request that cannot run."""
    if not request.prompt:
        raise UsageError("The prompt holds no token.", next_step="write a question")
    if words := too_long(request, context_length):
        raise UsageError(words, next_step="shorten the question, or start with a longer --context")
    if request.max_tokens < 1:
        raise UsageError(f"max_tokens is {request.max_tokens}; it must be at least 1.")
