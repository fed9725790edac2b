"""A process of ours that its parent started ends with it, however the parent ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import wait


def end_with_parent() -> None:
    """From now on SIGTERM reaches this process when the one that started it (multiprocessing) is gone.

    Who was killed can end nobody: work for no one would hold its cores for hours.
    """
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
