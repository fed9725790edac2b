"""`edgemed bench`: what a model takes on this machine, measured beside its plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgemed.cli.console import Console
from edgemed.cli.options import Json, Verbose
from edgemed.core.errors import UsageError
from edgemed.core.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgemed.core.records import Figure, MaybeFigure
    from edgemed.plan.bench import BenchReport, Compared, WorkloadReport
    from edgemed.plan.record import Difference

_LEAST_REPETITIONS = 5


def bench(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A GGUF file, or a name such as: demo")],
    workload: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Lengths to time: question (512 tokens read, 192 written; the default), short, long-note, or a TOML "
            "file with prompt_tokens and answer_tokens. May be given several times.",
        ),
    ] = None,
    repetitions: Annotated[
        int, typer.Option(min=_LEAST_REPETITIONS, help="Times that each workload is answered; the median is shown.")
    ] = _LEAST_REPETITIONS,
    plan: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Run it by this saved plan. Default: the plan that `edgemed serve` uses."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="Draw measured against planned into this file.")
    ] = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Measure memory, seconds, tokens and joules of a model on this machine, beside what its plan says."""
    from edgemed.cli.models import resolve_model
    from edgemed.plan.bench import bench_model, plan_from_file
    from edgemed.plan.store import current_profile, plan_for
    from edgemed.plan.workloads import find_workload

    console = Console(json_mode=json, verbose=verbose)
    workloads = [find_workload(name) for name in dict.fromkeys(workload or ["question"])]
    _check_plot(plot)
    path = resolve_model(model)
    found = plan_for(path, console) if plan is None else plan_from_file(plan, path)
    report = bench_model(found, workloads, current_profile(console), repetitions=repetitions, progress=console)
    console.record(report)
    console.table(f"{report.model.path.name} on this machine ({report.recipe})", rows_of(report))
    if plot is not None:
        from edgemed.core.files import write_text
        from edgemed.plan.bench_plot import bench_plot

        write_text(plot, bench_plot(report))
        console.note(f"Drawn as {plot}")
    else:
        console.note("A picture of it: --plot FILE.svg")


def _check_plot(plot: Path | None) -> None:
    """Before minutes of measuring. Raises UsageError."""
    if plot is None:
        return
    if plot.suffix.lower() != ".svg":
        raise UsageError(f"The picture is drawn as SVG, not as {plot.name!r}.", next_step=f"--plot {plot.stem}.svg")
    if plot.is_dir() or not plot.absolute().parent.is_dir():
        raise UsageError(f"The picture cannot be written to {plot}.", next_step="name a file in a folder that exists")


