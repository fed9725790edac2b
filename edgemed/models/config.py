"""A checkpoint's `config.json`, read with the suspicion a stranger's file deserves."""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgemed.core.errors import ModelRefused

_MAX_JSON_BYTES = 64 * 1024 * 1024
_MAX_INTEGER = 2**31 - 1


def read_json(path: Path, *, max_bytes: int = _MAX_JSON_BYTES) -> dict[str, Any]:
    """The object in a JSON file. Raises ModelRefused when it is missing, too long or no JSON object."""
    try:
        state = path.stat()
        size = state.st_size
        if not stat.S_ISREG(state.st_mode):  # a pipe could be waited on for ever
            raise ModelRefused(f"{path} is no regular file.", next_step="check that file")
        if size > max_bytes:
            raise ModelRefused(f"{path} has {size} bytes; at most {max_bytes} are read.", next_step="check that file")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelRefused(f"{path} cannot be read: {error.strerror}.", next_step="check the path") from error
    except (ValueError, RecursionError) as error:
        raise ModelRefused(
            f"{path} is no valid JSON: {str(error)[:120]}.", next_step="copy or download the file again"
        ) from error
    if not isinstance(value, dict):
        raise ModelRefused(f"{path} holds no JSON object.", next_step="copy or download the file again")
    return value


def as_table(value: object) -> dict[str, Any]:
    """`value` when it is an object of a JSON file, else an empty one: for files of unknown structure."""
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    """`value` when it is an array of a JSON file, else an empty one."""
    return value if isinstance(value, list) else []


class ModelConfig:
    """The values of one `config.json`; every look-up checks type and range and raises ModelRefused."""

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        self.values = values
        self.path = path

    @classmethod
    def read(cls, folder: Path) -> ModelConfig:
        """The configuration of the checkpoint in `folder`."""
        path = folder / "config.json"
        return cls(read_json(path), path)

    @property
    def model_type(self) -> str:
        """The architecture's short name, such as "qwen2"."""
        return str(self.values.get("model_type", ""))

    @property
    def classes(self) -> tuple[str, ...]:
        """The model classes the checkpoint names, such as "Qwen2ForCausalLM"."""
        names = self.values.get("architectures") or ()
        return tuple(str(name) for name in names) if isinstance(names, (list, tuple)) else ()

    def integer(self, key: str, default: int | None = None, *, low: int = 1, high: int = _MAX_INTEGER) -> int:
        """A whole number between `low` and `high`."""
        value = self.values.get(key)
        if value is None:
            value = default
        if type(value) is not int or not low <= value <= high:
            raise self.fault(key, value, f"a whole number from {low} to {high}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite positive number."""
        value = self.values.get(key)
        if value is None:
            value = default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
            raise self.fault(key, value, "a positive number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.fault(key, value, "true or false")
        return value

    def text(self, key: str, default: str) -> str:
        """A string."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.fault(key, value, "a string")
        return value

    def table(self, key: str) -> Mapping[str, Any]:
        """A nested object, empty when absent."""
        value = self.values.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.fault(key, value, "an object")
        return value

    def fault(self, key: str, value: object, wanted: str) -> ModelRefused:
        """The error for a value that cannot be used."""
        shown = "missing" if value is None else repr(value)[:60]
        return ModelRefused(
            f"{self.path}: {key} is {shown}; it must be {wanted}.",
            next_step="mend that value, or take another checkpoint",
        )
