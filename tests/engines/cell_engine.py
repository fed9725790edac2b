"""A step engine with a unified KV cache made of cells, each of which knows by whom and after what it was written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edgemed.core.errors import EngineFailed
from edgemed.engines.base import Sampling
from edgemed.engines.scheduler import Chunk

END = 0
LETTERS = "abcdefghij"


def next_token(history: Sequence[int]) -> int:
    """The model: a token that depends on every token before it; END about one time in eleven."""
    return (sum((i + 1) * token for i, token in enumerate(history)) * 7 + len(history)) % (len(LETTERS) + 1)


@dataclass(slots=True)
class Cell:
    """One token in the cache."""

    history: tuple[int, ...]
    """All tokens up to this one, as the sequence that wrote it had read them."""
    writer: object
    adapter: str = ""
    sequences: set[int] = field(default_factory=set)


class CellEngine:
    """Answers with `next_token`; asserts everything that a real cache demands of whoever feeds it."""

    def __init__(self, n_slots: int, n_batch: int, context_length: int, n_kept: int) -> None:
        self.n_slots, self.n_batch, self.context_length, self.n_kept = n_slots, n_batch, context_length, n_kept
        self.closing: tuple[int, ...] | None = None
        self.n_cells = n_slots * context_length
        self.cells: list[Cell] = []
        self.acquired: set[int] = set()
        self.writer_of: Callable[[int], object] = lambda slot: slot
        self.refuses = False
        self.shares = True
        self.adapters = frozenset({"lora"})
        self.adapter = ""
        self.n_read = 0
        self.n_steps = 0

    def cells_of(self, sequence: int) -> list[Cell]:
        """In order of their positions, which must be those from 0 on, each once."""
        found = sorted((cell for cell in self.cells if sequence in cell.sequences), key=lambda cell: len(cell.history))
        for at, cell in enumerate(found):
            assert len(cell.history) == at + 1, "a hole, or one position twice"
            assert found[-1].history[: at + 1] == cell.history, "a cell that was written after other words"
        return found

    def history_of(self, sequence: int) -> tuple[int, ...]:
        """The tokens that a sequence holds."""
        found = self.cells_of(sequence)
        return found[-1].history if found else ()

    def use_adapter(self, name: str) -> None:
        self.adapter = name

    def acquire(self, slot: int, sampling: Sampling) -> None:
        assert 0 <= slot < self.n_slots
        assert slot not in self.acquired
        assert not self.cells_of(slot), "a slot that was not empty"
        self.acquired.add(slot)

    def release(self, slot: int) -> None:
        self.acquired.remove(slot)
        self._empty(slot)

    def share(self, source: int, target: int, n_tokens: int) -> bool:
        assert 0 <= max(source, target) < self.n_slots + self.n_kept
        assert source != target
        assert not self.cells_of(target), "the target was not empty"
        shared = self.cells_of(source)[:n_tokens]
        assert len(shared) == n_tokens > 0, "more than there is"
        if not self.shares:
            return False
        for cell in shared:
            cell.sequences.add(target)
        return True

    def forget(self, sequence: int) -> None:
        assert self.n_slots <= sequence < self.n_slots + self.n_kept
        self._empty(sequence)

    def _empty(self, sequence: int) -> None:
        for cell in self.cells:
            cell.sequences.discard(sequence)
        self.cells = [cell for cell in self.cells if cell.sequences]

    def decode(self, chunks: Sequence[Chunk]) -> list[int]:
        self.n_steps += 1
        if self.refuses:
            raise EngineFailed("refused to order")
        assert 0 < sum(len(chunk.tokens) for chunk in chunks) <= self.n_batch
        assert len({chunk.slot for chunk in chunks}) == len(chunks)
        drawn = []
        for chunk in chunks:
            assert chunk.slot in self.acquired
            history = self.history_of(chunk.slot)
            assert chunk.position == len(history)
            for token in chunk.tokens:
                history = (*history, token)
                self.cells.append(Cell(history, self.writer_of(chunk.slot), self.adapter, {chunk.slot}))
                self.n_read += 1
            assert len(history) <= self.context_length
            if chunk.wants_token:
                drawn.append(next_token(history))
        assert len(self.cells) <= self.n_cells, "more cells than the pool has"
        return drawn

    def piece(self, token: int) -> bytes | None:
        return None if token == END else LETTERS[token - 1].encode() if token <= len(LETTERS) else b"?"
