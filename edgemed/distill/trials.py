"""Many trainings of one configuration's variants: each in a folder of its own, some at a time, whichever is done tells.

What names a variant is a digest of all that decides its result. A training that was interrupted finds its folder
again; when its scores are known the folder is removed.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from edgemed.core.errors import EdgemedError
from edgemed.core.records import digest_of
from edgemed.core.settings import ENGINE_ENVIRONMENT, set_environment
from edgemed.core.with_parent import end_with_parent
from edgemed.distill.config import DistillConfig
from edgemed.distill.examination import Scores

Run = Callable[[DistillConfig, Path], Scores]
"""Trains by a configuration in a folder, resumes what it finds there, and examines. For several processes it must be a
module's own function, or functools.partial of one."""

_NO_MATTER: dict[str, Any] = {
    "output": True,
    "tune": True,
    "ablate": True,
    "training": {"threads", "save_every", "keep_checkpoints", "gradient_checkpointing"},
}
"""What decides no result."""
_SECONDS_TO_STOP = 20.0
"""A process that was told to end may write a checkpoint first."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One training to be done."""

    name: str
    config: DistillConfig

    @property
    def digest(self) -> str:
        """See config_digest."""
        return config_digest(self.config)


@dataclass(frozen=True, slots=True)
class Done:
    """One training that was done."""

    trial: Trial
    scores: Scores
    seconds: float


def config_digest(config: DistillConfig) -> str:
    """SHA-256 of all of a configuration that decides what comes of it."""
    return digest_of(config.model_dump(mode="json", exclude=_NO_MATTER))


def run_trials(trials: Sequence[Trial], folder: Path, run: Run, workers: int = 1) -> Iterator[Done]:
    """Each trial's scores, as soon as they are known; `workers` processes at a time, with a share of the threads each.

    Ends all processes when it is closed or interrupted. Raises what `run` raises, and EdgemedError when a process dies.
    """
    if workers > 1:
        yield from _in_processes(trials, folder, run, workers)
        return
    for trial in trials:
        began = time.monotonic()
        scores = run(trial.config, _folder_of(trial, folder))
        yield _cleared(Done(trial, scores, time.monotonic() - began), folder)


def _in_processes(trials: Sequence[Trial], folder: Path, run: Run, workers: int) -> Iterator[Done]:
    waiting = list(trials)
    staff = [_Worker(run) for _ in range(min(workers, len(waiting)))]
    try:
        busy: dict[Connection, _Worker] = {}
        for worker in staff:
            trial = waiting.pop(0)
            worker.begin(trial, _with_threads(trial.config, workers), _folder_of(trial, folder))
            busy[worker.connection] = worker
        while busy:
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                worker = busy.pop(ready)
                done = worker.done()
                if waiting:
                    trial = waiting.pop(0)
                    worker.begin(trial, _with_threads(trial.config, workers), _folder_of(trial, folder))
                    busy[ready] = worker
                yield _cleared(done, folder)
    finally:
        for worker in staff:
            worker.connection.close()  # who writes a checkpoint and comes back finds no more to do
        _end([worker.process for worker in staff])


class _Worker:
    """A process that does one trial after the other: torch alone takes it seconds to begin."""

    def __init__(self, run: Run) -> None:
        import multiprocessing

        context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        self.connection, theirs = context.Pipe()
        self.process: Any = context.Process(target=_child, args=(theirs, run), daemon=True)
        self.process.start()
        theirs.close()
        self._trial: Trial | None = None
        self._began = 0.0

    def begin(self, trial: Trial, config: DistillConfig, folder: Path) -> None:
        """Hand over one trial."""
        self._trial, self._began = trial, time.monotonic()
        with suppress(OSError):  # of a process that died, which `done` tells
            self.connection.send((config, folder))

    def done(self) -> Done:
        """What came of it. Raises what it raised."""
        assert self._trial is not None
        return Done(self._trial, _received(self.connection, self._trial, self.process), time.monotonic() - self._began)


def _child(connection: Connection, run: Run) -> None:
    """The process of a worker: for each trial it sends the scores, or the error that it met."""
    with suppress(ValueError, OSError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent has it too, and ends this process
    end_with_parent()
    logging.basicConfig(level=logging.ERROR)  # what libraries remark on would stand between the lines of the progress
    while True:
        try:
            config, folder = connection.recv()
        except EOFError:
            return
        set_environment(ENGINE_ENVIRONMENT | {"OMP_NUM_THREADS": str(config.training.threads)})
        outcome = _outcome(run, config, folder)
        try:
            connection.send(outcome)
        except OSError:  # nobody listens any more
            return


def _outcome(run: Run, config: DistillConfig, folder: Path) -> tuple[Any, str, str]:
    try:
        return "scores", run(config, folder).model_dump_json(), ""
    except EdgemedError as error:
        return type(error), error.what, error.next_step
    except Exception as error:  # the one door of this process
        return EdgemedError, f"{type(error).__name__}: {error}", "run this arm with workers = 1 to see more"


def _received(connection: Connection, trial: Trial, process: Any) -> Scores:
    try:
        kind, text, next_step = connection.recv()
    except (EOFError, OSError):
        process.join()
        raise EdgemedError(
            f"The process of {trial.name} ended with code {process.exitcode} and said nothing.",
            next_step="begin the command again with fewer workers; what is done is kept",
        ) from None
    if kind == "scores":
        return Scores.model_validate_json(text)
    error: EdgemedError = kind.__new__(kind)  # some kinds are made of other arguments than what they say
    EdgemedError.__init__(error, f"{trial.name}: {text}", next_step=next_step)
    raise error


def _end(processes: Sequence[Any]) -> None:
    for process in processes:
        process.terminate()
    until = time.monotonic() + _SECONDS_TO_STOP
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def _with_threads(config: DistillConfig, workers: int) -> DistillConfig:
    threads = max(1, (config.training.threads or _cores()) // workers)
    return config.model_copy(update={"training": config.training.model_copy(update={"threads": threads})})


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # Linux: what this process may use
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _folder_of(trial: Trial, folder: Path) -> Path:
    found = folder / f"{trial.name}-{trial.digest[:12]}"
    found.mkdir(parents=True, exist_ok=True)
    return found


def _cleared(done: Done, folder: Path) -> Done:
    shutil.rmtree(_folder_of(done.trial, folder), ignore_errors=True)
    return done
