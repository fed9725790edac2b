"""The `edgemed` command: one door through which every error leaves, with its exit code.

Next to nothing is imported before `main` runs, so that Ctrl-C while libraries load leaves through it as well.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from types import FrameType

    from edgemed.core.errors import EdgemedError

_INTERRUPTED = 130
_OUTPUT_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF)


def main() -> None:
    """Run the command line; ends the process with the contract's exit code."""
    try:
        _open_closed_streams()
        _end_by_exception()
        _run()
    except KeyboardInterrupt:
        _end_interrupted()
    except SystemExit as end:
        if _was_interrupted(end):
            _end_interrupted()
        raise


def _run() -> None:
    """The command, with every error said on stderr; SystemExit tells the exit code."""
    from edgemed.cli import commands
    from edgemed.cli.console import Console
    from edgemed.core.errors import EdgemedError

    try:
        try:
            commands.app(prog_name="edgemed")
        finally:
            sys.stdout.flush()  # here, where a full disk can still be said
    except EdgemedError as error:
        Console().error(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        _forget_output()  # its reader has left
        sys.exit(1)
    except Exception as error:
        shown = _explained(error)
        Console().error(shown)
        sys.exit(shown.exit_code)


def _open_closed_streams() -> None:
    """Standard streams that were closed lead nowhere; otherwise the next file opened would take their place."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115


def _end_by_exception() -> None:
    """SIGTERM and a closed terminal end the command by an exception, so that half-written files are removed.

    What the caller chose to ignore (nohup) stays ignored; `serve` has handlers of its own.
    """
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _was_interrupted(end: BaseException) -> bool:
    """Whether typer made this end out of Ctrl-C."""
    link: BaseException | None = end
    while link is not None:
        if isinstance(link, KeyboardInterrupt):
            return True
        link = link.__cause__ or link.__context__
    return False


def _end_interrupted() -> NoReturn:
    sys.stderr.write("Interrupted.\n")  # the console may be what was being imported
    sys.exit(_INTERRUPTED)


def _forget_output() -> None:
    """What is still in the buffer of stdout goes nowhere, so that the interpreter's own last flush succeeds."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explained(error: Exception) -> EdgemedError:
    """What any command can meet in its surroundings; everything else is our own mistake."""
    from edgemed.core.errors import EdgemedError, UsageError

    if isinstance(error, OSError) and error.errno in _OUTPUT_FAULTS and error.filename is None:
        _forget_output()
        return EdgemedError(
            f"The output could not be written: {error.strerror}.",
            next_step="free space where it goes, or send it to another place",
        )
    if isinstance(error, FileNotFoundError) and _folder_is_gone():
        return UsageError("The current folder no longer exists.", next_step="go to another folder (cd) and try again")
    return _unexpected(error)


def _folder_is_gone() -> bool:
    try:
        os.getcwd()  # noqa: PTH109
    except FileNotFoundError:
        return True
    return False


def _unexpected(error: Exception) -> EdgemedError:
    """Our own mistake, without the traceback: where it happened, so that it can be reported."""
    import traceback

    from edgemed.core.errors import EdgemedError

    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{os.path.basename(frame.filename)}:{frame.lineno}"  # noqa: PTH119
    return EdgemedError(
        f"edgemed met a fault of its own: {type(error).__name__} in {place}.",
        next_step="report this line together with the command and `edgemed --version`",
    )


if __name__ == "__main__":
    main()
