"""What was observed of deployment modes, one JSON line each, and the weights that were tuned on it.

A line is one mode in one situation: the figures that the choice saw, and what came of it. Lines of equal `situation`
are the same clinic with the same models and mix, so their modes can be compared in hindsight. No question, no name, no
time of day is in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from edgemed.core.errors import UsageError
from edgemed.core.files import write_text
from edgemed.core.records import Record
from edgemed.core.settings import data_dir
from edgemed.plan.deployment import DEFAULT_WEIGHTS, Mix, ModeFigures, ModeWeights

_MAX_BYTES = 64 * 1024 * 1024
WEIGHTS_FILE = "mode-weights.json"


class Observed(Record):
    """What came of a mode."""

    seconds_per_question: float = Field(gt=0, allow_inf_nan=False)
    """Mean over the questions that were answered, from arrival to the last word, queue left out."""
    memory_bytes: int = Field(ge=0)
    """Highest resident memory."""
    failed: bool = False
    """It did not start, fell to a lower rung of its ladder, or was ended for memory."""


class Observation(Record):
    """One line of the history."""

    schema_version: Literal[1] = 1
    situation: str = Field(min_length=1, max_length=200)
    """The same for the same machine, models and mix; any text, such as a digest."""
    mix: Mix
    figures: ModeFigures
    """As the choice saw them."""
    observed: Observed

    @property
    def failed(self) -> bool:
        """Also when it took more memory than it may."""
        return self.observed.failed or self.observed.memory_bytes > self.figures.memory_limit_bytes


def read_history(path: Path) -> tuple[list[Observation], str]:
    """The observations of a file, and its digest. Raises UsageError naming the line that cannot be read."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UsageError(f"{path} is larger than {_MAX_BYTES} bytes.", next_step="keep the newest observations")
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", next_step="check the path") from error
    found = []
    for number, line in enumerate(raw.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            found.append(Observation.model_validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the line"
            raise UsageError(
                f"{path}, line {number}: {where}: {first['msg']}.", next_step="mend that line, or remove it"
            ) from error
    return found, hashlib.sha256(raw).hexdigest()


def append_observations(path: Path, observations: Sequence[Observation]) -> None:
    """Add lines to a history; each whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(observation.model_dump_json() + "\n" for observation in observations)


def weights_path() -> Path:
    """Where the clinic's tuned weights lie."""
    return data_dir() / WEIGHTS_FILE


def stored_weights(path: Path | None = None) -> ModeWeights:
    """The weights of the file (default: the data directory's); the stated default where there is none.

    Raises UsageError for a file that cannot be read.
    """
    place = path or weights_path()
    try:
        return ModeWeights.model_validate_json(place.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return DEFAULT_WEIGHTS
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise UsageError(
            f"The weights in {place} cannot be read.", next_step="tune them again, or remove the file for the default"
        ) from error


def store_weights(weights: ModeWeights, path: Path | None = None) -> Path:
    """Write them whole; the path."""
    place = path or weights_path()
    write_text(place, weights.model_dump_json(indent=2) + "\n")
    return place
