"""The memory a configuration needs, part by part: the engine's projection, checked by the formula of `formula.py`.

Whatever the engine allocates is asked of it (`projection.py`). What it leaves out is added here: the rows it hands
back, the context for embeddings, a mapped file's pages, adapters, a GPU driver's own share, and the process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from edgemed.core.records import Figure
from edgemed.core.settings import rpc_devices
from edgemed.core.tensor_types import BY_NAME
from edgemed.core.units import MIB
from edgemed.engines.base import EngineConfig, KvType
from edgemed.engines.memory_breakdown import RAM, Sizes
from edgemed.hardware.engine_devices import ask_engine
from edgemed.hardware.record import EngineSpeed, HardwareProfile
from edgemed.models.gguf import read_gguf
from edgemed.models.spec import ModelSpec
from edgemed.plan import formula
from edgemed.plan.formula import formula_sizes, kv_bytes, logits_bytes, n_cells
from edgemed.plan.projection import Projection, ProjectionFailed, project
from edgemed.plan.record import MemoryBasis, MemoryNeed
from edgemed.plan.weight_placement import place_weights

__all__ = [
    "Estimate",
    "adapter_needs",
    "driver_overheads",
    "estimate_memory",
    "formula_sizes",
    "kv_bytes",
    "kv_type_fits",
    "layers_on_gpu",
    "logits_bytes",
    "n_cells",
]

_ASSUMED_PROCESS_BYTES = 96 * MIB
"""A Python process with the library and a vocabulary of 150,000 tokens, seen on Linux."""
_WORK_BYTES = 15 * MIB
"""What a working process has beyond one that only asks: numpy (9 MiB), a step's scratch memory, threads, scheduler."""
_WORK_BYTES_PER_WORD = 44
"""For each word of the vocabulary: the first check's list of logits (32), the sampler's candidates (12)."""
_ASSUMED_OVERHEAD_BYTES = 400 * MIB
"""A CUDA context with its kernels, as the reference machines of `profiles/` assume it: 300 to 500 MB by card."""
_HALF_NODES_BYTES = 12_000
"""Of a graph's nodes for each half (A or B) of an adapted matrix; seen with one and two adapters on a 0.5B."""
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


def estimate_memory(
    spec: ModelSpec, configs: Sequence[EngineConfig], gpu_place: str = "", more: Sequence[MemoryNeed] = ()
) -> list[Estimate]:
    """The memory of each configuration; one that the engine refuses to project is computed.

    `gpu_place` is the device that layers go to where a configuration names none and the formula has to answer. `more`
    is counted on top of each: drivers (`driver_overheads`). So are the adapters that a configuration names.
    """
    if not configs:
        return []

    def computed(config: EngineConfig, note: str) -> Estimate:
        return _computed(spec, config, note, gpu_place, (*more, *adapter_needs(spec, config, gpu_place)))

    if absent := _absent_devices(configs, gpu_place):
        note = f"computed, because the engine here has no {absent}"
        return [computed(config, note) for config in configs]
    try:
        projections = project(configs)
    except ProjectionFailed as failed:
        note = f"computed, because the engine could not be asked: {failed}"
        return [computed(config, note) for config in configs]
    found = []
    for config, projection in zip(configs, projections, strict=True):
        if projection is None:
            found.append(computed(config, "computed, because the engine refuses this configuration"))
        elif config.n_gpu_layers and not config.devices and gpu_place not in projection.places:
            found.append(computed(config, f"computed, because the engine here has no {gpu_place}"))
        elif not _believable(spec, projection):
            found.append(computed(config, "computed, because the engine's projection of the weights cannot be right"))
        else:
            added = (*more, *adapter_needs(spec, config, gpu_place))
            found.append(_projected(spec, config, projection, gpu_place, added))
    return found


def _absent_devices(configs: Sequence[EngineConfig], gpu_place: str) -> str:
    """Devices that the configurations name and the engine does not have, as for a machine on paper; "" for none."""
    named = {name for config in configs if config.n_gpu_layers for name in config.devices or (gpu_place,) if name}
    return ", ".join(sorted(named - _engine_devices(rpc_devices()))) if named else ""


