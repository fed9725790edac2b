"""A run's folder and its record: what was asked, which stages are done, what came out.

runs/NAME/run.json      this record, whole after every stage
runs/NAME/corpus/       the teacher's answers and scores
runs/NAME/align.json    how far the two tokenizers agree
runs/NAME/sft/, kd/     the two stages of training: checkpoints, log, pictures
runs/NAME/student/      the student as a checkpoint, an adapter merged
runs/NAME/adapter/      the adapter alone, where there is one
runs/NAME/tune/, ablate/
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from edgemed import __version__
from edgemed.core.errors import UsageError
from edgemed.core.files import write_text
from edgemed.core.progress import Progress
from edgemed.core.records import Record
from edgemed.demo import demo_checkpoint_path
from edgemed.distill.config import DistillConfig

RECORD = "run.json"
_LOCK = "run.lock"
STUDENT, ADAPTER = "student", "adapter"
StageName = Literal["teach", "align", "sft", "kd", "examine", "export", "tune", "ablate"]

_NEEDS: dict[StageName, tuple[str, ...]] = {
    "teach": ("teacher", "data", "teach"),
    "align": ("student",),
    "sft": ("seed", "student", "loss", "adapter", "sft", "curriculum", "training"),
    "kd": ("kd",),
    "examine": (),
    "export": (),
    "tune": ("tune", "kd"),
    "ablate": ("kd",),
}
"""The keys that each stage depends on, beside those of the stages before it."""
_FREE = {
    "output",
    "ablate.seeds",
    "ablate.arms",
    "ablate.workers",
    "teacher.batch",
    "teacher.replicas",
    "teacher.tensor_parallel",
    "teacher.url",
    "training.threads",
    "training.save_every",
    "training.keep_checkpoints",
}
"""Keys that may change between two goes at one run: no result depends on them."""


class StageRecord(Record):
    """One stage of a run."""

    name: StageName
    finished: bool = False
    seconds: float = Field(default=0.0, ge=0)
    report: dict[str, Any] = Field(default_factory=dict)
    """What the stage says of itself, as its own record."""


class RunRecord(Record):
    """One distillation, as far as it has come."""

    schema_version: Literal[1] = 1
    made_by: str = f"edgemed {__version__}"
    name: str
    finished: bool = False
    """The student lies in `student`."""
    output: Path
    config: DistillConfig
    config_digest: str
    provenance: dict[str, str] = Field(default_factory=dict)
    """Digests of what went in: examples, teacher, tokenizers, templates."""
    stages: tuple[StageRecord, ...] = ()
    student: Path | None = None
    adapter: Path | None = None

    def stage(self, name: StageName) -> StageRecord | None:
        """The stage of that name, if it was begun."""
        return next((stage for stage in self.stages if stage.name == name), None)

    def is_finished(self, name: StageName) -> bool:
        """Whether the stage came to its end."""
        stage = self.stage(name)
        return stage is not None and stage.finished

    def with_stage(self, stage: StageRecord) -> RunRecord:
        """The same with this stage in its place."""
        names = [one.name for one in self.stages]
        rest = tuple(stage if one.name == stage.name else one for one in self.stages)
        return self.model_copy(update={"stages": rest if stage.name in names else (*self.stages, stage)})


def new_record(config: DistillConfig) -> RunRecord:
    """A run that has not begun; its folder is `config.output`."""
    output = config.output or Path()
    digest = config.model_copy(update={"output": None}).digest()
    return RunRecord(name=output.name, output=output, config=config, config_digest=digest)


def save_record(record: RunRecord) -> None:
    """Write it in its place, whole."""
    write_text(record.output / RECORD, record.model_dump_json(indent=2) + "\n")


def read_record(folder: Path) -> RunRecord | None:
    """The record of a folder; None when it holds none that can be read."""
    try:
        return RunRecord.model_validate_json((folder / RECORD).read_bytes())
    except (OSError, ValidationError):
        return None


def earlier_record(config: DistillConfig) -> RunRecord | None:
    """What is there to go on with in the output folder; None for an empty place.

    Raises UsageError for a folder that is not a run's, and for a run of other settings: its work is not overwritten.
    """
    folder = config.output or Path()
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder.", next_step="name another with --output")
    found = read_record(folder)
    if found is None:
        if _holds_something(folder):
            raise UsageError(
                f"{folder} holds something else than a run of this program.", next_step="name another with --output"
            )
        return None
    if changed := changed_keys(found, config):
        raise UsageError(
            f"The run in {folder} was begun with another {', '.join(changed)}.",
            next_step="--output DIR for a run of its own, or --no-resume, which moves the old one aside",
        )
    return found


def changed_keys(record: RunRecord, config: DistillConfig) -> list[str]:
    """The keys that differ from those a run was begun with, and that what it has done depends on."""
    needed = {key for stage in record.stages for key in _NEEDS[stage.name]}
    before, now = dict(_flat(record.config.model_dump(mode="json"))), dict(_flat(config.model_dump(mode="json")))
    keys = sorted(before.keys() | now.keys())
    return [
        key
        for key in keys
        if not _same(before.get(key), now.get(key)) and key not in _FREE and key.split(".", 1)[0] in needed
    ]


@contextmanager
def alone_in(folder: Path, *, waits: bool = False) -> Iterator[None]:
    """While the block runs, no other process of this program works on the run.

    Raises UsageError when one does, unless it `waits` for that one. The system gives the lock back with its process,
    however that ends; Windows knows none.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be written: {error.strerror}.", next_step="name another folder with --output"
        ) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise UsageError(
                f"Another process works on the run in {folder}.",
                next_step="wait for it, or name another folder with --output",
            ) from error
        yield
    finally:
        os.close(handle)


def moved_aside(folder: Path, progress: Progress) -> Path | None:
    """Where an earlier run now lies; None when there was nothing. Nothing is deleted."""
    if not _holds_something(folder):
        return None
    number = next(n for n in range(1, 10_000) if not folder.with_name(f"{folder.name}.before-{n}").exists())
    aside = folder.with_name(f"{folder.name}.before-{number}")
    folder.rename(aside)
    progress.note(f"The earlier run was moved to {aside}; remove it when you no longer need it.")
    return aside


def _same(one: Any, other: Any) -> bool:
    """Equal, or the shipped checkpoint of two installations: the corpus knows the teacher by its weights."""
    shipped = demo_checkpoint_path().parts[-4:]
    return bool(one == other) or all(
        isinstance(path, str) and Path(path).parts[-4:] == shipped for path in (one, other)
    )


def _holds_something(folder: Path) -> bool:
    return folder.exists() and any(path.name != _LOCK for path in folder.iterdir())


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(inner, f"{path}.{name}" if path else name)
    else:
        yield path, value
