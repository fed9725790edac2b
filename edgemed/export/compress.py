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

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from edgemed_converters.plan import ConvertedTensor

from edgemed.core.errors import UsageError
from edgemed.core.progress import Progress, SilentProgress
from edgemed.core.tensor_types import BY_NAME, TensorType
from edgemed.evaluate.engine_scorer import EngineScorer
from edgemed.export.gguf import export_gguf
from edgemed.export.preflight import ExportPlan, prepare
from edgemed.export.report import ExportReport
from edgemed.formats.blocks import has_codes
from edgemed.formats.recipes import QuantRecipe, find_recipe
from edgemed.formats.targets import type_of
from edgemed.models.checkpoint import layer_of
from edgemed.models.gguf import check_gguf, spec_from_gguf
from edgemed.quantize.calibration import NO_CALIBRATION, require_calibration, texts_for
from edgemed.quantize.clinical_report import ClinicalReport, ReportSubject, role_sizes
from edgemed.quantize.gate import Judge, decide
from edgemed.quantize.layerwise import RoundedTensor, round_layers, worst
from edgemed.quantize.rounding import BlockRounding

_SILENT = SilentProgress()
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

AUTO_BASE = "q4_k_m"
"""The recipe that says, under `auto`, what is no matrix of a decoder layer, and the size where none is asked for."""


@dataclass(frozen=True, slots=True)
class Compression:
    """How a model is made smaller."""

    recipe: str | QuantRecipe
    """A shipped recipe's name, a file, or "auto"."""
    calibration: str | None = None
    """A file of texts; None: the table of facts; "none": round to nearest, without calibration and report."""
    target_size: str | None = None
    """Size of the file, such as "4.6GB"; for `auto`."""
    target_bpw: float | None = None
    """Bits per weight; for `auto`."""
    accept_changed_doses: bool = False
    """Put the file in place although the clinical gate failed."""


@dataclass(frozen=True, slots=True)
class FinishedTensors:
    """Hands the exporter what was rounded before."""

    by_source: Mapping[str, RoundedTensor]

    def packed(self, planned: ConvertedTensor, kind: TensorType, weights: Floats, start: int) -> Bytes | None:
        """The packed rows from `start` on, as many as `weights` has; None for a tensor that was not rounded."""
        finished = self.by_source.get(planned.source)
        if finished is None:
            return None
        if finished.format != kind.name:
            raise ValueError(f"{planned.source} was rounded to {finished.format}, {kind.name} is wanted")
        return finished.stored()[start : start + len(weights)]


def export_any(
    source: Path, output: Path, wanted: Compression, *, progress: Progress = _SILENT, device: str = "cpu"
) -> ExportReport:
    """The report of a finished export: calibrated and with the clinical gate where the recipe takes less than 8 bits.

    A recipe of 8 bits or more is rounded to nearest unless a calibration file is named. Raises what `export_compressed`
    and `export_gguf` raise.
    """
    if wanted.calibration != NO_CALIBRATION and (wanted.calibration or _below_8_bits(wanted.recipe)):
        return export_compressed(source, output, wanted, progress=progress, device=device)
    if wanted.recipe == "auto" or wanted.target_size or wanted.target_bpw:
        raise UsageError(
            "Choosing formats to a size takes --recipe auto, and calibration.",
            next_step="edgemed export MODEL --recipe auto --target-bpw 4.7",
        )
    if _below_8_bits(wanted.recipe):
        progress.note("rounded to nearest, and nobody has looked at its doses: --calibration none was asked for")
    return export_gguf(source, output, recipe=wanted.recipe, progress=progress)


def _below_8_bits(recipe: str | QuantRecipe) -> bool:
    """Whether a recipe has a format of less than 8 bits."""
    if recipe == "auto":
        return True
    chosen = find_recipe(recipe) if isinstance(recipe, str) else recipe
    types = {BY_NAME[type_of(rule.format_for("gguf"), "gguf")] for rule in chosen.rules}
    return any(kind.block_bytes < kind.block_size for kind in types)


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
    texts = texts_for(plan.checkpoint, matrices(plan), wanted.calibration)
    progress.note(f"calibrating on {texts.n_tokens} tokens of {texts.source}")
    work = output.absolute().parent / f".{output.name}.work"
    assignment: dict[str, str] | None = None
    if wanted.recipe == "auto":
        from edgemed.export.allocate import allocated_formats

        assignment = allocated_formats(
            plan,
            texts,
            work / "sensitivity.json",
            progress,
            target_size=wanted.target_size,
            target_bpw=wanted.target_bpw,
        )
        plan = prepare(source, output, AUTO_BASE, assignment)
    finished = round_layers(plan.checkpoint, matrices(plan), texts, work, progress=progress, device=device)

    def judge(child: Path) -> None:
        name = plan.recipe.name if assignment is None else "auto"
        report = _clinical_report(
            source,
            child,
            ReportSubject(parent=source.resolve().name, child=output.name, recipe=name, raise_first=worst(finished)),
            work,
            progress,
        )
        decide(report, output, accepted=wanted.accept_changed_doses, progress=progress)

    report = export_gguf(
        source,
        output,
        recipe=plan.recipe,
        assignment=assignment,
        rounder=FinishedTensors(finished),
        judge=judge,
        progress=progress,
    )
    shutil.rmtree(work)
    return report


def matrices(plan: ExportPlan) -> dict[str, BlockRounding]:
    """The matrices of the decoder layers that get a block type, by their names in the checkpoint."""
    types = {part.name: BY_NAME[part.type] for part in plan.parts}
    return {
        tensor.source: BlockRounding(types[tensor.name])
        for tensor in plan.conversion.tensors
        if layer_of(tensor.source) is not None and len(tensor.shape) == 2 and has_codes(types[tensor.name])
    }


def _clinical_report(
    source: Path, child: Path, subject: ReportSubject, work: Path, progress: Progress
) -> ClinicalReport:
    """Parent, exported to 16 bits into `work`, and child, both in the engine that the clinic runs."""
    parent = work / "parent-f16.gguf"
    if not parent.is_file():
        export_gguf(source, parent, recipe="f16", progress=progress)
    sizes = role_sizes(spec_from_gguf(check_gguf(parent)), spec_from_gguf(check_gguf(child)))
    judge = Judge(source, work, lambda: EngineScorer(parent), progress)
    return judge.report(lambda: EngineScorer(child), subject.model_copy(update={"sizes": sizes}))
