"""Makes a plan: the largest usual configuration that fits, or the gap in numbers and the ways out of it."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgemed.core.errors import PlanInfeasible, UsageError
from edgemed.core.progress import Progress, SilentProgress
from edgemed.core.records import NotAvailable
from edgemed.core.units import MIB, format_bytes
from edgemed.engines.base import EngineConfig, KvType
from edgemed.engines.memory_breakdown import RAM
from edgemed.hardware.record import EngineDevice, EngineProfile, HardwareProfile, value_of
from edgemed.models.gguf import check_gguf, spec_from_gguf
from edgemed.models.spec import ModelSpec
from edgemed.plan.explain import infeasible, recipe_of, server_command
from edgemed.plan.memory import Estimate, estimate_memory, kv_type_fits, layers_on_gpu
from edgemed.plan.record import Budget, Candidate, ModelIdentity, Placement, Plan

USUAL_CONTEXT = 4096
"""Tokens per slot that a medical question with its prompt and a long answer need."""
USUAL_SLOTS = 4
_LEAST_CONTEXT = 512
_LEAST_REQUEST = 128
"""Tokens; a medical question's instructions alone take most of them."""
_RAM_RESERVE_SHARE = 0.05
_RAM_RESERVE_BYTES = 256 * MIB
"""Left to the system, a browser tab and the page cache: a box that swaps is slower than a smaller plan."""
_GPU_RESERVE_BYTES = 128 * MIB
"""The driver's own growth; the engine's figure of free memory is already without its context."""


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What the user asked for; None leaves it to the plan."""

    context_length: int | None = None
    n_slots: int | None = None
    max_ram_bytes: int | None = None
    max_vram_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class _Offer:
    """What one place has."""

    place: str
    free_bytes: int
    reserve_bytes: int
    limit_bytes: int
    note: str


@dataclass(frozen=True, slots=True)
class _Case:
    """One model, one machine, one wish."""

    model_path: Path
    spec: ModelSpec
    profile: HardwareProfile
    request: PlanRequest
    offers: dict[str, _Offer]

    @property
    def gpu(self) -> str:
        """The first GPU that offers memory; "" without one."""
        return next((place for place in self.offers if place != RAM), "")


def make_plan(
    model_path: Path,
    profile: HardwareProfile,
    request: PlanRequest = PlanRequest(),
    progress: Progress | None = None,
) -> Plan:
    """How the GGUF model at `model_path` runs on the machine of `profile`.

    Raises ModelRefused for a damaged file, UsageError for a context beyond the model's, and PlanInfeasible with
    the gap in bytes and the cheapest ways out.
    """
    watcher: Progress = progress or SilentProgress()
    model_path = model_path.absolute()  # a saved plan is used from other folders
    spec = read_spec(model_path)
    _check_request(spec, request)
    case = _Case(model_path, spec, profile, request, _offers(profile, request))
    if RAM not in case.offers:
        raise PlanInfeasible("The profile does not say how much memory is free.", next_step="edgemed profile")
    with watcher.task("Projecting memory", 1) as task:
        estimates, chosen = _choose(case)
        task.advance(1)
    if chosen is None:
        limits = {place: offer.limit_bytes for place, offer in case.offers.items()}
        raise infeasible(spec, model_path, estimates, limits, by_user=limits[RAM] == request.max_ram_bytes)
    return _plan(case, estimates, chosen)


def _choose(case: _Case) -> tuple[list[Estimate], int | None]:
    """Everything that was looked at, best first, and the number of the first that fits."""
    wishes = _wishes(case)
    estimates = estimate_memory(case.spec, wishes, case.gpu)
    fitting = next((index for index, found in enumerate(estimates) if fits(found, case.offers)), None)
    on_gpu = _on_gpu(case, wishes, fitting) if case.gpu else None
    if on_gpu is None or on_gpu.config.n_gpu_layers == 0:
        return estimates, fitting
    return [on_gpu, *estimates], 0


def _on_gpu(case: _Case, wishes: Sequence[EngineConfig], fitting: int | None) -> Estimate | None:
    """The best use of the GPUs: the whole model with the full context, else as many layers as fit.

    A model that lies on the GPU entirely is worth more than more slots: what stays behind sets the pace.
    """
    full_context = [config for config in wishes if config.context_length == wishes[0].context_length]
    whole = [config.model_copy(update={"n_gpu_layers": case.spec.n_layers + 1}) for config in full_context]
    for estimate in estimate_memory(case.spec, whole, case.gpu):
        if fits(estimate, case.offers):
            return estimate
    # Then the first wish; then the one that main memory alone can hold, or the least, which has the best chance.
    for index in dict.fromkeys((0, len(wishes) - 1 if fitting is None else fitting)):
        if found := _most_layers(case, wishes[index]):
            return found
    return None


def read_spec(model_path: Path) -> ModelSpec:
    """The model's shape, from its header, checked before the engine sees the file. Raises UsageError, ModelRefused."""
    if model_path.is_dir():
        raise UsageError(
            f"{model_path} is a folder; the engine runs GGUF files.",
            next_step=f"edgemed export {model_path} --target gguf",
        )
    return spec_from_gguf(check_gguf(model_path))


