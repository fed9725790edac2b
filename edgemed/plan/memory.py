"""The memory a configuration needs, part by part: the engine's projection, checked by our own formula.

The formula (FINDINGS of our measurements; each term seen equal to the engine's allocation):
    KV cache = n_layers * n_cells * n_kv_heads * head_dim * 2 * bytes per value
    compute  = 4 * n_tokens * max(3 ffn + 4 hidden + n_cells / 2 + 6, n_outputs / n_tokens * vocab + 2 hidden)
    weights  = the file's tensors, and the embedding again when it is also the head and gets repacked
with n_cells = n_slots * context_length, rounded up to 256, and n_tokens = n_ubatch, rounded up to the slots. The
compute term holds for a dense decoder with flash attention on a CPU (a quantized KV cache takes up to 7 % less);
mixtures of experts, sliding windows and recurrent layers need the projection.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass

from edgemed.core.tensor_types import BY_NAME
from edgemed.core.units import MIB
from edgemed.engines.base import EngineConfig, KvType
from edgemed.engines.memory_breakdown import RAM, Sizes
from edgemed.models.spec import ModelSpec
from edgemed.plan.projection import Projection, ProjectionFailed, project
from edgemed.plan.record import MemoryBasis, MemoryNeed

_CELLS = 256
"""llama.cpp rounds the KV cache up to this many tokens."""
_ASSUMED_PROCESS_BYTES = 96 * MIB
"""A Python process with the library and a vocabulary of 150,000 tokens, seen on Linux."""
_REPACKED = frozenset({"q4_0", "q4_k", "iq4_nl", "mxfp4", "q2_k"})
_REPACKED_ON_ARM = _REPACKED | {"q5_k", "q6_k", "q8_0"}
"""Types whose kernels want another order of bytes (ggml-cpu/repack.cpp); the embedding then stays a second time."""
_AGREES_WITHIN = 0.005
_LEAST_SHARE, _MOST_SHARE = 0.5, 2.5


@dataclass(frozen=True, slots=True)
class Estimate:
    """Memory of one configuration."""

    config: EngineConfig
    needs: tuple[MemoryNeed, ...]
    note: str

    def bytes_in(self, place: str) -> int:
        """Bytes taken in one place."""
        return sum(need.n_bytes for need in self.needs if need.place == place)

    @property
    def total_bytes(self) -> int:
        """Bytes taken in all places."""
        return sum(need.n_bytes for need in self.needs)


def estimate_memory(spec: ModelSpec, configs: Sequence[EngineConfig], gpu_place: str = "") -> list[Estimate]:
    """The memory of each configuration; one that the engine refuses to project is computed.

    `gpu_place` is the device that layers go to when the formula has to answer.
    """
    if not configs:
        return []
    try:
        projections = project(configs)
    except ProjectionFailed as failed:
        note = f"computed, because the engine could not be asked: {failed}"
        return [_computed(spec, config, note, gpu_place) for config in configs]
    found = []
    for config, projection in zip(configs, projections, strict=True):
        if projection is None:
            why = "computed, because the engine refuses this configuration"
            found.append(_computed(spec, config, why, gpu_place))
        elif config.n_gpu_layers and gpu_place not in projection.places:
            why = f"computed, because the engine here has no {gpu_place}"
            found.append(_computed(spec, config, why, gpu_place))
        elif not _believable(spec, projection):
            why = "computed, because the engine's projection of the weights cannot be right"
            found.append(_computed(spec, config, why, gpu_place))
        else:
            found.append(_projected(spec, config, projection))
    return found


def _believable(spec: ModelSpec, projection: Projection) -> bool:
    """Whether the weights are about the file's: some tensors are left out, an embedding may count twice."""
    weights = all_places(projection).weights
    return _LEAST_SHARE * spec.weight_bytes <= weights <= _MOST_SHARE * spec.weight_bytes


def _projected(spec: ModelSpec, config: EngineConfig, projection: Projection) -> Estimate:
    process = projection.process_bytes or _ASSUMED_PROCESS_BYTES
    process_basis: MemoryBasis = "measured" if projection.process_bytes else "assumed"
    needs = [need for place, sizes in projection.places.items() for need in _needs(place, sizes, "projected")]
    needs.append(MemoryNeed(place=RAM, part="logits", n_bytes=logits_bytes(spec, config), basis="computed"))
    needs.append(MemoryNeed(place=RAM, part="process", n_bytes=process, basis=process_basis))
    return Estimate(config, tuple(needs), _comparison(spec, config, projection))


def _comparison(spec: ModelSpec, config: EngineConfig, projection: Projection) -> str:
    """How the projection compares with the formula, part by part, where the formula should hold."""
    formula, total = formula_sizes(spec, config), all_places(projection)
    differing = [
        f"{name} {theirs:,} projected, {ours:,} computed"
        for name, theirs, ours in (
            ("weights", total.weights, formula.weights),
            ("KV cache", total.kv_cache, formula.kv_cache),
            ("compute", total.compute, formula.compute),
        )
        if abs(theirs - ours) > _AGREES_WITHIN * max(theirs, ours)
    ]
    if not differing:
        return "projected by the engine; the formula agrees within 0.5 %"
    return f"projected by the engine; the formula differs (bytes): {'; '.join(differing)}"


