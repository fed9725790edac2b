"""Emergencies first, clients in turn, and nobody waits for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgemed.engines.base import Lane
from edgemed.engines.fair_queue import EMERGENCIES_IN_A_ROW, FairQueue

LANES: st.SearchStrategy[Lane] = st.sampled_from(["normal", "emergency"])
CLIENTS = st.sampled_from(["", "a", "b", "c"])
PUSHES = st.tuples(LANES, CLIENTS)


def drained(queue: FairQueue, n: int) -> list[str]:
    begun = []
    for _ in range(n):
        begun.append(queue.first())
        queue.begin()
    return begun


@given(st.lists(st.one_of(PUSHES, st.just("begin"), st.integers(0, 30)), max_size=60))
def test_places_are_the_order_in_which_requests_then_begin(steps: list[tuple[Lane, str] | str | int]) -> None:
    queue, places, waiting = FairQueue(), {}, []
    for number, step in enumerate(steps):
        if isinstance(step, tuple):
            queue.push(str(number), *step)
            waiting.append(str(number))
        elif step == "begin" and waiting:
            waiting.remove(queue.first())
            queue.begin()
        elif isinstance(step, int) and step < len(waiting):
            queue.remove(waiting.pop(step))
        moved = queue.moved()
        assert len(moved) == len(dict(moved))
        assert all(places.get(name) != place for name, place in moved), "a place that had been told"
        places.update(moved)
        places = {name: places[name] for name in waiting}
        assert sorted(places.values()) == list(range(1, len(waiting) + 1))
        assert not queue.moved()
    begun = drained(queue, len(waiting))
    assert begun == sorted(waiting, key=places.__getitem__)


@given(st.lists(PUSHES, max_size=60), st.integers(0, 20))
def test_every_promise_holds_in_the_order_of_those_that_begin(asked: list[tuple[Lane, str]], early: int) -> None:
    queue = FairQueue()
    lanes = {str(number): lane for number, (lane, _) in enumerate(asked)}
    clients = {str(number): client or str(number) for number, (_, client) in enumerate(asked)}
    for name in list(lanes)[:early]:
        queue.push(name, *asked[int(name)])
    begun = drained(queue, min(early, len(asked)) // 2)
    n_early = len(begun)
    for name in list(lanes)[early:]:
        queue.push(name, *asked[int(name)])
    begun += drained(queue, len(asked) - n_early)
    assert sorted(begun) == sorted(lanes)
    waiting = [lanes[name] for name in list(lanes)[:early]]
    in_a_row = _check_lanes([lanes[name] for name in begun[:n_early]], waiting, 0)
    waiting += [lanes[name] for name in list(lanes)[early:]]
    _check_lanes([lanes[name] for name in begun[n_early:]], waiting, in_a_row)
    for lane in ("normal", "emergency"):
        _check_turns([name for name in begun[n_early:] if lanes[name] == lane], clients)


def _check_lanes(order: list[Lane], waiting: list[Lane], in_a_row: int) -> int:
    """Take those that begin out of those that wait; emergencies in a row at the end."""
    for lane in order:
        waiting.remove(lane)
        if lane == "normal":
            assert in_a_row == EMERGENCIES_IN_A_ROW or "emergency" not in waiting, "an emergency waited for nothing"
            in_a_row = 0
        else:
            in_a_row = in_a_row + 1 if "normal" in waiting else 0
            assert in_a_row <= EMERGENCIES_IN_A_ROW, "a normal request waits for too many"
    return in_a_row


def _check_turns(order: list[str], clients: dict[str, str]) -> None:
    for client in set(clients.values()):
        own = [name for name in order if clients[name] == client]
        assert own == sorted(own, key=int), "a client's requests out of their order"
        for other in set(clients.values()) - {client}:
            last = max((at for at, name in enumerate(order) if clients[name] == other), default=-1)
            run = 0
            for name in order[: last + 1]:
                run = run + 1 if clients[name] == client else 0 if clients[name] == other else run
                assert run <= 2, "one client began twice while another waited"


def test_an_emergency_goes_before_all_who_came_earlier() -> None:
    queue = FairQueue()
    for name in ("first", "second"):
        queue.push(name, "normal", "")
    queue.push("urgent", "emergency", "")
    assert queue.moved() == [("urgent", 1), ("first", 2), ("second", 3)]
    assert drained(queue, 3) == ["urgent", "first", "second"]


def test_a_normal_request_waits_for_no_more_than_so_many_emergencies() -> None:
    queue = FairQueue()
    queue.push("patient", "normal", "")
    begun = []
    for number in range(3 * EMERGENCIES_IN_A_ROW):  # always one more comes
        queue.push(str(number), "emergency", "")
        begun += drained(queue, 1)
    assert begun.index("patient") == EMERGENCIES_IN_A_ROW


def test_a_client_with_many_requests_waits_for_itself() -> None:
    queue = FairQueue()
    for number in range(5):
        queue.push(f"a{number}", "normal", "a")
    queue.push("b0", "normal", "b")
    queue.push("alone", "normal", "")
    queue.push("b1", "normal", "b")
    assert drained(queue, 8) == ["a0", "b0", "alone", "a1", "b1", "a2", "a3", "a4"]


def test_whoever_leaves_moves_the_others_up() -> None:
    queue = FairQueue()
    for name in ("x", "y", "z"):
        queue.push(name, "normal", "")
    assert queue.moved() == [("x", 1), ("y", 2), ("z", 3)]
    queue.remove("x")
    assert queue.moved() == [("y", 1), ("z", 2)]
    assert queue.moved() == []
