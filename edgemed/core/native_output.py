"""Keeps what a native library prints to C's standard output or error out of this program's own."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def discarded_output(descriptor: int = 1) -> Iterator[None]:
    """Nothing that is written to standard output inside the block arrives there; for HiGHS, which has a stray line.
    2 is standard error; llama.cpp's reader of grammars prints a faulty one.

    The file descriptor is the whole process's: short blocks only, while no other thread prints.
    """
    (sys.stdout if descriptor == 1 else sys.stderr).flush()
    kept = os.dup(descriptor)
    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), descriptor)
            yield
            if os.name == "posix":
                ctypes.CDLL(None).fflush(None)  # what is still in C's own buffer
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)