def rows_of(report: BenchReport) -> list[tuple[str, str]]:
    """The report as rows for people: what was measured, what was planned, the difference, and under what conditions."""
    cells = [("", ("measured here", "planned", "difference"))]
    cells += [_memory_cells(one) for one in report.memory.parts]
    cells += [(f"{one.place}: in all", _bytes_cells(one)) for one in report.memory.places]
    if report.memory.resident is not None:
        cells.append(("engine's process", _bytes_cells(report.memory.resident)))
    for found in report.workloads:
        cells += _workload_cells(found)
    widths = [max(len(row[column]) for _, row in cells) for column in range(2)]
    rows = [(name, f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}".rstrip()) for name, row in cells]
    return [*rows, ("", ""), *_conditions(report)]


_Cells = tuple[str, tuple[str, str, str]]
_PARTS = {"weights": "weights", "kv_cache": "KV cache", "compute": "compute"}


def _memory_cells(one: Difference) -> _Cells:
    return f"{one.place}: {_PARTS.get(one.part or '', one.part)}", _bytes_cells(one)


def _bytes_cells(one: Difference) -> tuple[str, str, str]:
    return format_bytes(one.real_bytes), format_bytes(one.predicted_bytes), _percent(one.difference_percent)


def _workload_cells(found: WorkloadReport) -> list[_Cells]:
    lengths = found.timed
    title = f"{lengths.prompt_tokens} tokens read, {lengths.answer_tokens} written"
    return [
        ("", ("", "", "")),
        (found.name, (title, "", "")),
        ("  seconds a question", _compared_cells(found.question_s)),
        ("  first token", _compared_cells(found.ttft_ms)),
        ("  then", _compared_cells(found.tokens_per_s)),
        ("  energy", _compared_cells(found.joules_per_token)),
    ]


def _compared_cells(compared: Compared) -> tuple[str, str, str]:
    measured, planned = _figure(compared.measured), _figure(compared.planned)
    if "not available" in (measured, planned):
        return measured, planned if compared.measured.available else "", ""
    return measured, planned, _percent(compared.difference_percent)


def _figure(figure: MaybeFigure) -> str:
    return _shown(figure) if figure.available else "not available"


def _shown(figure: Figure) -> str:
    """A figure with its spread: "3.21 s (3.17 to 3.3)"."""
    between = ""
    if figure.low is not None and figure.high is not None:
        between = f" ({_digits(figure.low)} to {_digits(figure.high)})"
    return f"{_digits(figure.value)} {figure.unit}{between}"


def _digits(value: float) -> str:
    """Three digits that count, never as a power of ten."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _percent(difference: float | None) -> str:
    if difference is None:
        return ""
    rounded = f"{difference:+.0f}" if abs(difference) >= 10 else f"{difference:+.1f}"
    return "0 %" if float(rounded) == 0 else f"{rounded} %"


def _conditions(report: BenchReport) -> list[tuple[str, str]]:
    """How the figures came about, and what they are worth."""
    config, load = report.engine_config, report.load_average
    threads = f"threads: {config.n_threads}; layers on a GPU: {config.n_gpu_layers}"
    rows = [
        ("measured", f"median of {report.n_repetitions} (lowest to highest), one request alone"),
        *_under("planned", ["memory: projected before loading", *(_source(found) for found in report.workloads)]),
        *_predictions(report),
        ("engine", f"{report.engine}; loaded the model in {format_seconds(report.load_s)}"),
        ("run with", f"{threads}; {config.kv_type} KV cache, {config.n_slots} x {config.context_length} tokens"),
        ("load before", f"{load.value:g} processes wanted a core" if load.available else load.reason),
    ]
    if report.power_source.available:
        rows.append(("power", report.power_source.value))
    rows += _under("energy", list(dict.fromkeys(_energy_words(found) for found in report.workloads)))
    rows += _under("asked for", [_cut(found) for found in report.workloads if found.asked != found.timed])
    if report.noisy:
        rows += _under("NOISY", [*report.noise, "close other programs and measure again"])
    return rows


def _under(name: str, lines: Sequence[str]) -> list[tuple[str, str]]:
    """Several lines under one name."""
    return [(name if number == 0 else "", line) for number, line in enumerate(lines)]


def _source(found: WorkloadReport) -> str:
    planned = found.question_s.planned
    if not planned.available:
        return f"{found.name}: not available: {planned.reason}; to measure this machine: edgemed profile"
    how = "timed when the plan was made" if found.planned_by == "trial" else "predicted from this machine's profile"
    return f"{found.name}: {how}"


def _predictions(report: BenchReport) -> list[tuple[str, str]]:
    """What the profile alone would have said, where the plan was timed."""
    rows = []
    for found in report.workloads:
        if found.planned_by == "trial" and found.question_s.predicted.available:
            figures = (found.question_s, found.ttft_ms, found.tokens_per_s)
            words = ", ".join(_figure(one.predicted) for one in figures)
            rows.append(("by the profile", f"{found.name}: {words}"))
    return rows


def _energy_words(found: WorkloadReport) -> str:
    figure = found.joules_per_token.measured
    if not figure.available:
        return f"not available: {figure.reason}"
    return f"whole question, idling included, by tokens written; {figure.note}"


def _cut(found: WorkloadReport) -> str:
    asked = found.asked
    return f"{found.name}: {asked.prompt_tokens} read, {asked.answer_tokens} written; the context holds no more"
