"""Which file holds which command; each imports its room only when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from edgemed import __version__
from edgemed.cli import ask, bench, distill, doctor, export, plan, profile, quantize, serve
from edgemed.cli.console import Console

app = typer.Typer(
    name="edgemed",
    help="Take a large medical language model to a clinic laptop with no internet.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        Console().text(f"edgemed {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Answers are decision support under a clinician's eye, never a replacement for it."""


# In the order of a model's way to the clinic.
app.command("profile")(profile.profile)
app.command("plan")(plan.plan)
app.command("bench")(bench.bench)
app.command("distill")(distill.distill)
app.command("quantize")(quantize.quantize)
app.command("export")(export.export)
app.command("serve")(serve.serve)
app.command("ask")(ask.ask)
app.command("doctor")(doctor.doctor)
