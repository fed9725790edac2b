"""What keeps a patient's words out of files that nobody asked for: no core dumps of this process."""

from __future__ import annotations

import os
import sys

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
