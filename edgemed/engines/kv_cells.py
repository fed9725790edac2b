"""How many cells of the KV cache are taken, where sequences share their beginnings: counted, never estimated.

A cell holds one token at one position and belongs to every sequence that shares it. Sequences come to share cells in
one way only, the beginning of one becomes the beginning of another, so all of them together form a forest: a span is a
run of cells that the same sequences hold, and above it stands the span with the positions before.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Span:
    """Cells at the positions from `start` to before `end`."""

    above: Span | None
    start: int
    end: int
    n_holders: int = 1
    """Sequences that end here, and spans that go on from here."""


class Cells:
    """The account of one pool. A sequence is known by the span in which it ends, and holds it until `release`."""

    def __init__(self) -> None:
        self.n_used = 0
        """Cells that hold a token. Whoever reads tokens into a span of its own adds them here, and moves its end."""

    def opened(self, above: Span | None) -> Span:
        """An empty span of one sequence alone, to go on in; it takes over the sequence's hold of `above`."""
        at = 0 if above is None else above.end
        return Span(above, at, at)

    def share(self, span: Span, n_cells: int) -> Span:
        """The first `n_cells` (at least 1) of the sequence that ends in `span`, held once more."""
        while span.start >= n_cells:
            assert span.above is not None
            span = span.above
        if span.end > n_cells:
            span.above = Span(span.above, span.start, n_cells)  # held by what is left of the span
            span.start = n_cells
            span = span.above
        span.n_holders += 1
        return span

    def release(self, span: Span | None) -> None:
        """Give up a hold; cells that nobody holds any more are free."""
        while span is not None:
            span.n_holders -= 1
            if span.n_holders:
                return
            self.n_used -= span.end - span.start
            span = span.above

    def settled(self, span: Span) -> Span | None:
        """Where a sequence ends that will not go on: its own span, or the one above an empty one. The hold stays."""
        return span if span.end > span.start else span.above
