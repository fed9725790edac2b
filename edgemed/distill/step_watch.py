"""What is looked at in every step of a stage: is its loss a number, is it time to save, was the end asked for."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from transformers import TrainerCallback

from edgemed.core.errors import EdgemedError
from edgemed.core.progress import Task
from edgemed.distill.batches import TERMS, Steps, coefficients
from edgemed.distill.checkpoints import StageFolder
from edgemed.distill.config import StageConfig
from edgemed.distill.schedule import learning_rate
from edgemed.distill.step_log import StepLine, StepLog

Agree = Callable[[bool], tuple[list[float], float, bool]]
"""Whether this process was asked to stop; then of all processes: terms, the gradient's norm, whether one was asked."""
_NAMED = 20
"""Examples that an error names at most."""


class StepWatch(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Looks at each step: is its loss a number, is it time to save, was the end asked for."""

    def __init__(self, steps: Steps, stage: StageConfig, store: StageFolder, log: StepLog, agree: Agree) -> None:
        self._steps, self._stage, self._store, self._log, self._agree = steps, stage, store, log, agree
        self.stopping = False
        """The end was asked for, and comes behind this step."""
        self._started = 0.0

    def begin(self, task: Task, asked: list[int], *, writes: bool) -> None:
        """`asked` fills with the signals that ask for the end; one of all processes writes the log."""
        self._task, self._asked, self._writes = task, asked, writes

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._started = time.monotonic()

    def on_pre_optimizer_step(self, arguments: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Before any weight moves, the same in all processes."""
        step, counts = state.global_step, coefficients(self._steps.loss)
        terms, norm, self.stopping = self._agree(bool(self._asked))
        loss = sum(value * count for value, count in zip(terms, counts, strict=True))
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise self._not_finite(step, "loss" if not math.isfinite(loss) else "gradient")
        self._line = StepLine(
            step=step + 1,
            loss=loss,
            terms={name: value for name, value, count in zip(TERMS, terms, counts, strict=True) if count > 0},
            rate=self._stage.rate * share_of_rate(step, self._stage, self._steps.curriculum.n_steps),
            grad_norm=norm,
            seconds=0.0,
            tokens=self._steps.n_tokens(step),
            examples=self._stage.examples_per_step,
        )

    def on_step_end(self, arguments: Any, state: Any, control: Any, **_: Any) -> Any:
        """One line, and what comes next."""
        seconds = time.monotonic() - self._started
        if self._writes:
            self._log.add(self._line.model_copy(update={"seconds": seconds}))
        self._task.advance(1)
        self._task.describe(f"loss {self._line.loss:.3f}")
        left = self._steps.curriculum.n_steps - state.global_step
        control.should_save = left > 0 and (self.stopping or state.global_step % arguments.save_steps == 0)
        self.stopping = self.stopping and left > 0
        control.should_training_stop = control.should_training_stop or self.stopping
        return control

    def _not_finite(self, step: int, what: str) -> EdgemedError:
        examples = self._steps.examples(step)
        named = ", ".join(map(str, examples[:_NAMED])) + (", ..." if len(examples) > _NAMED else "")
        newest = self._store.newest()
        kept = f"the checkpoint of step {newest[0]} is kept" if newest else "there was no checkpoint yet"
        return EdgemedError(
            f"The {what} of step {step + 1} is not a finite number; its weights were not touched, and {kept}. "
            f"The step's examples in the corpus: {named}.",
            next_step="look at those examples and at the teacher's scores of them, or lower the learning rate",
        )


def share_of_rate(step: int, stage: StageConfig, n_steps: int) -> float:
    """The learning rate at a step as a part of the highest: equation (5) behind a linear warm-up."""
    rate = learning_rate(step, n_steps, restarts=stage.restarts, highest=stage.rate, lowest=stage.lowest_rate)
    return rate / stage.rate * min(1.0, (step + 1) / max(1, stage.warmup_steps))


@contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """The signals that asked for the end, as they come; a second one of Ctrl-C ends at once."""
    asked: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, _: FrameType | None) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    with suppress(ValueError):  # signals belong to the main thread; in any other nobody can ask
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
    try:
        yield asked
    finally:
        for changed, handler in before.items():
            signal.signal(changed, handler)
