"""`edgemed distill`: what a large teacher knows, taught to a small student."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from edgemed.cli.console import Console
from edgemed.cli.distill_report import show
from edgemed.cli.options import Json, Verbose
from edgemed.core.errors import EXIT_INTERRUPTED
from edgemed.core.settings import ENGINE_ENVIRONMENT, OFFLINE_ENVIRONMENT, process_place, set_environment

_TERMINATED = 143


def distill(
    config: Annotated[
        str,
        typer.Argument(metavar="CONFIG.toml", help="A TOML file, or a shipped one: demo, medquad, r1-70b-to-7b."),
    ],
    stage: Annotated[
        Literal["teach", "align", "sft", "kd", "tune", "ablate", "all"],
        typer.Option(help="What to do; missing stages before it are done first. all: up to the exported student."),
    ] = "all",
    resume: Annotated[
        bool, typer.Option(help="Go on with the run in the output folder; --no-resume moves it aside and begins anew.")
    ] = True,
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="The run's folder; else runs/ and a name.")] = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Distill a teacher into a student: teacher's scores, fine-tuning, distillation with doses first, examination.

    A run that was cut goes on where it was. Every stage's files and settings: docs/distill.md.
    """
    from edgemed.distill.read_config import read_config

    console = Console(json_mode=json, verbose=verbose)
    settings = read_config(config)
    if output is not None:
        settings = settings.model_copy(update={"output": output.absolute()})
    # Before torch is imported: spinning OpenMP threads starve each other where cores are shared.
    set_environment(ENGINE_ENVIRONMENT | OFFLINE_ENVIRONMENT)
    try:
        from edgemed.distill.stages import run

        record = run(settings, stage, resume=resume, progress=console)
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, SystemExit) and end.code != _TERMINATED:
            raise
        console.note("What was finished is kept, and training up to its last checkpoint.")
        console.note(f"Next: {again(config, stage, output)}")
        raise SystemExit(EXIT_INTERRUPTED) from end
    if process_place()[0]:
        return  # the first of several processes says it
    console.record(record)
    show(record, stage, console)


def again(config: str, stage: str, output: Path | None) -> str:
    """The command that goes on."""
    wanted = "" if stage == "all" else f" --stage {stage}"
    return f"edgemed distill {config}{wanted}{f' --output {output}' if output else ''}"
