"""Says in plain words what limits a plan on its machine, and what would help most, each with its number."""

from __future__ import annotations

from collections.abc import Iterator

from edgemed.core.records import Record
from edgemed.core.units import format_bytes
from edgemed.engines.base import EngineConfig
from edgemed.engines.memory_breakdown import RAM
from edgemed.hardware.record import HardwareProfile
from edgemed.plan.explain import SMALLER_TYPES
from edgemed.plan.make import read_spec
from edgemed.plan.memory import estimate_memory, kv_type_fits, layers_on_gpu
from edgemed.plan.record import Plan
from edgemed.plan.situation import Case, PlanRequest, offers
from edgemed.plan.wishes import most_layers

_LEAST_GAIN = 0.05
"""A smaller type is named where it saves at least that share of the weights."""
_LEAST_CONTEXT = 1024


class Advice(Record):
    """What limits, and what helps; sentences for a technician."""

    limits: tuple[str, ...]
    helps: tuple[str, ...]


def advise(plan: Plan, profile: HardwareProfile, request: PlanRequest) -> Advice:
    """For a plan that was made with this profile and request. Asks the engine for projections: a second or two."""
    case = Case(plan.model.path, read_spec(plan.model.path), profile, request, offers(profile, request))
    helps = [
        *(_more_layers(case, plan.engine_config) if plan.engine_config.n_gpu_layers else ()),
        *_fewer_bytes(case),
        *_machine(plan, profile),
    ]
    return Advice(limits=tuple(_limits(case, plan)), helps=tuple(helps) or ("nothing that this program knows of",))


def _limits(case: Case, plan: Plan) -> Iterator[str]:
    config = plan.engine_config
    for budget in plan.budgets:
        if not budget.needed_bytes:
            continue
        share = 100 * budget.needed_bytes / max(1, budget.limit_bytes)
        parts = {need.part: need.n_bytes for need in plan.memory if need.place == budget.place}
        largest = max(parts, key=lambda part: parts[part], default="weights").replace("_", " ")
        yield (
            f"{budget.place}: {format_bytes(budget.needed_bytes)} of {format_bytes(budget.limit_bytes)} are taken "
            f"({share:.0f} %), most of it by {largest}"
        )
    outside = sum(need.n_bytes for need in plan.memory if need.place == RAM and need.part == "weights")
    rows = sum(tensor.n_bytes for tensor in case.spec.tensors if tensor.role == "embedding")
    if config.n_gpu_layers and outside > rows:
        left = format_bytes(outside - rows)
        yield f"{left} of the weights that every token needs lie in main memory: that is what it waits for"
    elif not config.n_gpu_layers:
        if case.gpu and plan.tried:
            yield f"{case.gpu} was tried and is slower here than the processor alone"
        read = format_bytes(case.spec.weight_bytes)
        yield f"the processor does all the work: each token of an answer reads {read} of weights from main memory"
    if plan.ttft_ms.available and plan.tokens_per_s.available:
        answer_s = plan.workload.answer_tokens / plan.tokens_per_s.value
        reading, writing = plan.ttft_ms.value / 1000, answer_s
        what = "reading the question" if reading > writing else "writing the answer"
        yield f"most of the time goes into {what}: {reading:.1f} s until the first token, {writing:.1f} s for the rest"


def _more_layers(case: Case, config: EngineConfig) -> Iterator[str]:
    """Changes of the request that would put more layers on the GPU, the most useful first."""
    now = layers_on_gpu(case.spec, config)
    plain = config.model_copy(update={"tensor_places": ()})
    if now >= case.spec.n_layers and not config.tensor_places:
        return
    before = _on_gpu_bytes(case, plain)
    found = []
    for words, changes in _changes(case, plain):
        changed = plain.model_copy(update=changes)
        most = most_layers(case, changed)
        if most is None:
            continue
        more = layers_on_gpu(case.spec, most.config) - now
        freed = before - _on_gpu_bytes(case, changed)
        if config.tensor_places:
            found.append((freed, f"{words} frees {format_bytes(max(0, freed))} of the GPU for weights"))
        elif more > 0:
            found.append(
                (more, f"{words} frees {format_bytes(max(0, freed))} of the GPU: {more} more layer{'s'[: more > 1]}")
            )
    yield from (words for _, words in sorted(found, key=lambda entry: -entry[0]))


def _changes(case: Case, config: EngineConfig) -> Iterator[tuple[str, dict[str, object]]]:
    if config.kv_type == "f16" and config.flash_attention and kv_type_fits(case.spec, "q8_0"):
        yield "a q8_0 KV cache", {"kv_type": "q8_0"}
    if config.n_slots > 1:
        yield f"{config.n_slots // 2} instead of {config.n_slots} slots (--slots)", {"n_slots": config.n_slots // 2}
    if config.context_length >= 2 * _LEAST_CONTEXT:
        half = config.context_length // 2
        yield f"a context of {half} instead of {config.context_length} tokens (--context)", {"context_length": half}
    if config.n_ubatch > 128:
        yield "reading prompts in chunks of 128 tokens", {"n_ubatch": 128}


def _on_gpu_bytes(case: Case, config: EngineConfig) -> int:
    (found,) = estimate_memory(case.spec, [config], case.gpu)
    return sum(found.bytes_in(place) for place in case.gpus)


def _fewer_bytes(case: Case) -> Iterator[str]:
    """The largest smaller type: decoding reads every weight once a token, so fewer bytes are as much time."""
    weights = case.spec.weight_bytes
    for name, bits in SMALLER_TYPES:
        size = round(case.spec.n_parameters * bits / 8)
        if size <= (1 - _LEAST_GAIN) * weights:
            sizes = f"{format_bytes(size)} instead of {format_bytes(weights)}"
            how = f"edgemed export CHECKPOINT --recipe {name} (its report says which doses change)"
            yield f"weights as {name} would be {sizes}, and writing up to {weights / size:.1f} times as fast: {how}"
            break


def _machine(plan: Plan, profile: HardwareProfile) -> Iterator[str]:
    yield from (warning for warning in profile.warnings if not profile.on_paper)
    if profile.power_source.available and profile.power_source.value == "battery":
        yield "the machine runs on its battery, where many slow down: connect it to the mains and plan again"
    short = any(candidate.why.startswith(f"{RAM} is short") for candidate in plan.candidates)
    free = next((budget.free_bytes for budget in plan.budgets if budget.place == RAM), None)
    if short and free is not None:
        yield f"close other programs: only {format_bytes(free)} of main memory are free; then plan again"


def sentences(advice: Advice) -> list[tuple[str, str]]:
    """For people: rows of what limits and what helps."""
    return [("limits", line) for line in advice.limits] + [("would help", line) for line in advice.helps]
