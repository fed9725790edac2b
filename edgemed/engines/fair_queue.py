"""Who is next: two lanes, and within a lane the clients in turn.

An emergency goes before everybody of the normal lane, whoever came first; but of those that could begin one after the
other, at most `EMERGENCIES_IN_A_ROW` are emergencies while a normal request waits: then one normal one begins. A client
with many requests waits for itself: each round of a lane begins one of every client's, in the order in which the
clients came. A request without a client's name is a client of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from edgemed.engines.base import Lane

EMERGENCIES_IN_A_ROW = 8
"""So many before a normal request's turn comes; it waits longer the more emergencies there are, never for ever."""


class FairQueue:
    """Ids of the requests that wait. Finding all places costs one pass; nothing else grows with the length."""

    def __init__(self) -> None:
        self._lanes: dict[Lane, _Turns] = {"emergency": _Turns(), "normal": _Turns()}
        self._lane_of: dict[str, Lane] = {}
        self._in_a_row = 0
        """Emergencies that began since a normal request did, or since none waited."""
        self._told: dict[str, int] = {}
        self._changed = False

    def push(self, request_id: str, lane: Lane, client: str) -> None:
        """Let one wait."""
        self._lane_of[request_id] = lane
        self._lanes[lane].push(request_id, client)
        self._changed = True

    def first(self) -> str:
        """The one whose turn it is. Raises StopIteration when nobody waits."""
        return next(iter(self._lanes[self._next_lane(self._in_a_row)]))

    def begin(self) -> None:
        """The first one leaves because it begins: the next client's turn comes."""
        lane = self._next_lane(self._in_a_row)
        request_id = self._lanes[lane].pop()
        del self._lane_of[request_id]
        self._in_a_row = self._in_a_row + 1 if lane == "emergency" and self._lanes["normal"] else 0
        self._changed = True

    def remove(self, request_id: str) -> None:
        """One leaves without having begun; nobody's turn changes."""
        self._lanes[self._lane_of.pop(request_id)].remove(request_id)
        self._changed = True

    def moved(self) -> list[tuple[str, int]]:
        """Those whose place is another than when this was last asked, with the new one; 1 is next."""
        if not self._changed:
            return []
        self._changed = False
        told, self._told = self._told, {request_id: place for place, request_id in enumerate(self._order(), 1)}
        return [(request_id, place) for request_id, place in self._told.items() if told.get(request_id) != place]

    def _next_lane(self, in_a_row: int) -> Lane:
        normal_first = self._lanes["normal"] and in_a_row >= EMERGENCIES_IN_A_ROW
        return "emergency" if self._lanes["emergency"] and not normal_first else "normal"

    def _order(self) -> Iterator[str]:
        """Everybody, in the order in which they would begin if nobody else came."""
        normal = list(self._lanes["normal"])
        at, in_a_row = 0, self._in_a_row
        for request_id in self._lanes["emergency"]:
            if in_a_row >= EMERGENCIES_IN_A_ROW and at < len(normal):
                yield normal[at]
                at, in_a_row = at + 1, 0
            yield request_id
            in_a_row += 1
        yield from normal[at:]


class _Turns:
    """One lane: each client's requests in order, the clients in the order of their turns."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], deque[str]] = {}
        """The first client's turn is next; one whose turn is over goes to the end."""
        self._client_of: dict[str, tuple[str, str]] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __iter__(self) -> Iterator[str]:
        return _in_rounds(self._waiting.values())

    def push(self, request_id: str, client: str) -> None:
        key = (client, "" if client else request_id)
        self._client_of[request_id] = key
        self._waiting.setdefault(key, deque()).append(request_id)

    def pop(self) -> str:
        key = next(iter(self._waiting))
        ids = self._waiting.pop(key)
        request_id = ids.popleft()
        del self._client_of[request_id]
        if ids:
            self._waiting[key] = ids
        return request_id

    def remove(self, request_id: str) -> None:
        key = self._client_of.pop(request_id)
        ids = self._waiting[key]
        ids.remove(request_id)
        if not ids:
            del self._waiting[key]


def _in_rounds(clients: Iterable[deque[str]]) -> Iterator[str]:
    """One of each client, then the second of each that has one, and so on."""
    left = [iter(ids) for ids in clients]
    while left:
        going_on = []
        for ids in left:
            if (request_id := next(ids, None)) is not None:
                yield request_id
                going_on.append(ids)
        left = going_on
