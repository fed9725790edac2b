"""`edgemed plan`: what a model needs on this machine, part by part, and how it will be run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgemed.cli.console import Console
from edgemed.cli.options import Adapters, Json, Verbose, adapter_files
from edgemed.core.errors import UsageError
from edgemed.core.units import format_bytes, parse_size

if TYPE_CHECKING:
    from edgemed.core.records import Figure
    from edgemed.hardware.record import HardwareProfile
    from edgemed.plan.deployment import ModeChoice
    from edgemed.plan.record import Plan


def plan(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A GGUF file, or a name such as: demo. On paper: a checkpoint's folder, or a shape such as "
            "deepseek-r1-distill-qwen-7b.",
        ),
    ],
    context: Annotated[int | None, typer.Option(help="Tokens of prompt and answer together, per slot.")] = None,
    slots: Annotated[int | None, typer.Option(help="Requests answered side by side.")] = None,
    max_ram: Annotated[str | None, typer.Option(help='Most main memory to take, such as "6GiB".')] = None,
    max_vram: Annotated[str | None, typer.Option(help="Most GPU memory to take; 0 keeps all on the CPU.")] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE", help="Plan for a machine of `edgemed profile --list`, or of this saved profile."
        ),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="On paper: as this recipe of `edgemed export` would store it (nf4-int8).")
    ] = None,
    adapter: Adapters = None,
    switch_share: Annotated[
        float,
        typer.Option(min=0, max=1, help="With --adapter: share of questions that change the speciality."),
    ] = 0.5,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a question with its instructions.")] = 512,
    answer_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer.")] = 192,
    trial: Annotated[
        bool | None,
        typer.Option("--trial/--no-trial", help="Time the ways to run it. Default: where --profile is not given."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say what limits this machine and what would help.")
    ] = False,
    save: Annotated[Path | None, typer.Option(help="Write the plan to this file.")] = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Place a model on this machine: memory, context, slots, threads, layers on the GPU."""
    from edgemed.cli.models import resolve_model
    from edgemed.plan.advice import advise, sentences
    from edgemed.plan.make import PlanRequest, make_plan
    from edgemed.plan.paper_model import is_paper_model, plan_on_paper
    from edgemed.plan.record import Workload
    from edgemed.plan.store import save_plan

    console = Console(json_mode=json, verbose=verbose)
    request = PlanRequest(
        context_length=context,
        n_slots=slots,
        max_ram_bytes=None if max_ram is None else parse_size(max_ram),
        max_vram_bytes=None if max_vram is None else parse_size(max_vram),
        workload=Workload(prompt_tokens=prompt_tokens, answer_tokens=answer_tokens),
    )
    on_paper = is_paper_model(model)
    if on_paper:
        _only_on_paper(trial, save, adapter)
    else:
        _already_stored(recipe)
        path = resolve_model(model)
        request = replace(request, adapters=adapter_files(adapter, {}, path))
    machine = _machine(profile, console)
    if on_paper:
        found, advice = plan_on_paper(model, recipe, machine, request, console, explain=explain)
    else:
        timed = profile is None if trial is None else trial
        found = make_plan(path, machine, request, console, trial=timed)
        if timed and request.adapters:
            from edgemed.plan.mode_trial import plan_with_mode

            found = plan_with_mode(found, switch_share, console)
        elif request.adapters:
            console.note("Adapters and merged models were not compared: nothing was timed (--trial).")
        advice = advise(found, machine, request) if explain else None
    console.record(found)
    console.table(f"{found.model.path.name} on this machine" if profile is None else "The plan", rows_of(found))
    console.table("What was looked at", candidate_rows(found))
    if found.deployment is not None:
        console.table("Adapters or merged models", mode_rows(found.deployment))
    if advice is not None:
        console.table("What limits it, and what would help", sentences(advice))
    for note in found.notes:
        console.note(note)
    if save is not None:
        save_plan(found, save)
        console.note(f"Saved as {save}")


