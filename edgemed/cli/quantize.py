"""`edgemed quantize`: a checkpoint becomes a folder of packed weights for torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgemed.cli.checkpoints import name_of, source_checkpoint
from edgemed.cli.console import Console
from edgemed.cli.options import AcceptChangedDoses, Calibration, Json, TargetBpw, TargetSize, Verbose
from edgemed.core.errors import UsageError
from edgemed.core.units import format_bytes

if TYPE_CHECKING:
    from edgemed.quantize.compress_folder import QuantizeReport


def quantize(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="Checkpoint folder: config.json, tokenizer.json, *.safetensors."),
    ] = None,
    recipe: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="Formats of the weights: a recipe's name, or a TOML file.")
    ] = "nf4-int8",
    calibration: Calibration = None,
    target_size: TargetSize = None,
    target_bpw: TargetBpw = None,
    accept_changed_doses: AcceptChangedDoses = False,
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder to write.")] = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Quantize a checkpoint to a folder that transformers loads packed, and compare its doses with its parent's.

    For a file that the clinic's engine runs, see `edgemed export`.
    """
    if recipe == "auto" or target_size is not None or target_bpw is not None:
        raise UsageError(
            "Formats are chosen to a size for GGUF only: a torch folder has 4, 8 and 16 bits.",
            next_step="edgemed export MODEL --recipe auto --target-bpw 4.7",
        )
    from edgemed.quantize.compress_folder import quantize_folder

    console = Console(json_mode=json, verbose=verbose)
    source = source_checkpoint(model, command="quantize")
    place = output or Path(f"{name_of(source)}-{Path(recipe).stem}")
    report = quantize_folder(
        source,
        place,
        recipe=recipe,
        calibration=calibration,
        accept_changed_doses=accept_changed_doses,
        progress=console,
    )
    console.record(report)
    console.table(f"Quantized {report.output.name}", rows_of(report))


def rows_of(report: QuantizeReport) -> list[tuple[str, str]]:
    """The report as rows for people."""
    sizes = report.folder.bytes_by_format()
    rows = [
        ("folder", str(report.output)),
        ("recipe", report.folder.recipe),
        ("size", f"{format_bytes(report.folder.n_bytes)}, {report.folder.bits_per_weight:.2f} bits per weight"),
        ("by format", ", ".join(f"{name} {format_bytes(n_bytes)}" for name, n_bytes in sizes.items())),
        ("calibration", report.calibration),
    ]
    if report.gate is None:
        return [*rows, ("clinical gate", "nobody has looked at its doses")]
    return [*rows, ("clinical gate", f"{report.gate.verdict}: {report.gate.reason}")]
