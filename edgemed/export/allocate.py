"""The recipe `auto`: what each tensor loses in each format, measured, and the mix of a size that loses least."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgemed.core.errors import UsageError
from edgemed.core.progress import Progress
from edgemed.core.tensor_types import BY_NAME
from edgemed.core.units import format_bytes
from edgemed.engines.rounding import round_rows
from edgemed.export.preflight import ExportPlan
from edgemed.formats.blocks import dequantize
from edgemed.models.checkpoint import layer_of
from edgemed.quantize.allocation import allocate, budget_from
from edgemed.quantize.calibration_texts import CalibrationSet, CalibrationText
from edgemed.quantize.rounding import BlockRounding
from edgemed.quantize.second_order import input_moments
from edgemed.quantize.sensitivity import SensitivityInputs, checkpoint_digest, measured_sensitivity

if TYPE_CHECKING:
    from edgemed.export.compress import Compression

Floats = npt.NDArray[np.float32]

LAYER_FORMATS = ("q2_k", "q3_k", "iq4_nl", "q4_k", "q5_k", "q6_k", "q8_0")
"""Offered to the matrices of decoder layers."""
OUTER_FORMATS = ("q4_k", "q5_k", "q6_k", "q8_0")
"""Offered to embedding and head."""
MEASURED_TOKENS = 6_000
"""Tokens on which each tensor in each format is measured."""


def allocated_formats(
    plan: ExportPlan, texts: CalibrationSet, wanted: Compression, work: Path, progress: Progress, device: str
) -> dict[str, str]:
    """A format for every matrix of the file, by its name there.

    Without a target the mix is as large as the recipe that `plan` was made with. The measurements are kept in `work`
    until the export is done, so a run that was killed takes them up again. Raises UsageError when the model does not
    fit the memory, and for a target that cannot be reached.
    """
    import torch
    from transformers import AutoModelForCausalLM

    _check_memory(plan)
    model = AutoModelForCausalLM.from_pretrained(
        str(plan.checkpoint.folder), dtype=torch.float32, local_files_only=True, trust_remote_code=False
    )
    model = model.to(device).eval()
    formats = _candidates(plan)
    with torch.inference_mode():
        moments = input_moments(model, texts.texts)
    weights = {name: tensor.detach().cpu().numpy() for name, tensor in model.named_parameters() if name in formats}

    def rounded(name: str, form: str) -> Floats:
        kind = BY_NAME[form]
        if layer_of(name) is None:
            return dequantize(kind, round_rows(weights[name], kind, None, name))
        return dequantize(kind, BlockRounding(kind).round(weights[name], moments[name], name, device).stored)

    some = _first(texts, MEASURED_TOKENS)
    inputs = SensitivityInputs(
        checkpoint=checkpoint_digest(plan.checkpoint), texts=texts.digest, rounding=f"compensated, {MEASURED_TOKENS}"
    )
    work.mkdir(parents=True, exist_ok=True)
    measured = measured_sensitivity(model, some, formats, rounded, inputs, work / "sensitivity.json", progress)
    names = {tensor.source: tensor.name for tensor in plan.conversion.tensors}
    shapes = {tensor.source: tensor.shape for tensor in plan.conversion.tensors}

    def n_bytes(name: str, form: str) -> int:
        return shapes[name][0] * BY_NAME[form].row_bytes(shapes[name][1])

    budget, fixed = _budget(plan, wanted, formats)
    assignment = allocate(measured.options(n_bytes), budget, fixed)
    progress.note(f"allocated {format_bytes(assignment.n_bytes)}: {assignment.composition()}")
    return {names[name]: form for name, form in assignment.formats.items()}


def _candidates(plan: ExportPlan) -> dict[str, tuple[str, ...]]:
    """Formats to be tried for each matrix, by its name in the checkpoint: those whose blocks fit its rows."""
    found = {}
    for tensor in plan.conversion.tensors:
        if len(tensor.shape) != 2:
            continue
        offered = LAYER_FORMATS if layer_of(tensor.source) is not None else OUTER_FORMATS
        fitting = tuple(name for name in offered if tensor.shape[1] % BY_NAME[name].block_size == 0)
        if fitting:
            found[tensor.source] = fitting
    return found


def _budget(plan: ExportPlan, wanted: Compression, formats: dict[str, tuple[str, ...]]) -> tuple[int, int]:
    """Bytes for all tensors, and those of the tensors that have no choice."""
    chosen = {tensor.name for tensor in plan.conversion.tensors if tensor.source in formats}
    tensor_bytes = sum(part.n_bytes for part in plan.parts)
    fixed = sum(part.n_bytes for part in plan.parts if part.name not in chosen)
    if wanted.target_size is None and wanted.target_bpw is None:
        return tensor_bytes, fixed
    n_weights = sum(math.prod(part.shape) for part in plan.parts)
    overhead = plan.layout.file_bytes - tensor_bytes
    return (
        budget_from(
            n_weights=n_weights,
            target_size=wanted.target_size,
            target_bpw=wanted.target_bpw,
            file_overhead_bytes=overhead,
        ),
        fixed,
    )


def _first(texts: CalibrationSet, n_tokens: int) -> list[CalibrationText]:
    """The first texts, until they hold so many tokens."""
    chosen: list[CalibrationText] = []
    for text in texts.texts:
        if sum(len(each.ids) for each in chosen) >= n_tokens:
            break
        chosen.append(text)
    return chosen


def _check_memory(plan: ExportPlan) -> None:
    import psutil

    needed = int(1.5 * 4 * plan.spec.n_parameters)
    free = psutil.virtual_memory().available
    if free < needed:
        raise UsageError(
            f"Measuring what each tensor loses takes the whole model in float32, {format_bytes(needed)} of memory; "
            f"{format_bytes(free)} is free.",
            next_step="use a machine with more memory, or a recipe: --recipe nf4-int8",
        )
