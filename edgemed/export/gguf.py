"""Checkpoint to GGUF, from the first check to the file in its place.

The way of one model
    1  open the checkpoint, plan every tensor and key, bind the recipe: all faults together, before any work
    2  convert tensor by tensor into a file beside the output, in a few MiB of memory
    3  sync it, read it back with the checking reader, ask the engine for token ids and logits
    4  rename it into place: whatever goes wrong before, nothing is left
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from edgemed.core.errors import ModelRefused
from edgemed.core.files import whole_file
from edgemed.core.progress import Progress, SilentProgress
from edgemed.core.records import NotAvailable
from edgemed.export.preflight import ExportPlan, prepare
from edgemed.export.report import ExportReport, LogitCheck, TokenCheck
from edgemed.export.stream import Rounder, TensorStream
from edgemed.export.verify_logits import verify_logits
from edgemed.export.verify_tokens import verify_tokens
from edgemed.formats.recipes import QuantRecipe
from edgemed.models.gguf import check_gguf, spec_from_gguf
from edgemed.models.gguf_writer import GgufWriter

_SILENT = SilentProgress()


def export_gguf(
    source: Path,
    output: Path,
    *,
    recipe: str | QuantRecipe,
    assignment: Mapping[str, str] | None = None,
    rounder: Rounder | None = None,
    judge: Callable[[Path], None] | None = None,
    merge: Path | None = None,
    progress: Progress = _SILENT,
) -> ExportReport:
    """The report of a finished export of the checkpoint folder `source` to the file `output`.

    `recipe` is a shipped one's name, a TOML file or a recipe; `assignment` names formats for tensors of the GGUF,
    before the recipe's; `rounder` rounds otherwise than to nearest; `judge` is shown the verified file before it is put
    in place, and raises to leave nothing; `merge` is the folder of a PEFT adapter to be merged first. Raises
    UsageError, MissingExtra, ModelRefused (the checkpoint, the adapter, or an exported file that does not agree with
    them) or EdgemedError (the disk); then no file is left, and
    an older `output` stays.
    """
    plan = prepare(source, output, recipe, assignment, merge)
    for note in plan.notes:
        progress.note(f"note: {note}")
    with whole_file(output) as part:
        began = time.perf_counter()
        convert(plan, part, progress, rounder)
        converted = time.perf_counter()
        tokens, logits = _verify(plan, part, progress)
        verified = time.perf_counter()
        if judge is not None:
            judge(part)
    return _report(plan, output, tokens, logits, seconds=(converted - began, verified - converted))


def convert(plan: ExportPlan, part: Path, progress: Progress = _SILENT, rounder: Rounder | None = None) -> None:
    """Write the planned file to `part` and sync it. Raises ModelRefused for weights that cannot be packed."""
    sources = {planned.name: planned for planned in plan.conversion.tensors}
    computed = {tensor.name: tensor for tensor in plan.conversion.computed}
    with (
        progress.task("Converting", plan.layout.file_bytes, "B") as task,
        plan.checkpoint.reader() as reader,
        GgufWriter(part, plan.layout) as writer,
        TensorStream(reader, rounder) as stream,
    ):
        for tensor in plan.layout.tensors:
            if tensor.name in computed:
                writer.write(tensor, [computed[tensor.name].values.tobytes()])
            else:
                planned = sources[tensor.name]
                stored = plan.checkpoint.tensors[planned.source]
                writer.write(tensor, stream.packed(stored, planned, tensor.type))
            task.advance(tensor.n_bytes)
        writer.finish()


def _verify(plan: ExportPlan, part: Path, progress: Progress) -> tuple[TokenCheck, LogitCheck | NotAvailable]:
    header = check_gguf(part)
    _check_spec(plan, part)
    if header.file_bytes != plan.layout.file_bytes:
        raise ModelRefused(f"{part} has {header.file_bytes} bytes; {plan.layout.file_bytes} were foreseen.")
    with progress.task("Comparing token ids", 1) as task:
        tokens = verify_tokens(part, plan.checkpoint.folder, plan.tokenizer)
        task.advance()
    return tokens, verify_logits(part, plan.checkpoint, plan.conversion, plan.matrix_types, progress)


def _check_spec(plan: ExportPlan, part: Path) -> None:
    """The file read back says the same of the model as the checkpoint did."""
    parent, child = plan.spec, spec_from_gguf(check_gguf(part))
    fields = (
        "n_layers",
        "hidden_size",
        "n_heads",
        "n_kv_heads",
        "head_dim",
        "ffn_size",
        "vocab_size",
        "context_length",
    )
    wrong = [name for name in fields if getattr(parent, name) != getattr(child, name)]
    if wrong:
        raise ModelRefused(f"The exported file differs from its checkpoint in {', '.join(wrong)}.")


def _report(
    plan: ExportPlan,
    output: Path,
    tokens: TokenCheck,
    logits: LogitCheck | NotAvailable,
    *,
    seconds: tuple[float, float],
) -> ExportReport:
    by_type: Counter[str] = Counter()
    by_role: Counter[str] = Counter()
    for part in plan.parts:
        by_type[part.type] += part.n_bytes
        by_role[part.role] += part.n_bytes
    n_weights = sum(math.prod(part.shape) for part in plan.parts)
    return ExportReport(
        source=plan.checkpoint.folder.absolute(),
        output=output.absolute(),
        recipe=plan.recipe.name,
        recipe_digest=plan.recipe.digest(),
        architecture=plan.spec.architecture,
        spec_digest=plan.spec.digest(),
        licence=plan.card.licence,
        file_bytes=output.stat().st_size,
        n_tensors=len(plan.layout.tensors),
        bytes_per_type=dict(by_type),
        bytes_per_role=dict(by_role),
        bits_per_weight=8 * by_type.total() / n_weights,
        fallbacks=plan.fallbacks,
        tokens=tokens,
        logits=logits,
        notes=plan.notes,
        conversion_seconds=seconds[0],
        verification_seconds=seconds[1],
    )
