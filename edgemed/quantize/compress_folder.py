"""`edgemed quantize`: a checkpoint becomes a Hugging Face folder of packed weights, calibrated and judged.

The way is that of an export below 8 bits: texts, rounding layer by layer with errors that cancel, the folder, the
clinical report with its gate, and only then the folder in its place. Parent and child are run by torch.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from edgemed.core.progress import Progress, SilentProgress
from edgemed.core.records import Record
from edgemed.evaluate.doses import Gate
from edgemed.evaluate.torch_scorer import open_folder
from edgemed.formats.recipes import Bound, bind, find_recipe
from edgemed.models.checkpoint import layer_of, open_checkpoint, spec_from_checkpoint
from edgemed.models.spec import ModelSpec
from edgemed.quantize.calibration import NO_CALIBRATION, require_calibration, texts_for
from edgemed.quantize.clinical_report import ClinicalReport, ReportSubject, RoleSize
from edgemed.quantize.gate import Judge, decide
from edgemed.quantize.layerwise import round_layers, worst
from edgemed.quantize.rounding import CodeRounding, Rounding
from edgemed.quantize.torch_folder import TorchFolderReport, int8_grid, nf4_grid, write_torch_folder

_SILENT = SilentProgress()
_ROUNDINGS: Mapping[str, Rounding] = {
    "nf4": CodeRounding("nf4", nf4_grid),
    "int8": CodeRounding("int8", int8_grid),
}


class QuantizeReport(Record):
    """One finished folder."""

    schema_version: int = 1
    source: Path
    output: Path
    folder: TorchFolderReport
    calibration: str
    """Where the texts came from, and their digest."""
    gate: Gate | None
    """None: rounded to nearest, and no dose was looked at."""


def quantize_folder(
    source: Path,
    output: Path,
    *,
    recipe: str = "nf4-int8",
    calibration: str | None = None,
    accept_changed_doses: bool = False,
    progress: Progress = _SILENT,
) -> QuantizeReport:
    """The report of a finished folder `output` made from the checkpoint folder `source`.

    `calibration` is a file of texts, None the table of facts, "none" rounding to nearest without a report. Raises
    UsageError (recipe, texts, memory, the output's place), ModelRefused (the checkpoint), MissingExtra, or
    DosesChanged; then no folder is left, and an older `output` stays. A run that was killed goes on where it stopped.
    """
    require_calibration()
    checkpoint = open_checkpoint(source)
    spec = spec_from_checkpoint(checkpoint)
    chosen = find_recipe(recipe)
    bound = {one.name: one for one in bind(chosen, spec.tensors, spec.n_layers, target="torch")}
    assignment = {name: one.type for name, one in bound.items()}
    matrices = {
        name: _ROUNDINGS[kind] for name, kind in assignment.items() if kind in _ROUNDINGS and layer_of(name) is not None
    }
    if calibration == NO_CALIBRATION:
        folder = write_torch_folder(
            checkpoint, output, assignment, recipe=chosen.name, recipe_digest=chosen.digest(), progress=progress
        )
        return _finished(source, output, folder, "none", None)
    work = output.absolute().parent / f".{output.name}.work"
    texts = texts_for(checkpoint, matrices, calibration)
    progress.note(f"calibrating on {texts.n_tokens} tokens of {texts.source}")
    finished = round_layers(checkpoint, matrices, texts, work, progress=progress)
    reports: list[ClinicalReport] = []

    def judge(child: Path) -> None:
        import edgemed.quantize.mixed_quantizer  # noqa: F401 - lets transformers load the folder

        subject = ReportSubject(
            parent=source.resolve().name,
            child=output.name,
            recipe=chosen.name,
            sizes=_sizes(spec, bound),
            raise_first=worst(finished),
        )
        own = Judge(source, work, lambda: open_folder(source), progress)
        reports.append(own.report(lambda: open_folder(child), subject))
        decide(reports[0], output, accepted=accept_changed_doses, progress=progress)

    folder = write_torch_folder(
        checkpoint,
        output,
        assignment,
        lambda name: finished[name].stored() if name in finished else None,
        recipe=chosen.name,
        recipe_digest=chosen.digest(),
        judge=judge,
        progress=progress,
    )
    shutil.rmtree(work)
    return _finished(source, output, folder, f"{texts.source}, {texts.digest[:12]}", reports[0].gate)


def _finished(
    source: Path, output: Path, folder: TorchFolderReport, calibration: str, gate: Gate | None
) -> QuantizeReport:
    return QuantizeReport(
        source=source.absolute(), output=output.absolute(), folder=folder, calibration=calibration, gate=gate
    )


def _sizes(spec: ModelSpec, bound: Mapping[str, Bound]) -> tuple[RoleSize, ...]:
    """Bytes per role: the parent as stored, the child by its formats' codes, scales apart."""
    bits = {"nf4": 4, "int8": 8, "f16": 16, "bf16": 16, "f32": 32}
    found: dict[str, tuple[int, int, set[str]]] = {}
    for tensor in spec.tensors:
        kind = bound[tensor.name].type
        n_weights = 1
        for extent in tensor.shape:
            n_weights *= extent
        parent, child, types = found.get(tensor.role, (0, 0, set()))
        found[tensor.role] = (parent + tensor.n_bytes, child + n_weights * bits[kind] // 8, types | {kind})
    return tuple(
        RoleSize(role=role, parent_bytes=parent, child_bytes=child, child_types=tuple(sorted(types)))
        for role, (parent, child, types) in sorted(found.items(), key=lambda item: -item[1][0])
    )