@lru_cache(maxsize=4)
def _engine_devices(added: object) -> frozenset[str]:
    """The names of the engine's devices; asked once, and again when settings add others (`added`)."""
    del added
    engine = ask_engine()
    return frozenset(device.name for device in engine.devices) if engine.available else frozenset()


def adapter_needs(spec: ModelSpec, config: EngineConfig, gpu_place: str = "") -> tuple[MemoryNeed, ...]:
    """What the adapters of a configuration add, by place: each of their tensors lies where its matrix lies, and main
    memory holds what steps with them are laid out in.

    Raises ModelRefused for a damaged file.
    """
    if not config.adapters:
        return ()
    placement = place_weights(spec, config, (gpu_place,) if gpu_place else ())
    where = {tensor.name: place for tensor, place in placement.tensors}
    # A switch lays the step's buffers out anew; what the old ones had is not always given back.
    by_place: Counter[str] = Counter({RAM: formula_sizes(spec, config).compute})
    for file in config.adapters:
        for tensor in read_gguf(file.path).tensors:
            by_place[where.get(tensor.name.rpartition(".")[0], RAM)] += tensor.n_bytes
            by_place[RAM] += _HALF_NODES_BYTES
    names = ", ".join(file.name for file in config.adapters)
    return tuple(
        MemoryNeed(place=place, part="adapters", n_bytes=n_bytes, basis="computed", note=names)
        for place, n_bytes in by_place.items()
    )


def driver_overheads(profile: HardwareProfile, devices: Sequence[str]) -> tuple[MemoryNeed, ...]:
    """What a process takes of each GPU before any model: from the profile where it was measured, else assumed.

    Only for free memory that was read without a context on the device, as NVML reads it or a data sheet states it:
    the engine's own figure (EngineDevice.memory_free) is already what its context leaves.
    """
    speed = profile.speed
    links = {link.device: link.context_overhead for link in speed.links} if isinstance(speed, EngineSpeed) else {}
    return tuple(_driver_overhead(device, links.get(device)) for device in devices)


def _driver_overhead(device: str, known: object) -> MemoryNeed:
    if isinstance(known, Figure):
        basis: MemoryBasis = "measured" if known.basis == "measured" else "assumed"
        return MemoryNeed(place=device, part="overhead", n_bytes=int(known.value), basis=basis, note=known.note)
    note = "driver and context: not measured on this machine"
    return MemoryNeed(place=device, part="overhead", n_bytes=_ASSUMED_OVERHEAD_BYTES, basis="assumed", note=note)


def _believable(spec: ModelSpec, projection: Projection) -> bool:
    """Whether the weights are about the file's: some tensors are left out, an embedding may count twice."""
    weights = sum(sizes.weights for sizes in projection.places.values())
    return _LEAST_SHARE * spec.weight_bytes <= weights <= _MOST_SHARE * spec.weight_bytes


def _projected(
    spec: ModelSpec, config: EngineConfig, projection: Projection, gpu_place: str, more: Sequence[MemoryNeed]
) -> Estimate:
    gpus = (gpu_place,) if gpu_place else ()
    needs = [need for place, sizes in projection.places.items() for need in _needs(place, sizes, "projected")]
    if config.use_mmap:
        needs = _with_mapping(spec, config, gpus, needs, projection.repacked_bytes)
    needs += _embedding_needs(spec, projection.embedding, "projected")
    needs += _rest(spec, config, projection.process_bytes)
    return Estimate(config, (*needs, *more), _comparison(spec, config, gpus, projection))


def _computed(
    spec: ModelSpec, config: EngineConfig, note: str, gpu_place: str, more: Sequence[MemoryNeed] = ()
) -> Estimate:
    """The formula's answer, with everything where llama.cpp puts it."""
    gpus = (gpu_place,) if gpu_place else ()
    places = formula.sizes_by_place(spec, config, gpus)
    needs = [need for place, sizes in places.items() for need in _needs(place, sizes, "computed")]
    if config.use_mmap:
        repacked = formula.repacked_bytes(spec, config, gpus)
        needs = _with_mapping(spec, config, gpus, needs, repacked)
    needs += _embedding_needs(spec, formula.embedding_by_place(spec, config, gpus), "computed")
    needs += _rest(spec, config, 0)
    return Estimate(config, (*needs, *more), note)


