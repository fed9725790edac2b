"""A thousand conversations side by side, each with a secret: none ever reads another's, in any cell of the cache."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from cell_engine import CellEngine

from edgemed.engines.base import DoneEvent, ErrorEvent, Event, GenerationRequest, TextEvent
from edgemed.engines.scheduler import Scheduler

TEMPLATES = [tuple(range(100, 108)), (*range(100, 106), 120, 121, 122)]
FIRST_SECRET = 1000
"""Tokens from here on are secrets; every two conversations of a pair of twins share all words but one."""
N_SESSIONS = 1000
N_TURNS = 3


@dataclass
class Conversation:
    """One patient's; `words` is the prompt of the next turn."""

    session: str
    secret: int
    words: tuple[int, ...]
    adapter: str = ""
    turns: int = 0
    forgotten: bool = False


class Watched(CellEngine):
    """Notes which secrets each slot has ever been given cells of."""

    def __init__(self) -> None:
        super().__init__(n_slots=4, n_batch=24, context_length=64, n_kept=24)
        self.given: dict[int, set[int]] = {}

    def acquire(self, slot: int, sampling: object) -> None:
        super().acquire(slot, sampling)  # type: ignore[arg-type]
        self.given[slot] = set()

    def share(self, source: int, target: int, n_tokens: int) -> bool:
        shared = super().share(source, target, n_tokens)
        self.given.setdefault(target, set()).update(secrets(self.history_of(target)))
        return shared

    def piece(self, token: int) -> bytes | None:
        return bytes([97 + token % 26])  # no token ends an answer: the answers are long


def secrets(tokens: tuple[int, ...]) -> set[int]:
    return {token for token in tokens if token >= FIRST_SECRET}


def conversations(chance: random.Random) -> list[Conversation]:
    found = []
    for number in range(N_SESSIONS):
        twin = number // 2  # the other one says the same, but for the name
        words = random.Random(twin)
        before = tuple(words.randrange(200, 210) for _ in range(words.randrange(4)))
        after = tuple(words.randrange(200, 210) for _ in range(words.randrange(1, 9)))
        secret = FIRST_SECRET + number
        template = TEMPLATES[twin % len(TEMPLATES)]
        adapter = "lora" if twin % 7 == 0 else ""
        found.append(Conversation(f"s{number}", secret, (*template, *before, secret, *after), adapter))
    chance.shuffle(found)
    return found


@pytest.mark.parametrize("seed", [0, 1])
def test_no_sequence_is_ever_given_a_cell_with_anothers_secret(seed: int) -> None:
    chance = random.Random(seed)
    engine = Watched()
    scheduler = Scheduler(engine, lambda: 0.0)
    scheduler.pin(TEMPLATES)
    open_ones = conversations(chance)
    by_session = {one.session: one for one in open_ones}
    running: dict[str, tuple[Conversation, GenerationRequest]] = {}
    ends: dict[str, Event] = {}
    cached = n_requests = 0
    while open_ones or running:
        while open_ones and len(running) < 12:
            one = open_ones.pop(chance.randrange(min(40, len(open_ones))))
            request = GenerationRequest(
                f"r{n_requests}",
                one.words,
                chance.randrange(1, 6),
                session=one.session,
                adapter=one.adapter,
                client=chance.choice(["", "a", "b"]),
                lane=chance.choice(["normal", "normal", "emergency"]),
            )
            n_requests += 1
            running[request.id] = (one, request)
            scheduler.submit(request)
        scheduler.admit()
        for slot, (one, _) in _slots(scheduler, running).items():
            assert engine.given[slot] <= {one.secret}
        if chance.random() < 0.05:
            scheduler.cancel(chance.choice(list(running)))
        if chance.random() < 0.02:
            session = chance.choice(list(by_session))
            scheduler.forget_session(session)
        for name, event in scheduler.step():
            if isinstance(event, DoneEvent | ErrorEvent):
                assert name not in ends
                ends[name] = event
                one, _ = running.pop(name)
                assert isinstance(event, DoneEvent)
                cached += event.cached_tokens
                one.turns += 1
                if one.turns < N_TURNS and len(one.words) < 40:
                    one.words = (*one.words, *(200 + chance.randrange(10) for _ in range(3)))
                    open_ones.insert(chance.randrange(len(open_ones) + 1), one)
                else:
                    scheduler.forget_session(one.session)
            else:
                assert name not in ends or not isinstance(event, TextEvent)
        _check_cells(engine, scheduler, by_session, running)
    assert n_requests >= 2000
    assert cached > 5 * n_requests, "the test is of no worth where nothing is shared"
    for session in by_session:
        scheduler.forget_session(session)
    assert not any(secrets(cell.history) for cell in engine.cells), "a secret outlived its session"


def _slots(
    scheduler: Scheduler, running: dict[str, tuple[Conversation, GenerationRequest]]
) -> dict[int, tuple[Conversation, GenerationRequest]]:
    return {sequence.chunk.slot: running[name] for name, sequence in scheduler._running.items() if name in running}


def _check_cells(
    engine: CellEngine,
    scheduler: Scheduler,
    by_session: dict[str, Conversation],
    running: dict[str, tuple[Conversation, GenerationRequest]],
) -> None:
    """Whose secrets each sequence can reach: its own conversation's, and nobody's where it is a template."""
    allowed = {slot: {one.secret} for slot, (one, _) in _slots(scheduler, running).items()}
    for session, kept in scheduler._reuse._sessions.items():
        allowed[kept.sequence] = {by_session[session].secret}
    for cell in engine.cells:
        if found := secrets(cell.history):
            for sequence in cell.sequences:
                assert found <= allowed.get(sequence, set())
