"""The `edgemed` command: one door through which every error leaves, with its exit code."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from edgemed import __version__
from edgemed.cli.console import Console
from edgemed.core.errors import EXIT_INTERRUPTED, EdgemedError

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


def main() -> None:
    """Run the command line; ends the process with the contract's exit code."""
    from edgemed.cli import commands

    commands.register(app)
    try:
        app(prog_name="edgemed")
    except EdgemedError as error:
        Console().error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        Console().note("Interrupted.")
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of our output has left
        sys.exit(1)
    except Exception as error:
        Console().error(_unexpected(error))
        sys.exit(1)


def _unexpected(error: Exception) -> EdgemedError:
    """Our own mistake, without the traceback: where it happened, so that it can be reported."""
    import traceback

    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{os.path.basename(frame.filename)}:{frame.lineno}"  # noqa: PTH119
    return EdgemedError(
        f"edgemed met a fault of its own: {type(error).__name__} in {place}.",
        next_step="report this line together with the command and `edgemed --version`",
    )


if __name__ == "__main__":
    main()