def identify(model_path: Path, spec: ModelSpec) -> ModelIdentity:
    """Which file this is, by place, size and time."""
    stat = model_path.stat()
    return ModelIdentity(
        path=model_path.absolute(),
        n_bytes=stat.st_size,
        modified_ns=stat.st_mtime_ns,
        architecture=spec.architecture,
        spec_digest=spec.digest(),
    )


def _check_request(spec: ModelSpec, request: PlanRequest) -> None:
    if request.context_length is not None:
        if request.context_length < min(_LEAST_REQUEST, spec.context_length):
            raise UsageError(
                f"A context of {request.context_length} tokens holds no question with its instructions and answer.",
                next_step=f"--context {min(2048, spec.context_length)}; at least {_LEAST_REQUEST}",
            )
        if request.context_length > spec.context_length:
            raise UsageError(
                f"The model was made for a context of {spec.context_length} tokens, not {request.context_length}.",
                next_step=f"--context {spec.context_length}, or less",
            )
    if request.n_slots is not None and not 1 <= request.n_slots <= 64:
        raise UsageError(f"{request.n_slots} slots cannot be had.", next_step="use 1 to 64 slots")


def _wishes(case: _Case) -> list[EngineConfig]:
    """Configurations worth having, best first; what the user fixed stays fixed in all of them."""
    spec, request = case.spec, case.request
    contexts = _contexts(spec, request)
    slots = [request.n_slots] if request.n_slots is not None else [USUAL_SLOTS, 2, 1]
    ladder: list[tuple[int, int, KvType]] = [(contexts[0], count, "f16") for count in slots]
    # Half the bytes per token before half the tokens: q8_0 keys and values cost next to no quality.
    smaller_kv: list[KvType] = ["q8_0"] if kv_type_fits(spec, "q8_0") else []
    ladder += [(contexts[0], slots[-1], kv_type) for kv_type in smaller_kv]
    for context in contexts[1:]:
        ladder += [(context, slots[-1], kv_type) for kv_type in ("f16", *smaller_kv)]
    return [
        EngineConfig(
            model_path=case.model_path,
            context_length=context,
            n_slots=count,
            n_threads=usual_threads(case.profile),
            kv_type=kv_type,
        )
        for context, count, kv_type in ladder
    ]


def _contexts(spec: ModelSpec, request: PlanRequest) -> list[int]:
    if request.context_length is not None:
        return [request.context_length]
    most = min(USUAL_CONTEXT, spec.context_length)
    return [most, *(size for size in (2048, 1024, _LEAST_CONTEXT) if size < most)]


def usual_threads(profile: HardwareProfile) -> int:
    """One thread per core, and one core left to the server and the browser; at least 1.

    Hardware threads of one core share its arithmetic: cores are counted, not threads.
    """
    usable = value_of(profile.cpu.usable_cores) or 1
    cores = min(usable, value_of(profile.cpu.physical_cores) or usable)
    return max(1, int(cores) - 1)


def _offers(profile: HardwareProfile, request: PlanRequest) -> dict[str, _Offer]:
    """What each place has for us: main memory, and every GPU with its own memory that the engine names."""
    offers = {}
    free, total = value_of(profile.memory.free), value_of(profile.memory.total)
    if free is not None:
        reserve = max(_RAM_RESERVE_BYTES, int(_RAM_RESERVE_SHARE * (total or free)))
        offers[RAM] = _offer(RAM, int(free), reserve, request.max_ram_bytes, "")
    for device in profile.engine_devices():
        memory = value_of(device.memory_free)
        if device.kind == "gpu" and memory is not None and request.max_vram_bytes != 0:
            note = f"{device.description}; free as the engine sees it"
            offers[device.name] = _offer(device.name, int(memory), _GPU_RESERVE_BYTES, request.max_vram_bytes, note)
    return offers


