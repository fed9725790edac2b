"""The Plan: how one model runs on one machine, with the memory it needs and why it was chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from edgemed.core.records import MaybeFigure, Record
from edgemed.engines.base import EngineConfig
from edgemed.engines.memory_breakdown import RAM
from edgemed.plan.deployment import ModeChoice

Part = Literal["weights", "kv_cache", "compute", "logits", "embedding", "adapters", "overhead", "process"]
"""compute: buffers of one step; logits: what a step hands back; embedding: the second context that reads texts for
their embeddings; overhead: a GPU's driver and context; process: program, library, vocabulary and working memory."""
MemoryBasis = Literal["projected", "computed", "measured", "assumed"]
"""projected: the engine's own allocation, asked without loading; computed: our formula; measured: a process like
the engine's was looked at; assumed: a figure from experience."""


OFFERS_LESS = "fits, but offers less"
"""Why a candidate lost that nobody needs to read about."""


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
    note: str = ""


class Difference(Record):
    """One figure that was predicted, and what it is."""

    place: str
    part: Part | None
    """None for all parts of the place that the engine tells of."""
    predicted_bytes: int
    real_bytes: int
    difference_bytes: int
    """Real less predicted: positive where the prediction was too low."""
    difference_percent: float | None
    """Of what was predicted; None where nothing was."""


class MemoryReadback(Record):
    """The comparison of one loaded engine."""

    parts: tuple[Difference, ...]
    """Weights, KV cache and compute of each place; empty where the engine cannot be asked."""
    places: tuple[Difference, ...]
    """Their sums."""
    resident: Difference | None
    """Everything predicted for main memory against the process's resident memory; None where it cannot be read. Pages
    that nothing has touched yet are not resident: look after the longest prompt was read."""

    def worst_percent(self) -> float:
        """The largest difference of a place, up or down; 0 without any."""
        return max((abs(one.difference_percent or 0.0) for one in self.places), default=0.0)


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


class Workload(Record):
    """The lengths that a plan is made for: a question with its instructions, and its answer."""

    prompt_tokens: int = Field(default=512, ge=1)
    """A template of the project with a question of some sentences takes 200 to 500."""
    answer_tokens: int = Field(default=192, ge=1)
    """A dose with its maximum and warnings takes 100 to 250."""

    def within(self, context_length: int) -> Workload:
        """The same, cut to what a context of so many tokens holds."""
        answer = min(self.answer_tokens, max(1, context_length // 4))
        return Workload(prompt_tokens=max(1, min(self.prompt_tokens, context_length - answer)), answer_tokens=answer)


class Candidate(Record):
    """A way to run the model that was looked at, and what became of it."""

    name: str
    """In words: "CPU alone", "most layers on the GPU", "llama.cpp's own fit"."""
    config: EngineConfig
    needed_bytes: dict[str, int]
    """By place, as projected before anything was loaded."""
    predicted_s: MaybeFigure
    """Seconds for one question and answer of the plan's workload, from the machine's profile."""
    measured_s: MaybeFigure
    """The same, timed here with the model itself."""
    ttft_ms: MaybeFigure
    tokens_per_s: MaybeFigure
    chosen: bool
    why: str
    """Why it was chosen, or why it lost."""
    engine_command: str
    """The same configuration for llama.cpp's own server."""


class Plan(Record):
    """How one model runs on one machine."""

    schema_version: Literal[2] = 2
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
    read_back: MemoryReadback | None = None
    """What the engine took when the plan was tried, against the projection; None without a trial."""
    budgets: tuple[Budget, ...]
    workload: Workload
    ttft_ms: MaybeFigure
    """Time to the first token of the workload's prompt, measured in a trial or predicted."""
    tokens_per_s: MaybeFigure
    """Decoding after that prompt, one stream; measured in a trial or predicted."""
    tried: bool = False
    """The candidates were timed on this machine with the model itself."""
    candidates: tuple[Candidate, ...]
    deployment: ModeChoice | None = None
    """Adapters or merged models (equation 7); None where no adapters were named, or nothing was timed."""
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
