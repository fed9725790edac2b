"""Export below 16 bits: formats chosen to a size, rounding calibrated on medical text, doses compared.

The way of one compressed model
    1  texts to calibrate on; for the recipe `auto`, what each tensor loses in each format, and the best mix of a size
    2  every matrix rounded so that its errors cancel on those texts, layer by layer, in a work folder beside the output
    3  the file, verified as every export is
    4  the clinical report: parent and child answer the same questions in the same engine; a model that gives another
       dose is not put in place unless that was allowed
A run that was killed goes on where it stopped, as long as it is asked for the same.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
from edgemed_converters.plan import ConvertedTensor

from edgemed.core.errors import MissingExtra, UsageError
from edgemed.core.progress import Progress, SilentProgress
from edgemed.core.tensor_types import BY_NAME, TensorType
from edgemed.core.units import format_bytes
from edgemed.export.gguf import export_gguf
from edgemed.export.preflight import ExportPlan, prepare
from edgemed.export.report import ExportReport
from edgemed.formats.blocks import has_codes
from edgemed.formats.recipes import QuantRecipe
from edgemed.models.checkpoint import layer_of
from edgemed.quantize.calibration_texts import CalibrationSet, calibration_set
from edgemed.quantize.layerwise import RoundedTensor, round_layers

_SILENT = SilentProgress()
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

LEAST_TOKENS = 16_000
"""Tokens to calibrate on, at least; more for layers with more inputs than that."""
_TOKENS_PER_INPUT = 1.25
AUTO_BASE = "q4_k_m"
"""The recipe that says, under `auto`, what is no matrix of a decoder layer, and the size where none is asked for."""


@dataclass(frozen=True, slots=True)
class Compression:
    """How a model is made smaller."""

    recipe: str | QuantRecipe
    """A shipped recipe's name, a file, or "auto"."""
    calibration: Path | None = None
    """A file of texts; None: the table of facts."""
    target_size: str | None = None
    """Size of the file, such as "4.6GB"; for `auto`."""
    target_bpw: float | None = None
    """Bits per weight; for `auto`."""


@dataclass(frozen=True, slots=True)
class FinishedTensors:
    """Hands the exporter what was rounded before."""

    by_source: Mapping[str, RoundedTensor]

    def packed(self, planned: ConvertedTensor, kind: TensorType, weights: Floats, start: int) -> Bytes | None:
        """The packed rows from `start` on, as many as `weights` has; None for a tensor that was not rounded."""
        finished = self.by_source.get(planned.source)
        if finished is None:
            return None
        if finished.kind is not kind:
            raise ValueError(f"{planned.source} was rounded to {finished.kind.name}, {kind.name} is wanted")
        return finished.packed()[start : start + len(weights)]


def can_calibrate() -> bool:
    """Whether the packages that run a checkpoint are installed."""
    return find_spec("torch") is not None and find_spec("transformers") is not None


def export_compressed(
    source: Path, output: Path, wanted: Compression, *, progress: Progress = _SILENT, device: str = "cpu"
) -> ExportReport:
    """The report of a finished export with calibrated rounding; see the head of this file.

    Raises what `export_gguf` raises; UsageError for a target without `auto`, for calibration texts that cannot serve,
    and for a size that cannot be reached; MissingExtra without torch.
    """
    require_calibration()
    if wanted.recipe != "auto" and (wanted.target_size or wanted.target_bpw):
        raise UsageError(
            "A target size chooses the formats, and so does a recipe.", next_step="use --recipe auto with a target"
        )
    plan = prepare(source, output, AUTO_BASE if wanted.recipe == "auto" else wanted.recipe)
    texts = _texts(plan, wanted.calibration)
    progress.note(f"calibrating on {texts.n_tokens} tokens of {texts.source}")
    work = output.absolute().parent / f".{output.name}.work"
    assignment: dict[str, str] | None = None
    if wanted.recipe == "auto":
        from edgemed.export.allocate import allocated_formats

        assignment = allocated_formats(plan, texts, wanted, work, progress, device)
        plan = prepare(source, output, AUTO_BASE, assignment)
    finished = round_layers(plan.checkpoint, matrices(plan), texts, work / "layers", progress=progress, device=device)
    report = export_gguf(
        source,
        output,
        recipe=plan.recipe,
        assignment=assignment,
        rounder=FinishedTensors(finished),
        progress=progress,
    )
    shutil.rmtree(work)
    return report


def matrices(plan: ExportPlan) -> dict[str, TensorType]:
    """The matrices of the decoder layers that get a block type, by their names in the checkpoint."""
    types = {part.name: BY_NAME[part.type] for part in plan.parts}
    return {
        tensor.source: types[tensor.name]
        for tensor in plan.conversion.tensors
        if layer_of(tensor.source) is not None and len(tensor.shape) == 2 and has_codes(types[tensor.name])
    }


def require_calibration() -> None:
    """Raise MissingExtra where a checkpoint cannot be run."""
    for module in ("torch", "transformers"):
        if find_spec(module) is None:
            raise MissingExtra(module, "workstation")


def _texts(plan: ExportPlan, file: Path | None) -> CalibrationSet:
    widest = max((plan.checkpoint.tensors[name].shape[1] for name in matrices(plan)), default=1)
    wanted = max(LEAST_TOKENS, math.ceil(_TOKENS_PER_INPUT * widest))
    _check_memory(plan, widest, wanted)
    return calibration_set(plan.checkpoint.folder, file, tokens=wanted, least=widest)


def _check_memory(plan: ExportPlan, widest: int, n_tokens: int) -> None:
    """Raise UsageError when a layer, its statistics and the texts do not fit the free memory."""
    import psutil

    from edgemed.evaluate.streamed_model import LIBRARIES_BYTES

    layer = 4 * max(
        sum(math.prod(tensor.shape) for name, tensor in plan.checkpoint.tensors.items() if layer_of(name) == number)
        for number in range(plan.spec.n_layers)
    )
    moments = 4 * widest * widest
    needed = LIBRARIES_BYTES + 2 * layer + 4 * moments + 4 * n_tokens * plan.spec.hidden_size
    free = psutil.virtual_memory().available
    if free < needed:
        raise UsageError(
            f"Calibrating takes {format_bytes(needed)} of memory; {format_bytes(free)} is free.",
            next_step="close other programs, or round without calibration: --calibration none",
        )
