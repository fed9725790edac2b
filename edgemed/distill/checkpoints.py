"""One stage's folder: what it has reached, whole, and never gone on with under other settings.

FOLDER/identity.json         of what the stage was begun
FOLDER/steps.jsonl           one line per step (step_log.py)
FOLDER/checkpoint-300/       weights in training, optimizer, state; whole.json, written last, names every file
FOLDER/finished/             the trained weights and report.json; the checkpoints are gone then
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from edgemed.core.errors import UsageError
from edgemed.core.files import sync_folder, whole_folder, write_text
from edgemed.core.records import Record
from edgemed.distill.lesson import Lesson

WHOLE = "whole.json"
TRAINED = "trained.safetensors"
_IDENTITY, _FINISHED, _REPORT = "identity.json", "finished", "report.json"
_NAME = re.compile(r"checkpoint-(\d+)")
_SAMPLE = 16_384
"""Numbers of a tensor that its digest reads: training moves next to all of them."""


class StageIdentity(Record):
    """All that the result of a stage depends on; digests but for the plain numbers."""

    stage: str
    seed: int
    steps: int
    settings: str
    loss: str
    curriculum: str
    adapter: str
    dtype: str
    lessons: str
    student: str


class _Whole(Record):
    step: int
    files: dict[str, str]
    """Path within the checkpoint to SHA-256."""


class StageFolder:
    """The checkpoints of one stage."""

    def __init__(self, folder: Path, identity: StageIdentity, keep: int) -> None:
        """Nothing is touched yet. `keep` whole checkpoints stay on the disk."""
        self.folder, self._identity, self._keep = folder, identity, keep

    def begin(self) -> None:
        """Begins the stage, or goes on with it. Raises UsageError when it was begun with other settings."""
        path = self.folder / _IDENTITY
        if not path.exists():
            write_text(path, self._identity.model_dump_json(indent=2) + "\n")
            return
        try:
            found = StageIdentity.model_validate_json(path.read_bytes()).model_dump()
        except ValidationError:
            found = {}
        mine = self._identity.model_dump()
        if changed := [name for name in mine if mine[name] != found.get(name)]:
            raise UsageError(
                f"The training in {self.folder} was begun with another {', '.join(changed)}.",
                next_step="name another output folder, or remove that one",
            )

    def clear(self) -> None:
        """Forget everything."""
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def newest(self) -> tuple[int, Path] | None:
        """Step and folder of the newest whole checkpoint; reads it through, to compare digests."""
        for step, path in sorted(self._checkpoints(), reverse=True):
            if self._is_whole(path, step):
                return step, path
        return None

    def remove_torn(self, good: Path | None) -> None:
        """Remove what is newer than the checkpoint that is gone on with, and what never became whole."""
        newest = max((step for step, path in self._checkpoints() if path == good), default=-1)
        for step, path in self._checkpoints():
            if step > newest or not (path / WHOLE).exists():
                shutil.rmtree(path)

    def seal(self, step: int) -> None:
        """Make the checkpoint of a step count: all of it is on the disk before its marker is."""
        path = self.path_of(step)
        files = {str(file.relative_to(path)): _sealed(file) for file in sorted(path.rglob("*")) if file.is_file()}
        for folder in {file.parent for file in path.rglob("*")} | {path, self.folder}:
            sync_folder(folder)
        write_text(path / WHOLE, _Whole(step=step, files=files).model_dump_json() + "\n")
        whole = sorted((step for step, path in self._checkpoints() if (path / WHOLE).exists()), reverse=True)
        for old in whole[self._keep :]:
            self._remove(self.path_of(old))

    def path_of(self, step: int) -> Path:
        """Where a step's checkpoint lies, as transformers names it."""
        return self.folder / f"checkpoint-{step}"

    def finish(self, weights: Mapping[str, Any], report: Record) -> None:
        """The end: the trained tensors and the report, whole; checkpoints serve no more and go."""
        from safetensors.torch import save_file

        with whole_folder(self.folder / _FINISHED) as part:
            save_file(dict(weights), part / TRAINED)
            (part / _REPORT).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
            for file in part.iterdir():
                _sealed(file)
        sync_folder(self.folder)
        for _, path in self._checkpoints():
            self._remove(path)

    def finished(self) -> tuple[Path, bytes] | None:
        """The file of trained tensors and the report of a stage that came to its end."""
        folder = self.folder / _FINISHED
        return (folder / TRAINED, (folder / _REPORT).read_bytes()) if folder.exists() else None

    def _checkpoints(self) -> list[tuple[int, Path]]:
        if not self.folder.exists():
            return []
        return [(int(m[1]), path) for path in self.folder.iterdir() if (m := _NAME.fullmatch(path.name))]

    def _is_whole(self, path: Path, step: int) -> bool:
        try:
            found = _Whole.model_validate_json((path / WHOLE).read_bytes())
            return found.step == step and all(
                _digest(path / name) == expected for name, expected in found.files.items()
            )
        except (OSError, ValidationError):
            return False

    def _remove(self, path: Path) -> None:
        # The marker first: a checkpoint that is half removed must not look whole.
        (path / WHOLE).unlink(missing_ok=True)
        shutil.rmtree(path)


def trained_tensors(model: Any) -> dict[str, Any]:
    """What is trained, by name, on the CPU."""
    found = ((name, one) for name, one in model.named_parameters() if one.requires_grad)
    return {name: one.detach().cpu().contiguous() for name, one in found}


def load_trained(model: Any, file: Path) -> None:
    """Put the tensors of a checkpoint or of a finished stage into a model that is made like the one they come from."""
    import torch
    from safetensors.torch import load_file

    found, wanted = load_file(file), {name: one for name, one in model.named_parameters() if one.requires_grad}
    if found.keys() != wanted.keys() or any(found[name].shape != one.shape for name, one in wanted.items()):
        raise UsageError(
            f"{file} holds the weights of another model.",
            next_step="name another output folder, or remove that one",
        )
    with torch.no_grad():
        for name, one in wanted.items():
            one.copy_(found[name])


_OF_ANSWERS = ("ids", "token_weights")
_OF_TEACHER = ("chunks", "teacher", "chunk_weights", "entities", "entity_weights", "places", "place_weights",
               "rival_ids", "rival_log_probs", "hidden")  # fmt: skip


def digest_of_lessons(lessons: Iterable[Lesson], *, distills: bool = True) -> str:
    """SHA-256 of everything that the loss and the curriculum read; without distillation no loss reads the teacher's."""
    found = hashlib.sha256()
    for lesson in lessons:
        found.update(f"{lesson.example} {lesson.kind} {lesson.specialty} {sorted(lesson.measures.items())}".encode())
        for name in _OF_ANSWERS + (_OF_TEACHER if distills else ()):
            found.update(np.ascontiguousarray(getattr(lesson, name)).tobytes() + b"|")
    return found.hexdigest()


def digest_of_start(tensors: Iterable[tuple[str, Any]]) -> str:
    """SHA-256 of names, shapes and the first numbers of each tensor of a model: tells one model from another."""
    import torch

    found = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        some = tensor.detach().reshape(-1)[:_SAMPLE].cpu().contiguous()
        found.update(some.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _sealed(file: Path) -> str:
    handle = os.open(file, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return _digest(file)


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
