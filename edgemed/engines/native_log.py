"""What llama.cpp says while it works, heard through its log callback."""

from __future__ import annotations

import contextlib
import re
from collections import deque
from typing import Any

from edgemed.core.units import MIB

_LOG_INFO, _LOG_ERROR = 2, 4
"""enum ggml_log_level, ggml.h."""
_BUFFER_LINE = re.compile(r"(\S+)\s+(?:model|KV|compute|output) buffer size\s*=\s*([\d.]+) MiB")


class NativeLog:
    """What llama.cpp says: errors kept for our own messages, buffer sizes counted, the rest dropped."""

    def __init__(self, api: Any) -> None:
        self._errors: deque[str] = deque(maxlen=4)
        self.buffer_bytes: dict[str, int] = {}
        self._callback = api.llama_log_callback(self._hear)  # kept: the library calls it for as long as it lives
        api.llama_log_set(self._callback, None)

    def last(self) -> str:
        """The newest error lines, oldest first; "" when there were none."""
        return " / ".join(self._errors)

    def _hear(self, level: int, text: bytes, _: Any) -> None:
        if level == _LOG_ERROR:
            self._errors.append(text.decode(errors="replace").strip())
        elif level == _LOG_INFO and b"buffer size" in text:
            with contextlib.suppress(ValueError):
                self._count(text.decode(errors="replace"))

    def _count(self, line: str) -> None:
        if match := _BUFFER_LINE.search(line):
            name, size = match.groups()
            self.buffer_bytes[name] = self.buffer_bytes.get(name, 0) + round(float(size) * MIB)