def _only_on_paper(trial: bool | None, save: Path | None, adapter: list[str] | None) -> None:
    """Refuse what needs the model itself."""
    if adapter:
        raise UsageError(
            "An adapter is looked at beside its base, and this model is not a file yet.",
            next_step="name the .gguf file",
        )
    if trial:
        raise UsageError("A model that does not exist yet cannot be timed.", next_step="leave out --trial")
    if save is not None:
        raise UsageError(
            "A plan for a model that does not exist yet cannot be served.",
            next_step="leave out --save, or keep the record: --json > plan.json",
        )


def _already_stored(recipe: str | None) -> None:
    if recipe is not None:
        raise UsageError(
            "--recipe is for a checkpoint or a shape; a GGUF file is stored as it is.",
            next_step="leave it out, or name the checkpoint's folder",
        )


def _machine(profile: str | None, console: Console) -> HardwareProfile:
    if profile is not None:
        from edgemed.hardware.catalog import find_profile

        return find_profile(profile)
    from edgemed.plan.store import current_profile

    return current_profile(console)


def rows_of(found: Plan) -> list[tuple[str, str]]:
    """The plan as rows for people."""
    config = found.engine_config
    rows = [
        ("model", f"{found.model.architecture}, {found.recipe}"),
        ("engine", found.engine),
        ("context", f"{config.context_length} tokens in each slot; slots: {config.n_slots}"),
        ("KV cache", config.kv_type),
        ("threads", str(config.n_threads)),
    ]
    rows += [(f"layers {p.first_layer}-{p.last_layer}", p.place) for p in found.placements]
    for budget in found.budgets:
        for need in found.memory:
            if need.place == budget.place and need.n_bytes:
                words = f"{format_bytes(need.n_bytes):>9}  {need.n_bytes:>14,} bytes, {need.basis}"
                rows.append((f"{budget.place}: {_WORDS[need.part]}", words))
        total = f"{format_bytes(budget.needed_bytes):>9}  of {format_bytes(budget.limit_bytes)} that may be taken"
        reserve = f"{format_bytes(budget.free_bytes)} free, {format_bytes(budget.reserve_bytes)} kept for the system"
        rows.append((f"{budget.place}: in all", f"{total} ({reserve})"))
    rows.append(("basis", found.memory_note))
    if found.ttft_ms.available and found.tokens_per_s.available:
        rows.append(("first token", f"{_spread(found.ttft_ms)} after {found.workload.prompt_tokens} tokens of prompt"))
        rows.append(("then", _spread(found.tokens_per_s)))
    if found.reduced:
        rows.append(("note", "smaller than usual, because memory is short; see candidates with --json"))
    rows.append(("llama.cpp command", found.engine_command))
    return rows


def _spread(figure: Figure) -> str:
    between = f" ({figure.low:.3g} to {figure.high:.3g})" if figure.low is not None and figure.high is not None else ""
    return f"{figure.value:.3g} {figure.unit}{between}"


def candidate_rows(found: Plan) -> list[tuple[str, str]]:
    """Every way that was looked at: how long it takes, and why it was chosen or lost."""
    from edgemed.plan.record import OFFERS_LESS

    rows = []
    for candidate in found.candidates:
        if candidate.why == OFFERS_LESS:
            continue
        figure = candidate.measured_s if candidate.measured_s.available else candidate.predicted_s
        seconds = f"{figure.value:7.2f} s a question; " if figure.available else ""
        rows.append((("* " if candidate.chosen else "  ") + candidate.name, f"{seconds}{candidate.why}"))
    return rows


def mode_rows(choice: ModeChoice) -> list[tuple[str, str]]:
    """The ways to serve several specialities, best first, and the choice in words."""
    rows = []
    for one in sorted(choice.modes, key=lambda mode: -(mode.score if mode.score is not None else float("-inf"))):
        figures = one.figures
        words = (
            f"{figures.seconds(choice.mix):.2f} s a question (change {1000 * figures.change_s:.1f} ms), "
            f"{format_bytes(figures.memory_bytes)} of memory, {format_bytes(figures.disk_bytes)} on disk; {one.why}"
        )
        rows.append((("* " if one.chosen else "  ") + figures.name, words))
    return [*rows, ("why", choice.explanation)]


_WORDS = {
    "weights": "weights",
    "kv_cache": "KV cache",
    "compute": "compute",
    "logits": "logits",
    "embedding": "embeddings",
    "adapters": "adapters",
    "overhead": "driver",
    "process": "process",
}
