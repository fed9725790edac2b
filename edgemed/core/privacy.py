"""What keeps a patient's words out of places that nobody asked for: memory images of crashes, tracebacks."""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
from pathlib import Path

log = logging.getLogger(__name__)

_PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 3, 4
"""prctl(2)."""


def forbid_core_dumps() -> None:
    """From now on a crash of this process writes no memory image, also not to a dump-collecting program."""
    if os.name == "posix":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0)  # a dump that is piped to a program ignores the limit above


def core_dumps_are_off() -> bool:
    """Whether a crash of this process would write no memory image; True where the system writes none by itself."""
    if os.name == "posix":
        import resource

        if resource.getrlimit(resource.RLIMIT_CORE) != (0, 0):
            return False
    if sys.platform == "linux":
        import ctypes

        return bool(ctypes.CDLL(None).prctl(_PR_GET_DUMPABLE) == 0)
    return True


def place_of(error: BaseException) -> str:
    """Which error it was and where; its message is left out, because it may hold what a person typed."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames[-3:]]
    return f"{type(error).__name__} at {' > '.join(places)}"


def forbid_tracebacks() -> None:
    """From now on an error that nobody catches, in a thread or while an object is dropped, is told by its place."""

    def of_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and args.exc_type is not SystemExit:
            log.error("fault: %s", place_of(args.exc_value))

    def unraisable(args: sys.UnraisableHookArgs) -> None:
        if args.exc_value is not None:
            log.error("fault: %s", place_of(args.exc_value))

    threading.excepthook = of_thread
    sys.unraisablehook = unraisable
