"""Plans for models that do not exist yet: a shape by name, or a checkpoint, as one recipe would store it.

The engine is asked with a file that holds nothing but a header, so a mix of formats can be judged before hours go into
making it. Nothing can be timed for such a model.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from edgemed.core.errors import UsageError
from edgemed.core.progress import Progress
from edgemed.formats.recipes import bind, find_recipe
from edgemed.hardware.record import HardwareProfile
from edgemed.hardware.synthetic_model import SyntheticShape, synthetic_tensors, write_header_only
from edgemed.models.checkpoint import open_checkpoint, spec_from_checkpoint
from edgemed.models.spec import TensorSpec
from edgemed.plan.advice import Advice, advise
from edgemed.plan.make import make_plan, read_spec
from edgemed.plan.record import Plan
from edgemed.plan.situation import Case, PlanRequest, offers
from edgemed.plan.solved import joint_formats

USUAL_RECIPE = "nf4-int8"
AUTO = "auto"
"""Formats chosen together with their places, at no larger error than the usual recipe's."""
_CONTEXT = 131072
_QWEN_WORDS, _LLAMA_WORDS = 152064, 128256

SHAPES: Mapping[str, SyntheticShape] = {
    "deepseek-r1-distill-qwen-1.5b": SyntheticShape(28, 1536, 8960, 12, 2, 128, 151936, tied=False),
    "deepseek-r1-distill-qwen-7b": SyntheticShape(28, 3584, 18944, 28, 4, 128, _QWEN_WORDS, tied=False),
    "deepseek-r1-distill-qwen-14b": SyntheticShape(48, 5120, 13824, 40, 8, 128, _QWEN_WORDS, tied=False),
    "deepseek-r1-distill-qwen-32b": SyntheticShape(64, 5120, 27648, 40, 8, 128, _QWEN_WORDS, tied=False),
    "deepseek-r1-distill-llama-8b": SyntheticShape(32, 4096, 14336, 32, 8, 128, _LLAMA_WORDS, False, "llama"),
    "deepseek-r1-distill-llama-70b": SyntheticShape(80, 8192, 28672, 64, 8, 128, _LLAMA_WORDS, False, "llama"),
}
"""By name: layers, hidden size, feed-forward, heads, KV heads, head size, vocabulary (the models' config.json)."""
_ARCHITECTURES = {"qwen2": "qwen2", "llama": "llama", "mistral": "llama"}


def plan_on_paper(
    model: str,
    recipe: str | None,
    profile: HardwareProfile,
    request: PlanRequest,
    progress: Progress,
    *,
    explain: bool = False,
) -> tuple[Plan, Advice | None]:
    """How a shape of `SHAPES` or the checkpoint in a folder would run as `recipe` (default: nf4-int8) stores it.

    `auto` chooses formats and places together. With `explain` also what limits it. Raises UsageError for an unknown
    shape, recipe or architecture; as `make_plan` does for what does not fit.
    """
    shape, context_length, name = _shape_of(model)
    chosen = recipe or USUAL_RECIPE
    types = recipe_types(shape, USUAL_RECIPE if chosen == AUTO else chosen)
    with tempfile.TemporaryDirectory(prefix="edgemed-paper-") as folder:
        future = Path(f"{name}-{chosen}.gguf")
        path = write_header_only(Path(folder) / future, shape, types, context_length=context_length)
        made = make_plan(path, profile, request, progress)
        if chosen == AUTO:
            types |= _jointly(made, profile, request)
            path.unlink()
            write_header_only(path, shape, types, context_length=context_length)
            made = make_plan(path, profile, request, progress)
        note = f"{future} does not exist yet: edgemed export makes it. Nothing was timed."
        if chosen == AUTO:
            bits = 8 * sum(tensor.n_bytes for tensor in read_spec(path).tensors) / read_spec(path).n_parameters
            note = (
                "Formats were chosen together with their places, at the usual error of nf4-int8. To choose them by "
                f"measurement: edgemed export CHECKPOINT --recipe auto --target-bpw {bits:.2f}. Nothing was timed."
            )
        identity = made.model.model_copy(update={"path": future})
        command = made.engine_command.replace(str(path), str(future))
        advice = advise(made, profile, request) if explain else None
        changes = {"model": identity, "engine_command": command, "notes": (*made.notes, note)}
        return made.model_copy(update=changes), advice


def _jointly(made: Plan, profile: HardwareProfile, request: PlanRequest) -> dict[str, str]:
    """Formats that make a question faster at no larger error, for the service that the plan offers."""
    case = Case(made.model.path, read_spec(made.model.path), profile, request, offers(profile, request))
    plain = made.engine_config.model_copy(update={"tensor_places": (), "devices": (), "device_shares": ()})
    return joint_formats(case, plain, made.workload)


def recipe_types(shape: SyntheticShape, recipe: str) -> dict[str, str]:
    """The format of every tensor of a GGUF of that shape. Raises UsageError for an unknown recipe."""
    tensors = [
        TensorSpec(name=tensor.name, shape=tensor.shape, type="", role=role, layer=_layer(tensor.name), n_bytes=0)
        for tensor, role in synthetic_tensors(shape, "f16")
    ]
    return {bound.name: bound.type for bound in bind(find_recipe(recipe), tensors, shape.n_layers)}


def is_paper_model(model: str) -> bool:
    """Whether MODEL names a shape or a folder with a checkpoint, not a file to run."""
    return model in SHAPES or bool(model.strip() and Path(model).is_dir())


def _layer(name: str) -> int | None:
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "blk" else None


def _shape_of(model: str) -> tuple[SyntheticShape, int, str]:
    if model in SHAPES:
        return SHAPES[model], _CONTEXT, model
    spec = spec_from_checkpoint(open_checkpoint(Path(model)))
    if spec.architecture not in _ARCHITECTURES:
        raise UsageError(
            f"A {spec.architecture} model cannot be planned for before it is exported.",
            next_step=f"edgemed export {model} --target gguf, then plan with the file",
        )
    shape = SyntheticShape(
        n_layers=spec.n_layers,
        hidden_size=spec.hidden_size,
        ffn_size=spec.ffn_size,
        n_heads=spec.n_heads,
        n_kv_heads=spec.n_kv_heads,
        head_dim=spec.head_dim,
        vocab_size=spec.vocab_size,
        tied=spec.tied_embeddings,
        architecture="qwen2" if _ARCHITECTURES[spec.architecture] == "qwen2" else "llama",
    )
    return shape, spec.context_length, Path(model).resolve().name
