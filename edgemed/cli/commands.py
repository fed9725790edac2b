"""Which file holds which command; each imports its room only when it runs."""

from __future__ import annotations

import typer

from edgemed.cli import ask, export, plan, profile, serve


def register(app: typer.Typer) -> None:
    """Give `app` every command, in the order of a model's way to the clinic."""
    app.command("profile")(profile.profile)
    app.command("plan")(plan.plan)
    app.command("export")(export.export)
    app.command("serve")(serve.serve)
    app.command("ask")(ask.ask)
