"""What can be known before the first slow step: data, tokenizers, memory, disk. All faults together."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from edgemed.core.errors import EdgemedError, MissingExtra, PlanInfeasible, UsageError
from edgemed.core.settings import process_place, weights_are_sharded
from edgemed.core.units import format_bytes
from edgemed.distill.config import DistillConfig
from edgemed.distill.examples import Example
from edgemed.distill.rendering import Side
from edgemed.distill.taught import taught_examples
from edgemed.distill.training_memory import Machine, require_training_memory, student_spec, this_machine

_Found = TypeVar("_Found")

_BYTES_A_TOKEN = 3.5
"""Of English text, about; tokens of clinical text are shorter still."""
_TRAINED_BYTES = 12
"""Of a parameter in a checkpoint: itself and AdamW's two moments, float32."""
_SAVED_BYTES = 2
_PLACES = 0.35
"""Share of the tokens at which rivals are kept, with teach.places = "entities"."""


@dataclass(frozen=True, slots=True)
class Ready:
    """What the preflight has read."""

    examples: tuple[Example, ...]
    student: Side
    teacher: Side | None
    """None where no teacher is needed."""


def preflight(config: DistillConfig, *, teacher_needed: bool, trains: bool, teaches: bool) -> Ready:
    """What is taught and both sides' tokenizers, everything checked.

    Raises MissingExtra first; then one UsageError with all faults, or the only one as it is; last PlanInfeasible when
    memory does not suffice, and EdgemedError when the disk does not.
    """
    require_packages(config, trains=trains, teaches=teaches)
    faults: list[EdgemedError] = []

    def tried(check: Callable[[], _Found]) -> _Found | None:
        try:
            return check()
        except EdgemedError as error:
            faults.append(error)
            return None

    examples = tried(lambda: taught_examples(config.data))
    student = tried(lambda: Side(student_tokenizer(config)))
    teacher = tried(lambda: Side(teacher_tokenizer(config))) if teacher_needed else None
    if student and teacher and config.loss.kd == "same" and config.kd.steps:
        tried(lambda: _require_same(student, teacher))
    if len(faults) == 1:
        raise faults[0]
    if faults:
        steps = dict.fromkeys(fault.next_step for fault in faults if fault.next_step)
        raise UsageError(" ".join(fault.what for fault in faults), next_step="; ".join(steps))
    assert examples is not None
    assert student is not None
    if teaches:
        _require_teachers_memory(config)
    if trains:
        _require_students_memory(config, student)
    _require_disk(config, examples, student if trains else None, teaches=teaches)
    return Ready(examples, student, teacher)


def require_packages(config: DistillConfig, *, trains: bool, teaches: bool) -> None:
    """Raises MissingExtra for the first package that is needed and not installed."""
    needed: list[str] = []
    if trains:
        needed += ["torch", "transformers", "accelerate", "safetensors"]
        needed += ["peft"] if config.adapter else []
    if teaches:
        backends = {"transformers": ["torch", "transformers"], "vllm": ["vllm"], "ray": ["ray"], "server": []}
        needed += ["safetensors", *backends[config.teacher.backend]]
    for package in needed:
        if find_spec(package) is None:
            raise MissingExtra(package, {"vllm": "vllm", "ray": "ray"}.get(package, "workstation"))


def teacher_tokenizer(config: DistillConfig) -> Path:
    """The folder with the teacher's tokenizer and template. Raises UsageError when there is none."""
    return _with_tokenizer(Path(config.teacher.tokenizer or config.teacher.model), "teacher")


def student_tokenizer(config: DistillConfig) -> Path:
    """The folder with the student's; a new student has the teacher's unless it names one of its own."""
    new = config.student.new
    if new is None:
        return _with_tokenizer(Path(config.student.model), "student")
    named = new.tokenizer or config.teacher.tokenizer or config.teacher.model
    return _with_tokenizer(Path(named), "student.new.tokenizer" if new.tokenizer else "teacher")


def _with_tokenizer(folder: Path, key: str) -> Path:
    if not folder.is_dir():
        raise UsageError(
            f"{key}: there is no folder {folder}.",
            next_step="put the checkpoint there, or name its folder; nothing is downloaded",
        )
    if not (folder / "tokenizer.json").is_file():
        raise UsageError(
            f"{key}: {folder} holds no tokenizer.json.", next_step="name a complete checkpoint in Hugging Face layout"
        )
    return folder


def _require_same(student: Side, teacher: Side) -> None:
    one, other = student.vocabulary(), teacher.vocabulary()
    if one == other:
        return
    parted = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    raise UsageError(
        f'loss.kd = "same" compares token by token, and teacher and student have different vocabularies: {len(other)} '
        f"and {len(one)} tokens, that differ from number {parted} on.",
        next_step='set loss.kd = "chunks", which aligns any two by their bytes',
    )


def _require_teachers_memory(config: DistillConfig) -> None:
    """Weights alone: what else a teacher needs depends on its batch, which can be lowered."""
    if config.teacher.backend != "transformers":
        return
    machine = machine_of(config)
    stored = sum(path.stat().st_size for path in Path(config.teacher.model).glob("*.safetensors"))
    wide = config.teacher.dtype == "float32" or (config.teacher.dtype == "auto" and machine.device == "cpu")
    needed = stored * (2 if wide else 1)  # checkpoints hold 16 bits a weight
    if needed > machine.free:
        raise PlanInfeasible(
            f"The teacher's weights take about {format_bytes(needed)}; {format_bytes(machine.free)} are free.",
            next_step='teacher.dtype = "bfloat16", or teacher.backend = "server" with the teacher on a larger machine',
        )


def _require_students_memory(config: DistillConfig, student: Side) -> None:
    require_training_memory(config, student_spec(config.student, len(student.vocabulary())), machine_of(config))


def machine_of(config: DistillConfig) -> Machine:
    """What is free where it is computed, for each process."""
    from edgemed.distill.student import device_of

    return this_machine(device_of(config.training), process_place()[1], sharded=weights_are_sharded())


def _require_disk(config: DistillConfig, examples: tuple[Example, ...], student: Side | None, *, teaches: bool) -> None:
    """Corpus, checkpoints and the student at the end, roughly, against what is free where they go."""
    needed = _corpus_bytes(config, examples) if teaches else 0
    if student is not None:
        spec = student_spec(config.student, len(student.vocabulary()))
        n_weights = sum(math.prod(tensor.shape) for tensor in spec.tensors)
        trained = n_weights if config.adapter is None else n_weights // 50
        needed += trained * _TRAINED_BYTES * (config.training.keep_checkpoints + 1) + n_weights * _SAVED_BYTES
    place = config.output or Path.cwd()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise EdgemedError(
            f"This run writes about {format_bytes(needed)} to {place}; {format_bytes(free)} are free.",
            next_step="free space there, or name a folder on another disk with --output",
        )


def _corpus_bytes(config: DistillConfig, examples: tuple[Example, ...]) -> int:
    """Of shards: 8 bytes a token, 6 for each rival."""
    n_tokens = sum(len(example.answer.encode()) / _BYTES_A_TOKEN + 1 for example in examples)
    share = 1.0 if config.teach.places == "all" else _PLACES
    return round(n_tokens * (8 + share * (4 + 6 * config.teach.top_k)))
