"""Puts one question to the engine probe's process, and turns its failures into sentences."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

from edgemed.core.errors import EngineFailed, MissingExtra

_LONGEST_SECONDS = 3600


def require_engine() -> None:
    """Raise MissingExtra unless the llama.cpp binding is installed."""
    if find_spec("llama_cpp") is None:
        raise MissingExtra("llama-cpp-python", "llama-cpp")


def ask_engine(question: dict[str, Any]) -> dict[str, Any]:
    """The probe's answer. Raises EngineFailed when its process ends without one."""
    try:
        done = subprocess.run(
            # -P: no module of the folder we happen to stand in can pass for one of ours
            [sys.executable, "-P", "-m", "edgemed.export.engine_probe"],
            input=json.dumps(question),
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=_LONGEST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EngineFailed(
            f"The engine gave no answer in {_LONGEST_SECONDS} s.", next_step="report this model"
        ) from error
    if done.returncode != 0 or not done.stdout:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise EngineFailed(
            f"The engine stopped while the exported file was checked (exit {done.returncode}): {last[0][:200]}.",
            next_step="report this model; nothing was written",
        )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
