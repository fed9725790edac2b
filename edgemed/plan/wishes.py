"""Which context, how many slots and what KV cache a machine can have: the usual ones if they fit, else less of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgemed.engines.base import EngineConfig, KvType
from edgemed.hardware.record import HardwareProfile, value_of
from edgemed.models.spec import ModelSpec
from edgemed.plan.memory import Estimate, estimate_memory, kv_type_fits, layers_on_gpu
from edgemed.plan.situation import Case, PlanRequest

USUAL_CONTEXT = 4096
"""Tokens per slot that a medical question with its prompt and a long answer need."""
USUAL_SLOTS = 4
_LEAST_CONTEXT = 512
_MOST_RUNGS = 3
"""Configurations in main memory alone that a server may fall back to."""


def choose(case: Case) -> tuple[list[Estimate], int | None]:
    """Everything that was looked at, best first, and the number of the first that fits.

    With a GPU the first may be of its own: the best use of it, which may have fewer slots than the processor alone.
    """
    wishes = _wishes(case)
    estimates = estimate_memory(case.spec, wishes, case.gpu)
    fitting = next((index for index, found in enumerate(estimates) if case.fits(found)), None)
    on_gpu = _on_gpu(case, wishes, fitting) if case.gpu else None
    if on_gpu is None or on_gpu.config.n_gpu_layers == 0:
        return estimates, fitting
    return [on_gpu, *estimates], 0


def _on_gpu(case: Case, wishes: Sequence[EngineConfig], fitting: int | None) -> Estimate | None:
    """The best use of the GPUs: the whole model with the full context, else as many layers as fit.

    A model that lies on the GPU entirely is worth more than more slots: what stays behind sets the pace.
    """
    full_context = [config for config in wishes if config.context_length == wishes[0].context_length]
    whole = [config.model_copy(update={"n_gpu_layers": case.spec.n_layers + 1}) for config in full_context]
    for estimate in estimate_memory(case.spec, whole, case.gpu):
        if case.fits(estimate):
            return estimate
    # Then the first wish; then the one that main memory alone can hold, or the least, which has the best chance.
    for index in dict.fromkeys((0, len(wishes) - 1 if fitting is None else fitting)):
        if found := most_layers(case, wishes[index]):
            return found
    return None


def _wishes(case: Case) -> list[EngineConfig]:
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
            adapters=request.adapters,
        )
        for context, count, kv_type in ladder
    ]


def _contexts(spec: ModelSpec, request: PlanRequest) -> list[int]:
    if request.context_length is not None:
        return [request.context_length]
    most = min(USUAL_CONTEXT, spec.context_length)
    return [most, *(size for size in (2048, 1024, _LEAST_CONTEXT) if size < most)]


def usual_threads(profile: HardwareProfile) -> int:
    """One thread per core, and one core left to the server and the browser; at least 1."""
    return max(1, usable_cores(profile) - 1)


def usable_cores(profile: HardwareProfile) -> int:
    """Cores that this process may use. Hardware threads of one core share its arithmetic: they are not counted."""
    usable = value_of(profile.cpu.usable_cores) or 1
    return int(min(usable, value_of(profile.cpu.physical_cores) or usable))


def most_layers(case: Case, config: EngineConfig) -> Estimate | None:
    """The estimate with the most layers on the GPUs that fits; None when not even no layer fits."""
    counts = range(case.spec.n_layers + 2)  # llama.cpp counts the head as one more layer
    configs = [config.model_copy(update={"n_gpu_layers": count}) for count in counts]
    found = last_within(case, configs, case.fits_gpus)
    return found if found is not None and case.fits(found) else None  # with fewer layers main memory takes yet more


def last_within(case: Case, configs: Sequence[EngineConfig], within: Callable[[Estimate], bool]) -> Estimate | None:
    """The last of `configs` that `within` allows, each taking more than the one before; None when none is allowed.

    Halving finds it: at most 7 looks for 80 layers.
    """
    low, high = 0, len(configs) - 1
    best: Estimate | None = None
    while low <= high:
        middle = (low + high) // 2
        (found,) = estimate_memory(case.spec, [configs[middle]], case.gpu)
        if within(found):
            low, best = middle + 1, found
        else:
            high = middle - 1
    return best


def is_reduced(spec: ModelSpec, config: EngineConfig, request: PlanRequest) -> bool:
    """Whether memory, not the user, made it smaller than usual."""
    context = request.context_length or min(USUAL_CONTEXT, spec.context_length)
    slots = request.n_slots or USUAL_SLOTS
    return config.context_length < context or config.n_slots < slots


def fallbacks(case: Case, config: EngineConfig) -> tuple[EngineConfig, ...]:
    """What to fall back to while serving, each with less than the one before; the last in main memory alone.

    A GPU keeps half of its layers first; then the CPU alone, as long as main memory holds it; then fewer slots and a
    shorter context.
    """
    rungs = []
    plain = config.model_copy(update={"tensor_places": (), "devices": (), "device_shares": ()})
    if (layers := layers_on_gpu(case.spec, config)) > 1:
        rungs.append(plain.model_copy(update={"n_gpu_layers": layers // 2}))
    alone = plain.model_copy(update={"n_gpu_layers": 0})
    smaller = [alone] if config.n_gpu_layers else []
    if config.n_slots > 1:
        smaller.append(alone.model_copy(update={"n_slots": 1}))
    least = alone.model_copy(update={"n_slots": 1, "context_length": max(_LEAST_CONTEXT, config.context_length // 2)})
    if least.context_length < config.context_length:
        smaller.append(least)
    fitting = [found.config for found in estimate_memory(case.spec, smaller) if case.fits(found)]
    return (*rungs, *fitting[:_MOST_RUNGS])
