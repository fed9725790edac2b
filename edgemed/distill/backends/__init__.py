"""Where a teacher runs: in this process, in vLLM, on many machines, or behind a server."""

from __future__ import annotations

from pathlib import Path

from edgemed.core.errors import UsageError
from edgemed.core.progress import Progress
from edgemed.demo import demo_checkpoint_path
from edgemed.distill.backends.base import Teacher, Wanted
from edgemed.distill.config import DEMO, DistillConfig, TeacherConfig


def open_teacher(config: DistillConfig, progress: Progress | None = None) -> Teacher:
    """The teacher that the configuration names; its weights are read once, for their digest, and loaded when needed.

    Raises UsageError for what its back end cannot do, MissingExtra, and ModelRefused for a folder that is no teacher.
    """
    check_backend(config)
    model, teach = config.teacher, config.teach
    new = teach.max_new_tokens if teach.answers == "generated" else 0
    wanted = Wanted(teach.top_k, config.seed, teach.hidden, config.data.max_tokens + new + 1)
    if model.backend == "server":
        from edgemed.distill.backends.server import ServerTeacher

        return ServerTeacher(model, tokenizer_folder(model), wanted)
    folder = _folder(model.model)
    if model.backend == "vllm":
        from edgemed.distill.backends.vllm_engine import VllmTeacher

        return VllmTeacher(folder, tokenizer_folder(model), model, wanted, progress)
    if model.backend == "ray":
        from edgemed.distill.backends.ray_data import RayTeacher

        return RayTeacher(folder, tokenizer_folder(model), model, wanted, progress=progress)
    from edgemed.distill.backends.transformers_model import TransformersTeacher

    device = config.training.device
    return TransformersTeacher(folder, wanted, batch=model.batch, device=device, dtype=model.dtype, progress=progress)


def check_backend(config: DistillConfig) -> None:
    """Raises UsageError for what the teacher's back end cannot do."""
    model, teach = config.teacher, config.teach
    if teach.hidden and model.backend != "transformers":
        raise UsageError(
            f"Hidden states were asked for (teach.hidden); the back end {model.backend!r} gives none.",
            next_step='set teacher.backend = "transformers", or teach.hidden = false and loss.mse = 0',
        )
    if model.backend == "server" and not (model.url and model.tokenizer):
        raise UsageError(
            "A teacher on a server needs its address and its tokenizer.",
            next_step="set teacher.url, and teacher.tokenizer to a folder with the model's tokenizer and template",
        )
    if teach.answers == "generated" and teach.samples > 1 and teach.temperature == 0:
        raise UsageError(
            f"{teach.samples} samples at temperature 0 are all the same.",
            next_step="set teach.temperature above 0, or teach.samples = 1",
        )


def tokenizer_folder(model: TeacherConfig) -> Path:
    """The folder with the teacher's tokenizer and chat template."""
    return Path(model.tokenizer) if model.tokenizer else _folder(model.model)


def _folder(model: str) -> Path:
    return demo_checkpoint_path() if model == DEMO else Path(model)
