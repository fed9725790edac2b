"""The recipe `auto`: what each tensor loses in each format, estimated on medical text, and the mix that loses least.

The estimate (quantize/streamed_sensitivity.py) needs one decoder layer in memory, so it serves a 7B on a CPU, and it
orders tensors as measuring each would: rank correlation 0.99 at a thirtieth of the time (benchmarks/RESULTS.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgemed.core.errors import EdgemedError
from edgemed.core.progress import Progress
from edgemed.core.tensor_types import BY_NAME
from edgemed.core.units import format_bytes
from edgemed.engines.rounding import round_rows
from edgemed.export.preflight import ExportPlan
from edgemed.formats.blocks import dequantize
from edgemed.models.checkpoint import layer_of
from edgemed.quantize.allocation import Assignment, Option, allocate, budget_from
from edgemed.quantize.calibration_texts import CalibrationSet, CalibrationText
from edgemed.quantize.sensitivity import (
    Sensitivity,
    SensitivityInputs,
    checkpoint_digest,
    read_sensitivity,
    write_sensitivity,
)
from edgemed.quantize.streamed_sensitivity import streamed_sensitivity

Floats = npt.NDArray[np.float32]

LAYER_FORMATS = ("q2_k", "q3_k", "iq4_xs", "iq4_nl", "q4_k", "q5_k", "q6_k", "q8_0")
"""Offered to the matrices of decoder layers."""
OUTER_FORMATS = ("iq4_xs", "q4_k", "q5_k", "q6_k", "q8_0")
"""Offered to embedding and head."""
RAISE = 4.0
"""What a tensor loses counts so many times as much, each time that it is raised."""
COMPENSATION = 0.3
"""What is left of a layer's loss when its errors are compensated; embedding and head are rounded to nearest."""
ESTIMATED_TOKENS = 2_000
"""Tokens on which the estimate is made."""


def allocated_formats(
    plan: ExportPlan,
    losses: Sensitivity,
    progress: Progress,
    *,
    target_size: str | None = None,
    target_bpw: float | None = None,
    raised: Mapping[str, int] | None = None,
) -> dict[str, str]:
    """A format for every matrix of the file, by its name there.

    Without a target the mix is as large as the recipe that `plan` was made with. `raised` says how often a matrix
    (checkpoint name) is to count RAISE times as much as estimated. Raises UsageError for a target that cannot be
    reached, with the smallest that can.
    """
    formats = _candidates(plan)
    shapes = {tensor.source: tensor.shape for tensor in plan.conversion.tensors}

    def n_bytes(name: str, form: str) -> int:
        return shapes[name][0] * BY_NAME[form].row_bytes(shapes[name][1])

    budget, fixed = _budget(plan, formats, target_size, target_bpw)
    options = [_weighed(option, (raised or {}).get(option.tensor, 0)) for option in losses.options(n_bytes)]
    assignment: Assignment = allocate(options, budget, fixed)
    progress.note(f"allocated {format_bytes(assignment.n_bytes)}: {assignment.composition()}")
    names = {tensor.source: tensor.name for tensor in plan.conversion.tensors}
    return {names[name]: form for name, form in assignment.formats.items()}


def _weighed(option: Option, times_raised: int) -> Option:
    """An option at what it will cost: estimates are for rounding to nearest, and layers are compensated."""
    compensated = COMPENSATION if layer_of(option.tensor) is not None else 1.0
    return option.model_copy(update={"cost": option.cost * compensated * RAISE**times_raised})


def estimated_losses(plan: ExportPlan, texts: CalibrationSet, kept: Path, progress: Progress) -> Sensitivity:
    """What each matrix of the plan loses in each format: the file `kept`, made now unless it is of the same inputs.

    It holds for every target; the checkpoint is read whole, for its digest and for the estimate.
    """
    formats = _candidates(plan)
    inputs = SensitivityInputs(
        checkpoint=checkpoint_digest(plan.checkpoint),
        texts=texts.digest,
        rounding="nearest",
        measure="second_order",
        seed=0,
    )
    if kept.is_file():
        try:
            earlier = read_sensitivity(kept)
        except EdgemedError:
            earlier = None
        if earlier is not None and earlier.inputs == inputs and {t.tensor for t in earlier.tensors} == set(formats):
            return earlier

    def nearest(rows: Floats, form: str, name: str) -> Floats:
        kind = BY_NAME[form]
        return dequantize(kind, round_rows(rows, kind, None, name))

    estimate = streamed_sensitivity(
        plan.checkpoint, _first(texts, ESTIMATED_TOKENS), formats, nearest, inputs, progress
    )
    write_sensitivity(kept, estimate)
    return estimate


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


def _budget(
    plan: ExportPlan, formats: Mapping[str, tuple[str, ...]], target_size: str | None, target_bpw: float | None
) -> tuple[int, int]:
    """Bytes for all tensors, and those of the tensors that have no choice."""
    chosen = {tensor.name for tensor in plan.conversion.tensors if tensor.source in formats}
    tensor_bytes = sum(part.n_bytes for part in plan.parts)
    fixed = sum(part.n_bytes for part in plan.parts if part.name not in chosen)
    if target_size is None and target_bpw is None:
        return tensor_bytes, fixed
    n_weights = sum(math.prod(part.shape) for part in plan.parts)
    overhead = plan.layout.file_bytes - tensor_bytes
    budget = budget_from(
        n_weights=n_weights, target_size=target_size, target_bpw=target_bpw, file_overhead_bytes=overhead
    )
    return budget, fixed


def _first(texts: CalibrationSet, n_tokens: int) -> list[CalibrationText]:
    """The first texts, until they hold so many tokens."""
    chosen: list[CalibrationText] = []
    for text in texts.texts:
        if sum(len(each.ids) for each in chosen) >= n_tokens:
            break
        chosen.append(text)
    return chosen