def all_places(projection: Projection) -> Sizes:
    """What the engine takes in all places together."""
    total = Sizes()
    for sizes in projection.places.values():
        total = total.plus(sizes)
    return total


def _computed(spec: ModelSpec, config: EngineConfig, note: str, gpu_place: str) -> Estimate:
    """The formula's answer, with the head and the last layers on the GPU as llama.cpp places them."""
    in_ram = formula_sizes(spec, config)
    needs: list[MemoryNeed] = []
    if gpu_place and config.n_gpu_layers > 0:
        layers = layers_on_gpu(spec, config)
        kv_cache = in_ram.kv_cache * layers // spec.n_layers
        on_gpu = Sizes(_weights_from(spec, spec.n_layers - layers), kv_cache, in_ram.compute)
        # A tied embedding lies in both places: rows are looked up in main memory, the head multiplies on the GPU.
        again = _embedding_bytes(spec) if spec.tied_embeddings else 0
        rest = spec.weight_bytes - on_gpu.weights + again
        in_ram = Sizes(rest, in_ram.kv_cache - kv_cache, in_ram.compute)
        needs = _needs(gpu_place, on_gpu, "computed")
    needs += _needs(RAM, in_ram, "computed")
    needs.append(MemoryNeed(place=RAM, part="logits", n_bytes=logits_bytes(spec, config), basis="computed"))
    needs.append(MemoryNeed(place=RAM, part="process", n_bytes=_ASSUMED_PROCESS_BYTES, basis="assumed"))
    return Estimate(config, tuple(needs), note)


def layers_on_gpu(spec: ModelSpec, config: EngineConfig) -> int:
    """Layers that lie on the GPU: llama.cpp counts the head as the first of `n_gpu_layers`, then the last layers."""
    return min(max(0, config.n_gpu_layers - 1), spec.n_layers)


def _weights_from(spec: ModelSpec, first_layer: int) -> int:
    """Bytes of the layers from `first_layer` on, and of the head with its norm."""
    head = "embedding" if spec.tied_embeddings else "head"
    chosen = (
        tensor.n_bytes
        for tensor in spec.tensors
        if (tensor.layer is not None and tensor.layer >= first_layer)
        or tensor.role == head
        or (tensor.layer is None and tensor.role == "norm")
    )
    return sum(chosen)


def _needs(place: str, sizes: Sizes, basis: MemoryBasis) -> list[MemoryNeed]:
    return [
        MemoryNeed(place=place, part="weights", n_bytes=sizes.weights, basis=basis),
        MemoryNeed(place=place, part="kv_cache", n_bytes=sizes.kv_cache, basis=basis),
        MemoryNeed(place=place, part="compute", n_bytes=sizes.compute, basis=basis),
    ]


def formula_sizes(spec: ModelSpec, config: EngineConfig) -> Sizes:
    """Weights, KV cache and compute buffer in bytes by formula, all places together."""
    return Sizes(weight_bytes(spec), kv_bytes(spec, config), compute_bytes(spec, config))


def weight_bytes(spec: ModelSpec) -> int:
    """Bytes of the weights in memory, which is more than the file's where a tied embedding is repacked."""
    repacked = _REPACKED_ON_ARM if platform.machine().lower() in ("aarch64", "arm64") else _REPACKED
    twice = spec.tied_embeddings and any(t.role == "embedding" and t.type in repacked for t in spec.tensors)
    return spec.weight_bytes + (_embedding_bytes(spec) if twice else 0)


def _embedding_bytes(spec: ModelSpec) -> int:
    return sum(tensor.n_bytes for tensor in spec.tensors if tensor.role == "embedding")


def kv_bytes(spec: ModelSpec, config: EngineConfig) -> int:
    """Bytes of the KV cache of all slots together; exact for layers that keep the whole context."""
    row = BY_NAME[config.kv_type].row_bytes(spec.n_kv_heads * spec.head_dim)
    return spec.n_layers * n_cells(config) * 2 * row


def compute_bytes(spec: ModelSpec, config: EngineConfig) -> int:
    """Bytes of the buffers of one step, by formula: the feed-forward of a chunk, or the head's output."""
    tokens = min(config.n_ubatch, config.n_slots * config.context_length)
    tokens = -(-tokens // config.n_slots) * config.n_slots
    layer = tokens * (3 * spec.ffn_size + 4 * spec.hidden_size + n_cells(config) // 2 + 6)
    head = config.n_slots * spec.vocab_size + tokens * 2 * spec.hidden_size
    return 4 * max(layer, head)


def logits_bytes(spec: ModelSpec, config: EngineConfig) -> int:
    """Bytes of the logits handed back for one step, float32; the projection leaves them out."""
    return 4 * config.n_slots * spec.vocab_size


def n_cells(config: EngineConfig) -> int:
    """Tokens that the KV cache holds, all slots together, as the engine rounds them."""
    wanted = config.n_slots * config.context_length
    return -(-wanted // _CELLS) * _CELLS


def kv_type_fits(spec: ModelSpec, kv_type: KvType) -> bool:
    """Whether a head's values fill whole blocks of this type, which quantized KV caches need."""
    return spec.head_dim % BY_NAME[kv_type].block_size == 0
