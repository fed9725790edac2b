"""A PEFT adapter as a GGUF beside its base: planned against the base, written, and verified in the engine.

The way of one adapter
    1  open it, compare every module with the base's: a wrong base is refused with the numbers, before any work
    2  export the base, unless the very same export lies there already
    3  write A and B, permuted as the base's rows were, and ask the engine for logits of both files together; the
       reference is the parent with the adapter merged in float32
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from edgemed_converters import converter_for
from edgemed_converters.adapter import AdaptedTensor, AdapterPlan, plan_adapter
from edgemed_converters.plan import Change, ConversionPlan, interleave_heads
from pydantic import Field

from edgemed import __version__
from edgemed.core.errors import ModelRefused, UsageError
from edgemed.core.files import whole_file
from edgemed.core.progress import Progress, SilentProgress
from edgemed.core.records import NotAvailable, Record
from edgemed.core.tensor_types import F16, F32, TensorType
from edgemed.export.compress import Compression, export_any
from edgemed.export.preflight import check_output
from edgemed.export.report import ExportReport, LogitCheck
from edgemed.export.verify_logits import Beside, verify_logits
from edgemed.formats.recipes import find_recipe
from edgemed.models.adapter import (
    ADAPTER_NAME,
    ALPHA_KEY,
    BASE_KEY,
    MERGED_KEY,
    check_adapter,
    check_fits,
    digest_of_norms,
    file_digest,
    is_norm,
    norms_digest,
)
from edgemed.models.checkpoint import Checkpoint, TensorReader, open_checkpoint, spec_from_checkpoint
from edgemed.models.gguf import check_gguf
from edgemed.models.gguf_values import f32, text
from edgemed.models.gguf_writer import GgufWriter, OutputTensor, lay_out
from edgemed.models.lora_folder import LoraFolder, open_lora

_SILENT = SilentProgress()
_F16_MAX = 65504.0

Floats = npt.NDArray[np.float32]


class AdapterReport(Record):
    """One adapter written beside its base."""

    schema_version: Literal[1] = 1
    source: Path
    base: Path
    """The GGUF that it was verified with."""
    output: Path
    architecture: str
    n_matrices: int
    smallest_rank: int
    largest_rank: int
    alpha: float
    """As the engine reads it: scale times rank of most matrices."""
    file_bytes: int
    file_digest: str
    """SHA-256 of the file."""
    base_digest: str
    """Of the base's norms."""
    logits: Annotated[LogitCheck | NotAvailable, Field(discriminator="available")]
    """Base and adapter in the engine, against the parent with the adapter merged."""
    conversion_seconds: float
    verification_seconds: float


class SeparateReport(Record):
    """A base and an adapter beside it."""

    schema_version: Literal[1] = 1
    base: ExportReport | None
    """None where the same export lay there already."""
    adapter: AdapterReport


@dataclass(frozen=True, slots=True)
class Fitting:
    """An adapter and the base that it was found to fit."""

    checkpoint: Checkpoint
    conversion: ConversionPlan
    lora: LoraFolder
    plan: AdapterPlan


def fit_adapter(source: Path, folder: Path) -> Fitting:
    """The PEFT adapter in `folder` on the checkpoint in `source`. Raises ModelRefused, with the numbers, for another
    base's; only headers are read."""
    checkpoint = open_checkpoint(source)
    conversion = converter_for(checkpoint).plan(checkpoint)
    lora = open_lora(folder)
    return Fitting(checkpoint, conversion, lora, plan_adapter(lora, conversion))


def export_separate(
    source: Path, output: Path, wanted: Compression, adapter: Path, beside: Path, *, progress: Progress = _SILENT
) -> SeparateReport:
    """The reports of the base in `output` and the adapter in `beside`; a base that lies there already is kept.

    Raises what `export_any` raises, UsageError for a name that no request could say, and ModelRefused for an adapter
    that was made for another base; the last before any work.
    """
    fitting = fit_adapter(source, adapter)
    check_output(beside)
    if ADAPTER_NAME.fullmatch(adapter.resolve().name) is None:
        raise UsageError(
            f"An adapter cannot be called {adapter.resolve().name[:80]!r}: letters, digits, dots, - and _ only.",
            next_step="rename its folder",
        )
    base = None
    if _is_there(output, fitting, wanted):
        progress.note(f"{output.name} holds this base already; it is kept")
    else:
        base = export_any(source, output, wanted, progress=progress)
    return SeparateReport(base=base, adapter=export_adapter(fitting, output, beside, progress=progress))


def _is_there(output: Path, fitting: Fitting, wanted: Compression) -> bool:
    """Whether `output` is this checkpoint's export by this recipe."""
    if not output.is_file() or wanted.target_size or wanted.target_bpw or wanted.recipe == "auto":
        return False
    recipe = find_recipe(wanted.recipe) if isinstance(wanted.recipe, str) else wanted.recipe
    try:
        header = check_gguf(output)
    except ModelRefused:
        return False
    if MERGED_KEY in header.metadata:
        return False
    told = header.metadata.get("edgemed.recipe_digest"), header.metadata.get("edgemed.source.spec_digest")
    expected = recipe.digest(), spec_from_checkpoint(fitting.checkpoint).digest()
    return told == expected and norms_digest(header) == base_digest(fitting.checkpoint, fitting.conversion)


