"""The Plan: how one model runs on one machine, with the memory it needs and why it was chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from edgemed.core.records import MaybeFigure, Record
from edgemed.engines.base import EngineConfig
from edgemed.engines.memory_breakdown import RAM

Part = Literal["weights", "kv_cache", "compute", "logits", "process"]
"""compute: buffers of one step; logits: what a step hands back; process: program, library and vocabulary."""
MemoryBasis = Literal["projected", "computed", "measured", "assumed"]
"""projected: the engine's own allocation, asked without loading; computed: our formula; measured: a process like
the engine's was looked at; assumed: a figure from experience."""


class ModelIdentity(Record):
    """Which file the plan is for. A file that changed in size or time is another model."""

    path: Path
    n_bytes: int
    modified_ns: int
    architecture: str
    spec_digest: str


class MemoryNeed(Record):
    """One part of the memory, in one place."""

    place: str
    """"RAM", or the engine's name of a device."""
    part: Part
    n_bytes: int
    basis: MemoryBasis


class Budget(Record):
    """What one place offers, and what the plan takes of it."""

    place: str
    free_bytes: int
    """Free when the plan was made."""
    reserve_bytes: int
    """Left to the system and to the engine's own growth."""
    limit_bytes: int
    """What the plan may take: free without the reserve, or less where the user said so."""
    needed_bytes: int
    note: str = ""


class Placement(Record):
    """Consecutive layers and where their weights and their part of the KV cache lie."""

    first_layer: int
    last_layer: int
    place: str


class Candidate(Record):
    """A way to run the model that was looked at, and what became of it."""

    context_length: int
    n_slots: int
    kv_type: str
    n_gpu_layers: int
    needed_bytes: int
    """In all places together."""
    chosen: bool
    why: str


class Plan(Record):
    """How one model runs on one machine."""

    schema_version: Literal[1] = 1
    created: str
    """ISO 8601, UTC."""
    model: ModelIdentity
    profile_digest: str
    hardware_id: str
    recipe: str
    """How the weights are stored, by bytes: "q8_0 97 %, f32 3 %"."""
    engine: str
    """Name, version and backends, such as "llama.cpp (llama-cpp-python 0.3.36; cpu, cuda)"."""
    engine_config: EngineConfig
    placements: tuple[Placement, ...]
    memory: tuple[MemoryNeed, ...]
    memory_note: str = ""
    """How the projection compares with the formula, or why there was none."""
    budgets: tuple[Budget, ...]
    ttft_ms: MaybeFigure
    """Time to the first token."""
    tokens_per_s: MaybeFigure
    """Decoding, one stream."""
    candidates: tuple[Candidate, ...]
    ladder: tuple[EngineConfig, ...] = ()
    """What to fall back to while serving, in this order, when memory or a device is lost: each needs less than the one
    before, the last runs in main memory alone. The plan's own configuration is not among them."""
    reduced: bool
    """Memory forced less context or fewer slots than usual: worth planning again when more is free."""
    notes: tuple[str, ...] = ()
    engine_command: str
    """The same configuration for llama.cpp's own server."""

    def needed_bytes(self, place: str = RAM) -> int:
        """Bytes that the plan takes in one place."""
        return sum(need.n_bytes for need in self.memory if need.place == place)
