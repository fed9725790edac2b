"""Continuous batching: requests join and leave a running batch between two steps of the model.

One step is `schedule` (which tokens of which slots), `run` (the step engine) and `postprocess` (text, ends).
Who begins next is `FairQueue`'s to say, what need not be read again `KvReuse`'s.
Sequences that decode go first, one token each; then come prompt tokens, oldest request first: the whole batch while
nobody decodes, else as many as the step budget allows, so that a long prompt delays the others and never stops them.

Pure Python over the StepEngine protocol: it knows nothing of llama.cpp, pipes or threads, and is called from
one thread only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from edgemed.core.errors import EngineFailed, UsageError
from edgemed.engines.adapter_turns import AdapterTurns
from edgemed.engines.answer_tokens import AnswerTokens
from edgemed.engines.base import (
    NO_TOKEN,
    DoneEvent,
    DrawnToken,
    ErrorEvent,
    Event,
    FinishReason,
    GenerationRequest,
    PlaceEvent,
    Sampling,
    TextEvent,
)
from edgemed.engines.fair_queue import FairQueue
from edgemed.engines.kv_reuse import KvCache, KvReuse
from edgemed.engines.step_budget import StepBudget
from edgemed.engines.text import AnswerText
from edgemed.engines.thinking import Thinking, opens_thinking

_NEVER = float("inf")


@dataclass(slots=True)
class Chunk:
    """Consecutive tokens of one slot that a step reads; the scheduler reuses the object, so read it at once."""

    slot: int
    tokens: Sequence[int] = ()
    position: int = 0
    """Where the first of them stands in the sequence."""
    wants_token: bool = False
    """True when the token after the last one is to be drawn."""


class StepEngine(KvCache, Protocol):
    """A loaded model with a KV cache; slots are numbered from 0, and the sequences it keeps follow them."""

    @property
    def n_batch(self) -> int:
        """Most tokens of one step, all slots together; at least `n_slots`."""

    @property
    def closing(self) -> tuple[int, ...] | None:
        """Tokens that end a reasoning model's thinking; None for other models."""

    @property
    def adapters(self) -> Collection[str]:
        """Names of the adapters that requests may ask for."""

    def use_adapter(self, name: str) -> None:
        """The steps that follow are made with this adapter, all their slots together; "" is the model alone."""

    def acquire(self, slot: int, sampling: Sampling) -> None:
        """Make an empty slot ready for a new sequence, with its own sampler."""

    def release(self, slot: int) -> None:
        """Forget everything the slot holds."""

    def decode(self, chunks: Sequence[Chunk]) -> list[int]:
        """Read all chunks in one step; the drawn token of each chunk that wants one, in order.

        Raises EngineFailed when the step was refused; the slots then hold nothing of worth.
        """

    def piece(self, token: int) -> bytes | None:
        """Bytes of a token; None for a token that ends the answer."""

    def bind(self, slot: int, grammar: str) -> None:
        """Let what is drawn for a slot follow a grammar; the drawn token is NO_TOKEN where it allows none.

        Called after `acquire`, as `think` and `drawn_token` only for those that ask for such things. Raises UsageError.
        """

    def think(self, slot: int, thinking: bool) -> None:
        """From the next token on a slot's sequence thinks, bound by no grammar, or begins its answer."""

    def drawn_token(self, slot: int, token: int, n_likeliest: int) -> DrawnToken:
        """Log-probabilities of a token in the place of the one that the last step drew for this slot."""


@dataclass(slots=True)
class _Sequence:
    request: GenerationRequest
    submitted: float
    text: AnswerText
    limit: int
    """Tokens of the answer at most, by the request and by the context."""
    deadline: float
    chunk: Chunk = field(default_factory=lambda: Chunk(-1))
    n_read: int = 0
    """Tokens of prompt and answer already in the KV cache."""
    n_answer: int = 0
    n_unsent: int = 0
    """Tokens drawn since the last TextEvent."""
    thinking: Thinking | None = None
    """None for models that do not reason."""
    forced: list[int] = field(default_factory=list)
    """Tokens that replace the next drawn ones, the first at the end."""
    room: int = 0
    """Tokens the context holds beside the prompt."""
    thought_limit: int | None = None
    tells_thinking: bool = False
    """Whether the engine's draws depend on where thinking ends."""
    told_thinking: bool = False
    tokens: AnswerTokens | None = None
    """None where no log-probabilities are wanted."""
    admitted: float | None = None
    first_token: float | None = None
    session: str = ""
    """Whose its tokens are when it ends; empty also once the session was forgotten."""
    answer: list[int] = field(default_factory=list)
    """Its tokens, for the session; the last may not have been read."""
    n_cached: int = 0


