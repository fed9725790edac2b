"""What the next child is told of the requests that the last one left."""

from __future__ import annotations

import json

from edgemed.engines import wire
from edgemed.engines.base import Event, GenerationRequest, Lane
from edgemed.engines.in_flight import InFlight


class Child:
    """Takes the lines."""

    def __init__(self) -> None:
        self.requests: list[GenerationRequest] = []

    def send(self, line: bytes) -> None:
        row = json.loads(line)
        if row[0] == wire.SUBMIT:
            self.requests.append(wire.decode_request(row)[0])

    @property
    def names(self) -> list[str]:
        return [request.id for request in self.requests]


def waiting(child: Child, *lanes: Lane) -> InFlight:
    in_flight, events = InFlight(child.send), list[Event]()
    for number, lane in enumerate(lanes):
        in_flight.add(GenerationRequest(str(number), (1, 2), 5, lane=lane, session="s"), events.append)
    return in_flight


def test_all_that_wait_are_sent_emergencies_first() -> None:
    child = Child()
    waiting(child, "normal", "emergency", "normal", "emergency").send_waiting(n_slots=1)
    assert child.names == ["1", "3", "0", "2"]


def test_after_a_loss_the_emergency_is_the_one_that_is_tried() -> None:
    child = Child()
    in_flight = waiting(child, "normal", "normal", "emergency")
    in_flight.send_waiting(n_slots=1)
    in_flight.end_begun("lost", blame=True)
    child.requests.clear()
    in_flight.send_waiting(n_slots=1)
    assert child.names == ["2"]


def test_a_session_that_was_forgotten_is_not_named_to_the_next_child() -> None:
    child = Child()
    in_flight = waiting(child, "normal", "normal")
    in_flight.send_waiting(n_slots=1)
    in_flight.end_begun("left", blame=False)
    in_flight.forget_session("s")
    in_flight.send_waiting(n_slots=1)
    assert [request.session for request in child.requests] == ["s", "s", "", ""]