def _needs(place: str, sizes: Sizes, basis: MemoryBasis) -> list[MemoryNeed]:
    return [
        MemoryNeed(place=place, part="weights", n_bytes=sizes.weights, basis=basis),
        MemoryNeed(place=place, part="kv_cache", n_bytes=sizes.kv_cache, basis=basis),
        MemoryNeed(place=place, part="compute", n_bytes=sizes.compute, basis=basis),
    ]


def _with_mapping(
    spec: ModelSpec, config: EngineConfig, gpus: Sequence[str], needs: Sequence[MemoryNeed], repacked: int
) -> list[MemoryNeed]:
    """The weights in main memory as they are with a mapped file: its pages, and repacked copies beside them."""
    mapped = formula.mapped_bytes(spec, config, gpus, repacks=repacked > 0)
    note = f"{mapped:,} bytes are the file's own pages; {repacked:,} are repacked copies"
    changed = {"n_bytes": mapped + repacked, "note": note}
    return [need.model_copy(update=changed) if (need.place, need.part) == (RAM, "weights") else need for need in needs]


def _embedding_needs(spec: ModelSpec, places: Mapping[str, Sizes], basis: MemoryBasis) -> list[MemoryNeed]:
    """The context that the server opens for the first text it embeds, with what that hands back."""
    found = []
    for place, sizes in places.items():
        n_bytes = sum(sizes) + (formula.embedding_rows_bytes(spec) if place == RAM else 0)
        if n_bytes:
            found.append(MemoryNeed(place=place, part="embedding", n_bytes=n_bytes, basis=basis))
    return found


def _rest(spec: ModelSpec, config: EngineConfig, asked_process_bytes: int) -> list[MemoryNeed]:
    """Logits and process; `asked_process_bytes` is what a process that only asked had, 0 where nobody looked."""
    logits = MemoryNeed(place=RAM, part="logits", n_bytes=logits_bytes(spec, config), basis="computed")
    if not asked_process_bytes:
        return [logits, MemoryNeed(place=RAM, part="process", n_bytes=_ASSUMED_PROCESS_BYTES, basis="assumed")]
    n_bytes = asked_process_bytes + _WORK_BYTES + _WORK_BYTES_PER_WORD * spec.vocab_size
    return [logits, MemoryNeed(place=RAM, part="process", n_bytes=n_bytes, basis="measured")]


def _comparison(spec: ModelSpec, config: EngineConfig, gpus: Sequence[str], projection: Projection) -> str:
    """How the projection compares with the formula, place by place, where the formula should hold."""
    ours = formula.sizes_by_place(spec, config, gpus)
    differing = []
    for place in dict.fromkeys((*projection.places, *ours)):
        theirs, mine = projection.places.get(place, Sizes()), ours.get(place, Sizes())
        if abs(sum(theirs) - sum(mine)) <= _AGREES_WITHIN * max(sum(theirs), sum(mine)):
            continue
        for name, projected, computed in zip(("weights", "KV cache", "compute"), theirs, mine, strict=True):
            if abs(projected - computed) > _AGREES_WITHIN * max(projected, computed):
                differing.append(f"{place} {name} {projected:,} projected, {computed:,} computed")
    if not differing:
        return "projected by the engine; the formula agrees within 0.5 %"
    return f"projected by the engine; the formula differs (bytes): {'; '.join(differing)}"


def layers_on_gpu(spec: ModelSpec, config: EngineConfig) -> int:
    """Layers that lie on GPUs: llama.cpp counts the head as the first of `n_gpu_layers`, then the last layers."""
    return min(max(0, config.n_gpu_layers - 1), spec.n_layers)


def kv_type_fits(spec: ModelSpec, kv_type: KvType) -> bool:
    """Whether a head's values fill whole blocks of this type, which quantized KV caches need."""
    return spec.head_dim % BY_NAME[kv_type].block_size == 0
