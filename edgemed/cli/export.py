"""`edgemed export`: a checkpoint becomes one file that the clinic's engine runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from edgemed.cli.checkpoints import name_of, source_checkpoint
from edgemed.cli.console import Console
from edgemed.cli.options import AcceptChangedDoses, Calibration, Json, TargetBpw, TargetSize, Verbose
from edgemed.core.errors import UsageError
from edgemed.core.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from edgemed.export.adapter import AdapterReport
    from edgemed.export.compress import Compression
    from edgemed.export.report import ExportReport, Fallback


def export(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="Checkpoint folder: config.json, tokenizer.json, *.safetensors."),
    ] = None,
    target: Annotated[str, typer.Option(help="Kind of file to make: gguf.")] = "gguf",
    recipe: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="Formats of the weights: a recipe's name, or a TOML file.")
    ] = "q8_0",
    calibration: Calibration = None,
    target_size: TargetSize = None,
    target_bpw: TargetBpw = None,
    accept_changed_doses: AcceptChangedDoses = False,
    adapter: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A LoRA adapter that peft saved: adapter_config.json and weights."),
    ] = None,
    adapter_mode: Annotated[
        Literal["merge", "separate"],
        typer.Option(help="merge: into the weights, one file; separate: a file of its own beside the base."),
    ] = "merge",
    output: Annotated[Path | None, typer.Option(help="File to write, or a folder to write it in.")] = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Export a checkpoint to GGUF and verify it: token ids, and logits where torch is installed.

    Recipes of less than 8 bits are calibrated on medical text, and a model that gives other doses than its parent is
    not written.
    """
    if target != "gguf":
        _refuse_target(target)
    from edgemed.export.compress import Compression, export_any

    console = Console(json_mode=json, verbose=verbose)
    source = source_checkpoint(model, command="export")
    separate = adapter is not None and adapter_mode == "separate"
    merge = None if separate else adapter
    wanted = Compression(recipe, calibration, target_size, target_bpw, accept_changed_doses, merge)
    target_file = _output_file(output, source, recipe, merge)
    if separate and adapter is not None:
        _export_separate(source, target_file, wanted, adapter, console)
        return
    report = export_any(source, target_file, wanted, progress=console)
    console.record(report)
    console.table(f"Exported {report.output.name}", rows_of(report))


def _export_separate(source: Path, output: Path, wanted: Compression, adapter: Path, console: Console) -> None:
    """Base and adapter, side by side."""
    from edgemed.export.adapter import export_separate

    name = adapter.resolve().name
    beside = output.parent / f"{name_of(source)}-{name}.lora.gguf"
    report = export_separate(source, output, wanted, adapter, beside, progress=console)
    console.record(report)
    if report.base is not None:
        console.table(f"Exported {report.base.output.name}", rows_of(report.base))
    console.table(f"Exported {report.adapter.output.name}", adapter_rows(report.adapter))
    console.note(f"Serve both: edgemed serve {output} --adapter {name}={beside}")


def adapter_rows(report: AdapterReport) -> list[tuple[str, str]]:
    """An adapter's report as rows for people."""
    ranks = f"rank {report.smallest_rank}"
    if report.largest_rank > report.smallest_rank:
        ranks += f" to {report.largest_rank}"
    return [
        ("file", str(report.output)),
        ("beside", str(report.base)),
        ("size", f"{format_bytes(report.file_bytes)}; {report.n_matrices} matrices, {ranks}"),
        ("architecture", report.architecture),
        ("logits", report.logits.words if report.logits.available else f"not compared: {report.logits.reason}"),
        ("conversion", format_seconds(report.conversion_seconds)),
        ("verification", format_seconds(report.verification_seconds)),
    ]


def rows_of(report: ExportReport) -> list[tuple[str, str]]:
    """The report as rows for people."""
    rows = [
        ("file", str(report.output)),
        ("recipe", report.recipe),
        (
            "size",
            f"{format_bytes(report.file_bytes)} in {report.n_tensors} tensors, "
            f"{report.bits_per_weight:.2f} bits per weight",
        ),
        ("by format", _sizes(report.bytes_per_type)),
        ("by role", _sizes(report.bytes_per_role)),
        ("architecture", report.architecture),
        ("licence", report.licence or "not stated by the checkpoint"),
        ("token ids", f"equal to the original's on {report.tokens.identical} of {report.tokens.n_strings} strings"),
        ("logits", _logits(report)),
        ("conversion", format_seconds(report.conversion_seconds)),
        ("verification", format_seconds(report.verification_seconds)),
    ]
    rows += [("fallback", words) for words in _fallbacks(report.fallbacks)]
    return rows


def _sizes(n_bytes_of: Mapping[str, int]) -> str:
    largest_first = sorted(n_bytes_of.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {format_bytes(n_bytes)}" for name, n_bytes in largest_first)


def _fallbacks(fallbacks: Sequence[Fallback]) -> list[str]:
    """One line for all tensors that fell back from and to the same for the same reason."""
    counts = Counter((one.got, one.wanted, one.reason) for one in fallbacks)
    return [
        f"{count} tensor{'s are' if count > 1 else ' is'} {got}, not {wanted}: {reason}"
        for (got, wanted, reason), count in counts.items()
    ]


def _logits(report: ExportReport) -> str:
    check = report.logits
    if not check.available:
        return f"not compared: {check.reason}"
    return check.words


def _refuse_target(target: str) -> NoReturn:
    if target == "onnx":
        raise UsageError("Export to ONNX is not available yet; now: gguf.", next_step="edgemed export --target gguf")
    raise UsageError(f"There is no target {target!r}; available: gguf.", next_step="edgemed export --target gguf")


def _output_file(output: Path | None, source: Path, recipe: str, merge: Path | None = None) -> Path:
    model = name_of(source) if merge is None else f"{name_of(source)}-{merge.resolve().name}"
    name = f"{model}-{Path(recipe).stem if recipe.endswith('.toml') else recipe}.gguf"
    if output is None:
        return Path(name)
    return output / name if output.is_dir() else output