class Scheduler:
    """The running batch and its queue. Ids are unique among the requests that have not ended."""

    def __init__(
        self,
        engine: StepEngine,
        clock: Callable[[], float],
        decode: Callable[[Sequence[Chunk]], list[int]] | None = None,
    ) -> None:
        """`decode` stands in for the engine's own, to time its steps."""
        self._engine = engine
        self._decode = decode or engine.decode
        self._clock = clock
        self._budget = StepBudget(engine.n_batch)
        self._free = list(range(engine.n_slots - 1, -1, -1))
        self._waiting: dict[str, _Sequence] = {}
        self._queue = FairQueue()
        self._running: dict[str, _Sequence] = {}
        self._reuse = KvReuse(engine)
        self._events: list[tuple[str, Event]] = []
        self._turns = AdapterTurns()

    @property
    def n_running(self) -> int:
        """Requests that hold a slot."""
        return len(self._running)

    @property
    def n_waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @property
    def kv_cells(self) -> tuple[int, int]:
        """Cells of the KV cache that hold a token, of running and of kept sequences, and all there are."""
        return self._reuse.n_cells_used, self._reuse.n_cells

    @property
    def idle(self) -> bool:
        """True when a step would do nothing and no event is left to be fetched."""
        return not (self._waiting or self._running or self._events or self._reuse.pin_ahead)

    def submit(self, request: GenerationRequest, submitted: float | None = None) -> None:
        """Queue a request; `submitted` is its time on this clock, now when absent."""
        began = self._clock() if submitted is None else submitted
        room = self._engine.context_length - len(request.prompt)
        if refusal := _refusal(request, room, self._engine.context_length):
            self._events.append((request.id, ErrorEvent(refusal, retryable=False)))
            return
        if request.adapter and request.adapter not in self._engine.adapters:
            self._events.append((request.id, ErrorEvent(_unknown_adapter(request.adapter), retryable=False)))
            return
        sequence = self._waiting[request.id] = _Sequence(
            request=request,
            submitted=began,
            text=AnswerText(request.stop),
            limit=min(request.max_tokens, room),
            deadline=_NEVER if request.deadline_s is None else began + request.deadline_s,
            tokens=None if request.top_logprobs is None else AnswerTokens(),
            session=request.session,
        )
        self._queue.push(request.id, request.lane, request.client)
        if self._engine.closing is not None:
            self._prepare_thinking(sequence, room, self._engine.closing)

    def _prepare_thinking(self, sequence: _Sequence, room: int, closing: tuple[int, ...]) -> None:
        request = sequence.request
        sequence.thinking = Thinking(opened=opens_thinking(request.prompt, self._engine.piece))
        if request.reasoning_limit is not None:
            answer = min(request.max_tokens, max(1, room // 2))  # what the thinking has to leave room for
            sequence.thought_limit = max(0, min(request.reasoning_limit, room - answer - len(closing)))
            sequence.room = room
            self._bound_thinking(sequence, sequence.thinking)

    def _bound_thinking(self, sequence: _Sequence, thinking: Thinking) -> None:
        """End a thinking that has reached its limit; the answer's tokens are counted from its end."""
        if sequence.thought_limit is None:
            return
        closing = self._engine.closing or ()
        if thinking.inside and not sequence.forced and thinking.n_inside >= sequence.thought_limit:
            sequence.forced = list(reversed(closing))
        sequence.limit = min(sequence.room, sequence.request.max_tokens + thinking.n_tokens)

    def cancel(self, request_id: str) -> None:
        """End a request; ids that are unknown or have ended are ignored."""
        sequence = self._running.get(request_id) or self._waiting.get(request_id)
        if sequence is not None:
            self._finish(sequence, "cancelled")

    def pin(self, prefixes: Sequence[Sequence[int]]) -> None:
        """From now on these beginnings of prompts are shared; they are read while there is nothing else to do."""
        self._reuse.pin(prefixes)

    def forget_session(self, session: str) -> None:
        """Erase what is kept of a session; what of it runs or waits will leave nothing."""
        self._reuse.forget_session(session)
        for group in (self._running, self._waiting):
            for sequence in group.values():
                if sequence.session == session:
                    sequence.session = ""

    def admit(self) -> list[str]:
        """Give free slots to those whose turn it is; ids of those that now begin. The others learn their places."""
        begun = []
        now = self._clock()
        while self._free and self._waiting:
            request_id = self._queue.first()
            sequence = self._waiting[request_id]
            if now >= sequence.deadline:
                self._finish(sequence, "deadline")
                continue
            del self._waiting[request_id]
            self._queue.begin()
            if self._begin(sequence, now):
                begun.append(request_id)
        self._events += [(request_id, PlaceEvent(place)) for request_id, place in self._queue.moved()]
        return begun

    def _begin(self, sequence: _Sequence, now: float) -> bool:
        """Give a waiting sequence a slot, and what it need not read; False when it has ended by that."""
        request, slot = sequence.request, self._free.pop()
        sequence.chunk.slot = slot
        sequence.admitted = now
        self._running[request.id] = sequence
        self._engine.acquire(slot, request.sampling)
        if not self._bind(sequence):
            return False
        sequence.n_read = sequence.n_cached = self._reuse.begin(slot, request.prompt, sequence.session, request.adapter)
        return True

    def _bind(self, sequence: _Sequence) -> bool:
        """Give a slot its request's grammar; False when that cannot be used, and the request has ended."""
        request = sequence.request
        if request.grammar:
            try:
                self._engine.bind(sequence.chunk.slot, request.grammar)
            except UsageError as error:
                self._fail(sequence, error.what)
                return False
        sampling = request.sampling
        sequence.tells_thinking = sequence.thinking is not None and bool(
            request.grammar or sampling.presence_penalty or sampling.frequency_penalty
        )
        self._tell_thinking(sequence)
        return True

    def _tell_thinking(self, sequence: _Sequence) -> None:
        """Tell the engine where thinking begins and where it ends, behind the tokens that end it from outside."""
        thinking = sequence.thinking
        thinks = thinking is not None and (thinking.inside or bool(sequence.forced))
        if sequence.tells_thinking and thinks is not sequence.told_thinking:
            sequence.told_thinking = thinks
            self._engine.think(sequence.chunk.slot, thinks)

    def step(self) -> list[tuple[str, Event]]:
        """One step of the batch; every event since the last call, in order.

        Raises EngineFailed when the engine refused the step; `fail_running` then clears the batch.
        """
        self._expire()
        scheduled = self._schedule()
        if scheduled:
            self._engine.use_adapter(scheduled[0].request.adapter)
            chunks = [sequence.chunk for sequence in scheduled]
            self._reuse.take(sum([len(chunk.tokens) for chunk in chunks]))
            began = self._clock()
            tokens = self._decode(chunks)
            self._note_step(scheduled, self._clock() - began)
            self._turns.stepped(read=any(not sequence.n_answer for sequence in scheduled))
            self._postprocess(scheduled, tokens)
        elif not (self._running or self._waiting) and (pin := self._reuse.pin_ahead):
            self._read_ahead(pin)
        return self.drain()

    def _read_ahead(self, pin: tuple[int, ...]) -> None:
        """Read a little of a pin in a slot that nobody needs now. Failing costs nobody anything, so it is no error."""
        slot = self._free[-1]
        self._engine.use_adapter("")
        self._engine.acquire(slot, Sampling())
        n_shared, tokens = self._reuse.begin_ahead(slot, pin, self._engine.n_batch)
        try:
            self._decode([Chunk(slot, tokens, n_shared)])
            self._reuse.end_ahead(slot, pin, n_shared + len(tokens))
        except EngineFailed:
            self._reuse.erase_all()
            self._reuse.stop_ahead()
        finally:
            self._engine.release(slot)

    def drain(self) -> list[tuple[str, Event]]:
        """Events not fetched yet, without a step."""
        events, self._events = self._events, []
        return events

    def fail_running(self, message: str) -> None:
        """End every request that holds a slot with an ErrorEvent; those waiting stay. What was kept is erased."""
        self._reuse.erase_all()
        for request_id, sequence in list(self._running.items()):
            self._release(sequence)
            self._events.append((request_id, ErrorEvent(message, retryable=True)))

    def _expire(self) -> None:
        now = self._clock()
        for group in (self._running, self._waiting):
            late = [sequence for sequence in group.values() if now >= sequence.deadline]
            for sequence in late:
                self._finish(sequence, "deadline")

    def _schedule(self) -> list[_Sequence]:
        decoding: list[_Sequence] = []
        reading: list[_Sequence] = []
        if not self._running:
            return decoding
        running = self._running.values()
        adapter = self._turns.next(
            [sequence.request.adapter for sequence in running],
            {sequence.request.adapter for sequence in running if not sequence.n_answer},
        )
        n_writing = 0
        for sequence in running:
            n_writing += sequence.n_answer > 0
            if sequence.request.adapter == adapter:
                (decoding if sequence.n_answer else reading).append(sequence)
        budget = self._room_to_read(len(decoding), n_writing, reading) if reading else 0
        for sequence in reading:
            if budget <= 0:
                break
            prompt, start = sequence.request.prompt, sequence.n_read
            chunk = sequence.chunk
            chunk.tokens = prompt[start : start + budget]
            chunk.position = start
            chunk.wants_token = start + len(chunk.tokens) == len(prompt)
            budget -= len(chunk.tokens)
            decoding.append(sequence)
        return decoding

    def _room_to_read(self, n_decoding: int, n_writing: int, reading: Sequence[_Sequence]) -> int:
        """Prompt tokens of a step; one that only reads is no longer while another adapter's answers wait for it."""
        if n_decoding or not n_writing:
            n_unread = sum([len(sequence.request.prompt) - sequence.n_read for sequence in reading])
            return self._budget.tokens(n_decoding, len(reading), n_unread)
        return self._budget.tokens(n_writing) or self._engine.n_slots

    def _note_step(self, scheduled: list[_Sequence], seconds: float) -> None:
        n_decoding = sum(1 for sequence in scheduled if sequence.n_answer)
        n_read = sum(len(sequence.chunk.tokens) for sequence in scheduled) - n_decoding
        self._budget.note(n_decoding, n_read, seconds)

    def _postprocess(self, scheduled: list[_Sequence], tokens: list[int]) -> None:
        now = self._clock()
        drawn = iter(tokens)
        due = self._reuse.due
        for sequence in scheduled:
            chunk = sequence.chunk
            sequence.n_read += len(chunk.tokens)
            if due and chunk.slot in due:
                self._reuse.keep_due(chunk.slot, sequence.n_read)
            if chunk.wants_token:
                self._append(sequence, next(drawn), now)

    def _append(self, sequence: _Sequence, token: int, now: float) -> None:
        if sequence.first_token is None:
            sequence.first_token = now
        if sequence.forced:
            token = sequence.forced.pop()
        if token == NO_TOKEN:
            self._fail(sequence, "The model has no word that fits the form asked for. Ask for another form.")
            return
        piece = self._engine.piece(token)
        if piece is None:
            self._finish(sequence, "stop")
            return
        sequence.n_answer += 1
        sequence.n_unsent += 1
        if sequence.tokens is not None:
            n_likeliest = sequence.request.top_logprobs or 0
            sequence.tokens.push(self._engine.drawn_token(sequence.chunk.slot, token, n_likeliest))
        text = self._answer(sequence, piece) if sequence.thinking is None else self._think(sequence, piece)
        if text:
            self._send(sequence, text)
        if sequence.text.stopped:
            self._finish(sequence, "stop")
        elif sequence.n_answer >= sequence.limit:
            self._finish(sequence, "length")
        else:
            chunk = sequence.chunk
            chunk.tokens = (token,)
            chunk.position = sequence.n_read
            if sequence.session:
                sequence.answer.append(token)

    def _think(self, sequence: _Sequence, piece: bytes | None) -> str:
        """Send what a token (None: the end) adds to the reasoning; text of the answer that is now certain."""
        thinking = sequence.thinking
        assert thinking is not None
        thought, answer = thinking.flush() if piece is None else thinking.push(piece)
        if thought:
            self._send(sequence, thought, reasoning=True)
        self._bound_thinking(sequence, thinking)
        if piece is not None:
            self._tell_thinking(sequence)
        return self._answer(sequence, answer, decided=not thinking.undecided)

    def _answer(self, sequence: _Sequence, piece: bytes, *, decided: bool = True) -> str:
        """Text that is now certain, with `piece`, the answer's part of what was drawn."""
        if sequence.tokens is not None:
            sequence.tokens.keep(len(piece), decided=decided)
        return sequence.text.push(piece) if piece else ""

    def _send(self, sequence: _Sequence, text: str, *, reasoning: bool = False) -> None:
        tokens: tuple[DrawnToken, ...] = ()
        if sequence.tokens is not None and not reasoning:
            tokens = sequence.tokens.take(sequence.text.n_held_bytes)
        self._events.append((sequence.request.id, TextEvent(text, sequence.n_unsent, reasoning, tokens)))
        sequence.n_unsent = 0

    def _finish(self, sequence: _Sequence, reason: FinishReason) -> None:
        now = self._clock()
        held = "" if sequence.thinking is None else self._think(sequence, None)
        if rest := held + sequence.text.flush():
            self._send(sequence, rest)
        if sequence.tokens is not None and (left := sequence.tokens.finish(sequence.text.n_held_bytes)):
            self._events.append((sequence.request.id, TextEvent("", 0, tokens=left)))
        self._release(sequence, keep=True)
        started, first, admitted = sequence.submitted, sequence.first_token, sequence.admitted
        done = DoneEvent(
            reason=reason,
            prompt_tokens=len(sequence.request.prompt),
            completion_tokens=sequence.n_answer,
            queue_ms=((now if admitted is None else admitted) - started) * 1000,
            ttft_ms=0.0 if first is None else (first - started) * 1000,
            total_ms=(now - started) * 1000,
            reasoning_tokens=0 if sequence.thinking is None else sequence.thinking.n_tokens,
            cached_tokens=sequence.n_cached,
        )
        self._events.append((sequence.request.id, done))

    def _fail(self, sequence: _Sequence, message: str) -> None:
        """End one request that would fail again; the others go on."""
        self._release(sequence)
        self._events.append((sequence.request.id, ErrorEvent(message, retryable=False)))

    def _release(self, sequence: _Sequence, *, keep: bool = False) -> None:
        """Take a sequence out of the batch or the queue, and give its slot back; its session may `keep` the tokens."""
        request, slot = sequence.request, sequence.chunk.slot
        if self._running.pop(request.id, None) is None:
            del self._waiting[request.id]
            self._queue.remove(request.id)
            return
        if keep and sequence.session:
            tokens = (*request.prompt, *sequence.answer)[: sequence.n_read]
            self._reuse.keep(slot, tokens, sequence.session, request.adapter)
        else:
            self._reuse.leave(slot, sequence.n_read)
        self._engine.release(slot)
        self._free.append(slot)


def _unknown_adapter(name: str) -> str:
    return f"The engine has no adapter {name[:64]!r}."


def _refusal(request: GenerationRequest, room: int, context_length: int) -> str:
    """Why a request cannot run at all, or ""."""
    if not request.prompt:
        return "The prompt holds no token."
    if room < 1:
        return f"The prompt has {len(request.prompt)} tokens; prompt and answer together may have {context_length}."
    if request.max_tokens < 1:
        return f"max_tokens is {request.max_tokens}; it must be at least 1."
    return ""
