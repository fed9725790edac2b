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
from collections import Counter
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
from edgemed.export.gguf import convert, export_gguf
from edgemed.export.preflight import ExportPlan, prepare
from edgemed.export.report import ExportReport
from edgemed.formats.blocks import has_codes
from edgemed.formats.recipes import QuantRecipe, find_recipe
from edgemed.formats.targets import type_of
from edgemed.models.adapter import file_digest
from edgemed.models.checkpoint import layer_of
from edgemed.models.gguf import check_gguf, spec_from_gguf
from edgemed.models.lora_folder import WEIGHTS_FILE
from edgemed.quantize.calibration import NO_CALIBRATION, require_calibration, texts_for
from edgemed.quantize.calibration_texts import CalibrationSet
from edgemed.quantize.clinical_report import ReportSubject, role_sizes
from edgemed.quantize.gate import Judge, decide
from edgemed.quantize.layerwise import RoundedTensor, round_layers, worst
from edgemed.quantize.rounding import BlockRounding

_SILENT = SilentProgress()
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

MOST_RAISES = 3
"""So often `auto` raises tensors because doses changed."""
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
    merge: Path | None = None
    """Folder of a PEFT adapter that is merged into the weights first."""


class FinishedTensors:
    """Hands the exporter what was rounded before, one tensor in memory at a time."""

    def __init__(self, by_source: Mapping[str, RoundedTensor]) -> None:
        self._by_source = by_source
        self._last: tuple[str, Bytes] | None = None

    def packed(self, planned: ConvertedTensor, kind: TensorType, weights: Floats, start: int) -> Bytes | None:
        """The packed rows from `start` on, as many as `weights` has; None for a tensor that was not rounded."""
        finished = self._by_source.get(planned.source)
        if finished is None:
            return None
        if finished.format != kind.name:
            raise ValueError(f"{planned.source} was rounded to {finished.format}, {kind.name} is wanted")
        if self._last is None or self._last[0] != planned.source:  # the exporter asks for a piece of rows at a time
            self._last = (planned.source, finished.stored())
        return self._last[1][start : start + len(weights)]


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
    return export_gguf(source, output, recipe=wanted.recipe, merge=wanted.merge, progress=progress)


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
    run = _Run(source, output, wanted, _work_of(output, wanted.merge), progress, device)
    plan = prepare(source, output, AUTO_BASE if wanted.recipe == "auto" else wanted.recipe, merge=wanted.merge)
    texts = texts_for(plan.checkpoint, matrices(plan), wanted.calibration)
    progress.note(f"calibrating on {texts.n_tokens} tokens of {texts.source}")
    rounded = run.allocated(plan, texts) if wanted.recipe == "auto" else run.rounded(plan, texts, None)
    report = export_gguf(
        source,
        output,
        recipe=rounded.plan.recipe,
        assignment=rounded.assignment,
        rounder=FinishedTensors(rounded.finished),
        judge=lambda child: run.judge(child, rounded),
        merge=wanted.merge,
        progress=progress,
    )
    shutil.rmtree(run.work)
    return report


@dataclass(frozen=True, slots=True)
class _Rounded:
    """A model rounded in the work folder."""

    plan: ExportPlan
    assignment: Mapping[str, str] | None
    """Formats by name in the file; None: the recipe's."""
    finished: Mapping[str, RoundedTensor]


@dataclass(frozen=True, slots=True)
class _Run:
    """One compression under way."""

    source: Path
    output: Path
    wanted: Compression
    work: Path
    progress: Progress
    device: str

    def rounded(self, plan: ExportPlan, texts: CalibrationSet, assignment: Mapping[str, str] | None) -> _Rounded:
        """Every matrix of the plan's decoder layers rounded, with `assignment` before its recipe."""
        if assignment is not None:
            plan = prepare(self.source, self.output, plan.recipe, assignment, self.wanted.merge)
        finished = round_layers(
            plan.checkpoint, matrices(plan), texts, self.work, progress=self.progress, device=self.device
        )
        return _Rounded(plan, assignment, finished)

    def allocated(self, plan: ExportPlan, texts: CalibrationSet) -> _Rounded:
        """The mix of a size that loses least; while it changes doses of question set A, some tensors are raised.

        Set B, which the report asks, is not looked at.
        """
        from edgemed.export.allocate import allocated_formats, estimated_losses

        losses = estimated_losses(plan, texts, self.work / "sensitivity.json", self.progress)
        raised: Counter[str] = Counter()
        while True:
            assignment = allocated_formats(
                plan,
                losses,
                self.progress,
                target_size=self.wanted.target_size,
                target_bpw=self.wanted.target_bpw,
                raised=raised,
            )
            rounded = self.rounded(plan, texts, assignment)
            if max(raised.values(), default=0) == MOST_RAISES:
                return rounded
            changed = self._changed(rounded)
            if not changed:
                return rounded
            raised.update(worst(rounded.finished))
            self.progress.note(f"{changed} doses of the questions for allocation changed; raised: {', '.join(raised)}")

    def _changed(self, rounded: _Rounded) -> int:
        child = self.work / "child.gguf"
        convert(rounded.plan, child, self.progress, FinishedTensors(rounded.finished))
        return self._judge().changes(lambda: EngineScorer(child), "A")

    def judge(self, child: Path, rounded: _Rounded) -> None:
        """Write the clinical report on the file `child`. Raises DosesChanged when the gate failed."""
        judge = self._judge()
        subject = ReportSubject(
            parent=self.source.resolve().name,
            child=self.output.name,
            recipe=rounded.plan.recipe.name if rounded.assignment is None else "auto",
            sizes=role_sizes(spec_from_gguf(check_gguf(self._parent())), spec_from_gguf(check_gguf(child))),
            raise_first=worst(rounded.finished),
        )
        report = judge.report(lambda: EngineScorer(child), subject)
        decide(report, self.output, accepted=self.wanted.accept_changed_doses, progress=self.progress)

    def _judge(self) -> Judge:
        """Parent and child both run in the engine that the clinic runs."""
        return Judge(self.source, self.work, lambda: EngineScorer(self._parent()), self.progress)

    def _parent(self) -> Path:
        """The parent in 16 bits, exported once."""
        path = self.work / "parent-f16.gguf"
        if not path.is_file():
            export_gguf(self.source, path, recipe="f16", merge=self.wanted.merge, progress=self.progress)
        return path


def _work_of(output: Path, merge: Path | None) -> Path:
    """What was rounded with one adapter is of no use with another."""
    weights = None if merge is None else merge / WEIGHTS_FILE
    of_adapter = f".{file_digest(weights)[:8]}" if weights is not None and weights.is_file() else ""
    return output.absolute().parent / f".{output.name}{of_adapter}.work"


def matrices(plan: ExportPlan) -> dict[str, BlockRounding]:
    """The matrices of the decoder layers that get a block type, by their names in the checkpoint."""
    types = {part.name: BY_NAME[part.type] for part in plan.parts}
    return {
        tensor.source: BlockRounding(types[tensor.name])
        for tensor in plan.conversion.tensors
        if layer_of(tensor.source) is not None and len(tensor.shape) == 2 and has_codes(types[tensor.name])
    }