def _offer(place: str, free: int, reserve: int, most: int | None, note: str) -> _Offer:
    limit = max(0, free - reserve)
    return _Offer(place, free, reserve, limit if most is None else min(limit, most), note)


def fits(estimate: Estimate, offers: dict[str, _Offer]) -> bool:
    """Whether every place holds its part."""
    places = {need.place for need in estimate.needs}
    return all(place in offers and estimate.bytes_in(place) <= offers[place].limit_bytes for place in places)


def _most_layers(case: _Case, config: EngineConfig) -> Estimate | None:
    """The estimate with the most layers on the GPUs that fits; None when not even no layer fits.

    More layers always take more of the GPU, so halving finds it: at most 7 looks for 80 layers.
    """
    low, high = 0, case.spec.n_layers + 1  # llama.cpp counts the head as one more layer
    best: Estimate | None = None
    while low <= high:
        count = (low + high) // 2
        found = estimate_memory(case.spec, [config.model_copy(update={"n_gpu_layers": count})], case.gpu)[0]
        gpus = (offer for place, offer in case.offers.items() if place != RAM)
        if all(found.bytes_in(offer.place) <= offer.limit_bytes for offer in gpus):
            low = count + 1
            best = found if fits(found, case.offers) else best
        else:
            high = count - 1
    return best


def _plan(case: _Case, estimates: Sequence[Estimate], chosen: int) -> Plan:
    profile, spec = case.profile, case.spec
    estimate = estimates[chosen]
    config = estimate.config
    not_timed = NotAvailable(reason="not timed yet")
    return Plan(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        model=identify(case.model_path, spec),
        profile_digest=profile.digest(),
        hardware_id=profile.hardware_id(),
        recipe=recipe_of(spec),
        engine=profile.engine.name if isinstance(profile.engine, EngineProfile) else "llama.cpp (not installed here)",
        engine_config=config,
        placements=_placements(spec, config, profile.engine_devices()),
        memory=estimate.needs,
        memory_note=estimate.note,
        budgets=tuple(_budget(offer, estimate) for offer in case.offers.values()),
        ttft_ms=not_timed,
        tokens_per_s=not_timed,
        candidates=tuple(_candidate(found, index, chosen, case.offers) for index, found in enumerate(estimates)),
        reduced=_is_reduced(spec, config, case.request),
        notes=profile.warnings,
        engine_command=server_command(config),
    )


def _placements(spec: ModelSpec, config: EngineConfig, devices: Sequence[EngineDevice]) -> tuple[Placement, ...]:
    """The first layers in main memory, the last ones on the GPU."""
    on_gpu = layers_on_gpu(spec, config)
    first_on_gpu = spec.n_layers - on_gpu
    names = "+".join(device.name for device in devices if device.kind == "gpu") or "GPU"
    found = []
    if first_on_gpu > 0:
        found.append(Placement(first_layer=0, last_layer=first_on_gpu - 1, place=RAM))
    if on_gpu:
        found.append(Placement(first_layer=first_on_gpu, last_layer=spec.n_layers - 1, place=names))
    return tuple(found)


def _budget(offer: _Offer, estimate: Estimate) -> Budget:
    return Budget(
        place=offer.place,
        free_bytes=offer.free_bytes,
        reserve_bytes=offer.reserve_bytes,
        limit_bytes=offer.limit_bytes,
        needed_bytes=estimate.bytes_in(offer.place),
        note=offer.note,
    )


def _candidate(estimate: Estimate, index: int, chosen: int, offers: dict[str, _Offer]) -> Candidate:
    config = estimate.config
    return Candidate(
        context_length=config.context_length,
        n_slots=config.n_slots,
        kv_type=config.kv_type,
        n_gpu_layers=config.n_gpu_layers,
        needed_bytes=estimate.total_bytes,
        chosen=index == chosen,
        why=_why(estimate, index, chosen, offers),
    )


def _why(estimate: Estimate, index: int, chosen: int, offers: dict[str, _Offer]) -> str:
    if index == chosen:
        return "the first that fits, in order of preference"
    for place, offer in offers.items():
        gap = estimate.bytes_in(place) - offer.limit_bytes
        if gap > 0:
            return f"{place} is short by {format_bytes(gap)}"
    return "fits, but offers less"


def _is_reduced(spec: ModelSpec, config: EngineConfig, request: PlanRequest) -> bool:
    """Whether memory, not the user, made it smaller than usual."""
    context = request.context_length or min(USUAL_CONTEXT, spec.context_length)
    slots = request.n_slots or USUAL_SLOTS
    return config.context_length < context or config.n_slots < slots or config.kv_type != "f16"
