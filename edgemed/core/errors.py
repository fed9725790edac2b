"""Every error a user can meet, and the exit code each one ends the command with.

    EdgemedError               1  failed
    ├── UsageError             2  an argument or a setting that cannot be used
    ├── MissingExtra           3  an optional package is not installed
    ├── PlanInfeasible         4  the model does not fit this machine
    ├── ModelRefused           5  a model file that is damaged, unsafe or not understood
    ├── EngineFailed           6  the inference engine stopped or refused
    │   └── EngineLost         6  the engine's process died; the request may be asked again
    └── Stopped              130  ended because it was asked to; what was done is kept

An error says what happened, with the numbers, then the next step:
"The plan needs 9.1 GiB; this machine offers 6.5 GiB. Next: edgemed export --recipe q4_k_m".
"""

from __future__ import annotations

from typing import ClassVar

EXIT_DONE = 0
EXIT_INTERRUPTED = 130


class EdgemedError(Exception):
    """What happened, and what to do next; shown to the user without a traceback."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, next_step: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.what} Next: {self.next_step}" if self.next_step else self.what


class UsageError(EdgemedError):
    """An argument, a setting or an input file that cannot be used."""

    exit_code = 2


class MissingExtra(EdgemedError):
    """An optional package that this command needs is not installed."""

    exit_code = 3

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(
            f"This command needs the Python package {module}, which is not installed.",
            next_step=f"pip install 'edgemed[{extra}]'",
        )


class PlanInfeasible(EdgemedError):
    """The model, with the context and slots asked for, does not fit this machine."""

    exit_code = 4


class ModelRefused(EdgemedError):
    """A model file that is damaged, unsafe, or of a kind that is not understood."""

    exit_code = 5


class EngineFailed(EdgemedError):
    """The inference engine could not load, or refused a step."""

    exit_code = 6


class EngineLost(EngineFailed):
    """The engine's process ended while the request was running."""


class Stopped(EdgemedError):
    """Long work that was asked to end (Ctrl-C, SIGTERM), kept what it had, and can be gone on with."""

    exit_code = EXIT_INTERRUPTED