def export_adapter(
    fitting: Fitting, base: Path, output: Path, *, kind: TensorType = F16, progress: Progress = _SILENT
) -> AdapterReport:
    """The report of an adapter written to `output` and verified with the exported `base`.

    Weights too large for `kind` are written as float32. Raises ModelRefused for weights that are no numbers, for a
    `base` that is another model's, and when base and adapter do not compute what they should; then no file is left.
    """
    began = time.perf_counter()
    header = check_gguf(base)
    digest = base_digest(fitting.checkpoint, fitting.conversion)
    with whole_file(output) as part:
        _write(part, fitting, digest, kind, progress)
        written = check_adapter(part)
        check_fits(written, header)
        converted = time.perf_counter()
        types = {tensor.type.name for tensor in header.tensors if len(tensor.shape) > 1}
        beside = Beside(part, fitting.lora)
        logits = verify_logits(base, fitting.checkpoint, fitting.conversion, types | {kind.name}, progress, beside)
    ranks = [matrix.rank for matrix in written.matrices]
    return AdapterReport(
        source=fitting.lora.folder.absolute(),
        base=base.absolute(),
        output=output.absolute(),
        architecture=written.architecture,
        n_matrices=len(ranks),
        smallest_rank=min(ranks),
        largest_rank=max(ranks),
        alpha=written.alpha,
        file_bytes=output.stat().st_size,
        file_digest=file_digest(output),
        base_digest=digest,
        logits=logits,
        conversion_seconds=converted - began,
        verification_seconds=time.perf_counter() - converted,
    )


def base_digest(checkpoint: Checkpoint, conversion: ConversionPlan) -> str:
    """Digest of a checkpoint's norms as its GGUF will hold them (models/adapter.py)."""
    with checkpoint.reader() as reader:

        def values(source: str, change: Change) -> bytes:
            norm: Floats = reader.float32(checkpoint.tensors[source])
            return (norm + np.float32(1) if change is Change.ADD_ONE else norm).astype("<f4").tobytes()

        norms = [tensor for tensor in conversion.tensors if is_norm(tensor.name)]
        return digest_of_norms({norm.name: values(norm.source, norm.change) for norm in norms})


def _write(part: Path, fitting: Fitting, digest: str, kind: TensorType, progress: Progress) -> None:
    plan = fitting.plan
    with _reader() as reader, progress.task("Writing the adapter", len(plan.tensors)) as task:
        types = {tensor.base.name: _type_for(reader, tensor, kind) for tensor in plan.tensors}
        outputs = [half for tensor in plan.tensors for half in _halves(tensor, types[tensor.base.name])]
        metadata = {
            "general.architecture": text(plan.architecture),
            "general.type": text("adapter"),
            "general.name": text(fitting.lora.folder.resolve().name),
            "adapter.type": text("lora"),
            ALPHA_KEY: f32(plan.alpha),
            BASE_KEY: text(digest),
            "edgemed.version": text(__version__),
        }
        layout = lay_out(metadata, outputs)
        with GgufWriter(part, layout) as writer:
            for tensor, (a, b) in zip(plan.tensors, zip(outputs[::2], outputs[1::2], strict=True), strict=True):
                for half, values in ((a, reader.float32(tensor.module.a)), (b, _turned(reader, tensor))):
                    writer.write(half, [values.astype(np.float32 if half.type is F32 else np.float16).tobytes()])
                task.advance()
            writer.finish()


@contextmanager
def _reader() -> Iterator[TensorReader]:
    reader = TensorReader()
    try:
        yield reader
    finally:
        reader.close()


def _type_for(reader: TensorReader, tensor: AdaptedTensor, kind: TensorType) -> TensorType:
    """`kind`, or float32 where a value is beyond it. Raises ModelRefused for NaN and infinity."""
    both = (reader.float32(tensor.module.a), _turned(reader, tensor))
    largest = float(np.max([np.abs(values).max() for values in both]))  # numpy's: Python's own passes over NaN
    if not np.isfinite(largest):
        raise ModelRefused(
            f"{tensor.module.name} of the adapter holds values that are no numbers.", next_step="train or save it again"
        )
    return F32 if largest > _F16_MAX else kind


def _turned(reader: TensorReader, tensor: AdaptedTensor) -> Any:
    """B (out, rank) with the factor in it, its rows in the order of the base's GGUF."""
    rows = reader.float32(tensor.module.b)
    if tensor.factor != 1:
        rows = rows * np.float32(tensor.factor)
    if tensor.base.change is Change.INTERLEAVE_HEADS:
        return interleave_heads(rows, tensor.base.n_heads)
    return rows


def _halves(tensor: AdaptedTensor, kind: TensorType) -> tuple[OutputTensor, OutputTensor]:
    a, b = tensor.module.a.shape, tensor.module.b.shape
    return OutputTensor(f"{tensor.base.name}.lora_a", kind, a), OutputTensor(f"{tensor.base.name}.lora_b", kind, b)
