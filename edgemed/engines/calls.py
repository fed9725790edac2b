"""Questions to the engine's process that have one answer: a text's tokens, a text's embedding."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from edgemed.core.errors import EngineFailed, EngineLost
from edgemed.engines import wire
from edgemed.engines.child import Child
from edgemed.engines.in_flight import MOST_LOSSES


class Calls:
    """The calls that wait. `child` waits for one that is ready, `has_left` says whether it is gone; `changed` is the
    engine's lock."""

    def __init__(
        self, changed: threading.Condition, child: Callable[[], Child], has_left: Callable[[Child], bool]
    ) -> None:
        self._changed = changed
        self._child = child
        self._has_left = has_left
        self._answers: dict[int, list[Any] | None] = {}
        """By number; None until the answer has come."""
        self._number = 0

    def __len__(self) -> int:
        return len(self._answers)

    def ask(self, line_of: Callable[[int], bytes], timeout_s: float, on_ask: Callable[[], None]) -> Any:
        """The answer to a numbered command; a second child is asked when the first one ends meanwhile.

        `on_ask` is called before the command is counted as waiting. Raises EngineLost when it takes too long.
        """
        with self._changed:
            for _ in range(MOST_LOSSES):
                child = self._child()
                on_ask()
                row = self._answer_row(child, line_of, timeout_s)
                if row is not None:
                    break
            else:
                raise EngineFailed(
                    f"The engine's process ended {MOST_LOSSES} times while it read this question.",
                    next_step="ask in other words",
                )
        if row[2] is None:
            raise wire.error_of(row[3])
        return row[2]

    def hear(self, row: list[Any]) -> None:
        """Take an answer; one that nobody waits for any more is dropped."""
        if row[1] in self._answers:
            self._answers[row[1]] = row

    def _answer_row(self, child: Child, line_of: Callable[[int], bytes], timeout_s: float) -> list[Any] | None:
        """The child's answer; None when it ended before it answered."""
        self._number += 1
        number = self._number
        self._answers[number] = None
        child.send(line_of(number))
        over = self._changed.wait_for(
            lambda: self._answers[number] is not None or self._has_left(child),
            timeout_s,
        )
        row = self._answers.pop(number)
        if not over:
            raise EngineLost("The engine did not read the text in time.", next_step="ask again")
        return row
