"""What of the KV cache is used again: beginnings that hold no person's words, and a conversation's own last turn.

Three rules keep patients apart.
    A pin is shared with any prompt that begins with the same tokens; it was given by the server and is the project's
    own text. What one request has read is never offered to another one, a pin's own tokens excepted.
    What a request of a session held when it ended goes to that session's next request, and leaves the account with it.
    Where anything is unsure, after a failed step or a copy that did not arrive, everything kept is erased.

Kept sequences take no cells beyond the pool of the slots: the least recently used ones, sessions before pins, give way
as soon as a step needs the cells, so that every admitted request can reach the full context length; sessions hold half
of the pool at most, or one slot's length. What the model alone has read can be reused for the model alone: an adapter's
sessions are its own, and pins belong to no adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from edgemed.engines.kv_cells import Cells, Span

MOST_PINS = 24
"""The templates of four languages."""
_PIN_CHUNK = 32
"""Tokens of a pin per step: somebody who asks meanwhile waits for no more than that."""


class KvCache(Protocol):
    """A cache of `n_slots` * `context_length` cells. Sequences that are kept are numbered after the slots."""

    @property
    def n_slots(self) -> int:
        """Sequences that can be read into."""

    @property
    def n_kept(self) -> int:
        """Sequences beside them that cells can be shared with; 0 where a sequence cannot be shared or cut."""

    @property
    def context_length(self) -> int:
        """Most tokens of one slot."""

    def share(self, source: int, target: int, n_tokens: int) -> bool:
        """Make an empty sequence begin as `source` does; False when it could not be done: it is empty then."""

    def forget(self, sequence: int) -> None:
        """Empty a kept sequence."""


@dataclass(slots=True)
class _Kept:
    """A sequence beside the slots, and all that it holds."""

    sequence: int
    tokens: Sequence[int]
    span: Span
    adapter: str = ""


@dataclass(slots=True)
class _Pin:
    tokens: tuple[int, ...]
    kept: _Kept | None = None
    """Its beginning, as far as it was read."""
    ahead: bool = True
    """To be read while there is nothing else to do."""
    used: bool = False
    """A request has shared it since it was read."""

    @property
    def is_read(self) -> bool:
        return self.kept is not None and len(self.kept.tokens) == len(self.tokens)


class KvReuse:
    """The account of one cache: all sequences, running and kept. Called from the scheduler's thread only."""

    def __init__(self, cache: KvCache) -> None:
        self._cache = cache
        self._n_cells = cache.n_slots * cache.context_length
        # Attention passes over every cell up to the last one in use, whosever it is: with 6,120 of 8,192 kept, a model
        # of 0.5B's shape took 28 % more CPU time for each prompt token, and 5 % more for each drawn one.
        self._most_session_tokens = max(cache.context_length, self._n_cells // 2)
        self._cells = Cells()
        self._slots: dict[int, Span] = {}
        self._free = list(range(cache.n_slots + cache.n_kept - 1, cache.n_slots - 1, -1))
        self._works = cache.n_kept > 0
        self._reads_ahead = True
        self._pins: dict[tuple[int, ...], _Pin] = {}
        """The least recently used first."""
        self._sessions: dict[str, _Kept] = {}
        """As above."""
        self.due: dict[int, list[_Pin]] = {}
        """By slot: pins that its prompt begins with and that nobody has read yet."""

    @property
    def n_cells_used(self) -> int:
        """Cells that hold a token, of running and of kept sequences."""
        return self._cells.n_used

    @property
    def n_cells(self) -> int:
        """All cells there are."""
        return self._n_cells

    @property
    def n_sessions(self) -> int:
        """Sessions of which something is kept."""
        return len(self._sessions)

    def pin(self, prefixes: Sequence[Sequence[int]]) -> None:
        """From now on these are shared, at most `MOST_PINS`; others that were are forgotten."""
        most = self._cache.context_length - 1  # a prompt is longer, and an answer has at least a token
        wanted = dict.fromkeys(tuple(prefix) for prefix in prefixes if 0 < len(prefix) <= most)
        before, self._pins = self._pins, {}
        for tokens in list(wanted)[: min(MOST_PINS, self._cache.n_kept)]:
            self._pins[tokens] = before.pop(tokens, _Pin(tokens))
        for pin in before.values():
            self._erase_pin(pin)
        for slot, due in list(self.due.items()):
            self.due[slot] = [pin for pin in due if self._pins.get(pin.tokens) is pin]
        self._reads_ahead = True

    def begin(self, slot: int, prompt: tuple[int, ...], session: str, adapter: str) -> int:
        """Give an empty slot what is kept for this prompt: how many of its tokens need not be read.

        At least one is left to read, for the logits of the last. The session's own is no longer kept then.
        """
        own = self._sessions.pop(session, None) if session else None
        best, n_best, pin = None, 0, None
        if not adapter:
            pin, n_best = self._longest_pin(prompt)
            best = pin.kept if pin else None
            if due := [pin for pin in self._pins.values() if not pin.is_read and _begins(prompt, pin.tokens)]:
                self.due[slot] = due
        if own is not None and own.adapter == adapter and (n := n_common(own.tokens, prompt)) >= n_best:
            best, n_best, pin = own, n, None
        if pin is not None:
            pin.used = True
            self._pins[pin.tokens] = self._pins.pop(pin.tokens)  # the most recently used is the last
        n_shared = self._share(best, slot, min(n_best, len(prompt) - 1))
        if own is not None:
            self._erase(own)
        return n_shared

    def take(self, n_tokens: int) -> None:
        """Before a step that reads so many: room for them, at the cost of what is kept where need be."""
        if self._cells.n_used + n_tokens > self._n_cells:
            self._make_room(n_tokens)
        self._cells.n_used += n_tokens

    def keep_due(self, slot: int, n_read: int) -> None:
        """Keep the pins that the slot has now read, in passing."""
        due = self.due.pop(slot)
        for pin in due:
            if len(pin.tokens) <= n_read and not pin.is_read:
                self._keep_pin(pin, slot, len(pin.tokens), n_read)
        if later := [pin for pin in due if len(pin.tokens) > n_read]:
            self.due[slot] = later

    def leave(self, slot: int, n_read: int) -> None:
        """A sequence gives up its slot and keeps nothing; the slot is emptied after this."""
        self.due.pop(slot, None)
        if (span := self._slots.pop(slot, None)) is not None:  # else everything was erased
            span.end = n_read
            self._cells.release(span)

    def keep(self, slot: int, tokens: Sequence[int], session: str, adapter: str) -> None:
        """A sequence gives up its slot, which holds `tokens`; they wait for the session's next request.

        They take the place of what an earlier request of the session has left.
        """
        span = self._slots[slot]
        span.end = len(tokens)
        end = self._cells.settled(span)
        self.forget_session(session)
        kept = None if end is None else self._free_sequence()
        if end is None or kept is None or not self._share_or_stop(slot, kept, len(tokens)):
            self.leave(slot, len(tokens))
            return
        del self._slots[slot]
        self.due.pop(slot, None)
        self._sessions[session] = _Kept(kept, tokens, end, adapter)
        while sum([len(own.tokens) for own in self._sessions.values()]) > self._most_session_tokens:
            self.forget_session(next(iter(self._sessions)))

    def forget_session(self, session: str) -> None:
        """Erase what is kept of a session; unknown ones are ignored."""
        if (own := self._sessions.pop(session, None)) is not None:
            self._erase(own)

    def erase_all(self) -> None:
        """Nothing in the cache can be trusted: forget all of it. Pins are read again."""
        self._erase_kept()
        self.due.clear()
        self._slots.clear()
        self._cells.n_used = 0

    @property
    def pin_ahead(self) -> tuple[int, ...] | None:
        """The pin to read while there is nothing else to do; None where all are read, or would cost what is kept."""
        if not (self._reads_ahead and self._works):
            return None
        for pin in self._pins.values():
            if pin.ahead and not pin.is_read:
                _, n_shared = self._longest_pin(pin.tokens)
                if self._cells.n_used + len(pin.tokens) - n_shared <= self._n_cells:
                    return pin.tokens
        return None

    def begin_ahead(self, slot: int, tokens: tuple[int, ...], most: int) -> tuple[int, tuple[int, ...]]:
        """Give an empty slot what is there of a pin: how many tokens that is, and at most `most` to read next."""
        pin, n_common_tokens = self._longest_pin(tokens)
        n_shared = self._share(pin.kept if pin else None, slot, min(n_common_tokens, len(tokens) - 1))
        chunk = tokens[n_shared : n_shared + min(_PIN_CHUNK, most)]
        self.take(len(chunk))
        return n_shared, chunk

    def end_ahead(self, slot: int, tokens: tuple[int, ...], n_read: int) -> None:
        """Keep so much of a pin; the slot is emptied after this."""
        if (pin := self._pins.get(tokens)) is not None:
            self._keep_pin(pin, slot, n_read, n_read)
        self.leave(slot, n_read)

    def stop_ahead(self) -> None:
        """Reading a pin has failed: nobody had asked for it, so it must not be tried for ever."""
        self._reads_ahead = False

    def _longest_pin(self, prompt: tuple[int, ...]) -> tuple[_Pin | None, int]:
        best, n_best = None, 0
        for pin in self._pins.values():
            if pin.kept is not None and (n := n_common(pin.kept.tokens, prompt)) > n_best:
                best, n_best = pin, n
        return best, n_best

    def _share(self, source: _Kept | None, slot: int, n_tokens: int) -> int:
        """Begin the slot's account with so many tokens of a kept sequence: how many there are."""
        above = None
        if source is not None and n_tokens > 0 and self._share_or_stop(source.sequence, slot, n_tokens):
            above = self._cells.share(source.span, n_tokens)
        self._slots[slot] = self._cells.opened(above)
        return 0 if above is None else n_tokens

    def _share_or_stop(self, source: int, target: int, n_tokens: int) -> bool:
        if self._cache.share(source, target, n_tokens):
            return True
        self._works = False  # a cache that cannot do it once cannot be trusted with what it keeps
        self._erase_kept()
        if target >= self._cache.n_slots:
            self._free.append(target)
        return False

    def _keep_pin(self, pin: _Pin, slot: int, n_tokens: int, n_read: int) -> None:
        """Keep the first `n_tokens` of a slot that has read `n_read`."""
        self._erase_pin(pin)
        kept = self._free_sequence()
        if kept is None or not self._share_or_stop(slot, kept, n_tokens):
            return
        span = self._slots[slot]
        span.end = n_read
        shared = self._cells.share(span, n_tokens)
        if shared is span:
            self._slots[slot] = self._cells.opened(span)
        pin.kept, pin.ahead = _Kept(kept, pin.tokens[:n_tokens], shared), True

    def _free_sequence(self) -> int | None:
        if not self._free and self._sessions:
            self.forget_session(next(iter(self._sessions)))
        return self._free.pop() if self._free and self._works else None

    def _make_room(self, n_tokens: int) -> None:
        while self._cells.n_used + n_tokens > self._n_cells:
            if self._sessions:
                self.forget_session(next(iter(self._sessions)))
                continue
            # To give up one that a longer one goes through frees nothing: the longer ones first.
            pins = [pin for pin in self._pins.values() if pin.kept and pin.kept.span.n_holders == 1]
            if not pins:
                return  # what runs alone fits: each has its context length
            self._erase_pin(pins[0])
            pins[0].ahead, pins[0].used = pins[0].used, False

    def _erase_kept(self) -> None:
        for pin in self._pins.values():
            self._erase_pin(pin)
        for own in self._sessions.values():
            self._erase(own)
        self._sessions.clear()

    def _erase_pin(self, pin: _Pin) -> None:
        if pin.kept is not None:
            self._erase(pin.kept)
            pin.kept = None

    def _erase(self, kept: _Kept) -> None:
        self._cache.forget(kept.sequence)
        self._cells.release(kept.span)
        self._free.append(kept.sequence)


def n_common(first: Sequence[int], second: Sequence[int]) -> int:
    """Tokens that both begin with."""
    n = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        n += 1
    return n


def _begins(prompt: tuple[int, ...], prefix: tuple[int, ...]) -> bool:
    return len(prefix) <= len(prompt) and prompt[: len(prefix)] == prefix
