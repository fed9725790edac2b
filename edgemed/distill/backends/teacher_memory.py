"""What a teacher in this process will need, from its files' headers, before anything is loaded.

Counted: weights in the type they are loaded in, the states of the largest layer for a batch, the keys and values of
a batch that writes answers, and the logits of one chunk. Not counted: what the libraries themselves hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Literal

from edgemed.core.errors import PlanInfeasible
from edgemed.core.units import format_bytes
from edgemed.models.config import read_json
from edgemed.models.safetensors import read_safetensors

CHUNK = 512
"""Positions at a time through the head: 300 MB of float32 logits at a vocabulary of 152,000."""
_FLOATS = {"F64", "F32", "F16", "BF16"}


@dataclass(frozen=True, slots=True)
class TeacherLoad:
    """What decides how much memory a teacher takes."""

    folder: Path
    dtype: Literal["float32", "bfloat16"]
    batch: int
    max_tokens: int
    device: str

    @property
    def peak_bytes(self) -> int:
        """An estimate, of the device's memory."""
        config = read_json(self.folder / "config.json")
        size = 4 if self.dtype == "float32" else 2
        tokens = self.batch * self.max_tokens
        hidden, ffn = _number(config, "hidden_size"), _number(config, "intermediate_size")
        heads = _number(config, "num_attention_heads", 1)
        head_size = _number(config, "head_dim") or hidden // max(1, heads)
        kept = 2 * _number(config, "num_key_value_heads", heads) * head_size * _number(config, "num_hidden_layers")
        states = 6 * hidden + 3 * ffn
        return (
            self._weight_bytes(size) + tokens * (states + kept) * size + 2 * CHUNK * _number(config, "vocab_size") * 4
        )

    def _weight_bytes(self, size: int) -> int:
        """Floating numbers as they are loaded, packed ones as they are stored."""
        tensors = [t for path in self.folder.glob("*.safetensors") for t in read_safetensors(path).values()]
        return sum(prod(t.shape) * size if t.dtype in _FLOATS else t.n_bytes for t in tensors)


def require_teacher_memory(load: TeacherLoad, free_bytes: int) -> None:
    """Raises PlanInfeasible with the cheapest way out when the teacher does not fit into what is free."""
    needed = load.peak_bytes
    if needed <= free_bytes:
        return
    ways = {
        "teacher.batch = 1": replace(load, batch=1),
        'teacher.dtype = "bfloat16"': replace(load, dtype="bfloat16"),
        'teacher.dtype = "bfloat16" and teacher.batch = 1': replace(load, dtype="bfloat16", batch=1),
    }
    fitting = {said: other.peak_bytes for said, other in ways.items() if other.peak_bytes <= free_bytes}
    said = next(iter(fitting), "")
    raise PlanInfeasible(
        f"The teacher needs {format_bytes(needed)} ({load.dtype}, {load.batch} texts of up to {load.max_tokens}"
        f" tokens); {format_bytes(free_bytes)} are free ({load.device}).",
        next_step=f"set {said}: {format_bytes(fitting[said])}"
        if said
        else 'run it on several GPUs (teacher.backend = "vllm" or "ray") or behind a server, or take a smaller teacher',
    )


def _number(config: Mapping[str, Any], name: str, default: int = 0) -> int:
    value = config.get(name)
    return value if isinstance(value, int) else default
