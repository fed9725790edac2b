"""Placements that the integer program finds, on the costs that the machine's profile predicts for one question.

Context, KV cache and chunk size are enumerated outside the program; seconds are of the whole question: its prompt and
every token of its answer. What compute buffers take depends on the placement, so a placement that does not fit after
all is solved again with less room.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from edgemed.core.tensor_types import BY_NAME
from edgemed.engines.base import EngineConfig
from edgemed.engines.memory_breakdown import RAM
from edgemed.hardware.record import EngineSpeed
from edgemed.hardware.work import matrices, prompt_steps, rows_of
from edgemed.models.spec import ModelSpec, TensorSpec
from edgemed.plan.engine_layout import to_engine_config
from edgemed.plan.formula import kv_bytes
from edgemed.plan.memory import Estimate, estimate_memory, kv_type_fits
from edgemed.plan.placement import Crossing, DeviceLimit, Solution, Unit
from edgemed.plan.placement_problem import PlacementCosts, format_candidates, placement_problem, unit_of
from edgemed.plan.placement_solver import solve
from edgemed.plan.record import Workload
from edgemed.plan.situation import Case
from edgemed.plan.speed import CostModel, SpeedUnknown
from edgemed.plan.weight_placement import CPU, device_of_place

_ATTEMPTS = 3
_SOLVER_S = 5.0
"""Longest for one program: a plan is timed afterwards, so the best found by then is good enough."""
USUAL_ERRORS = {"iq4_nl": 0.0058, "q4_k": 0.0051, "q5_k": 0.0013, "q6_k": 0.00032, "q8_0": 2.9e-5}
"""Relative squared errors of llama.cpp's own rounding, measured on 524,288 normally distributed weights."""
_UBATCHES = (128, 512)
_PLACED = ("weights", "kv_cache")
"""Parts of an estimate that the program places itself; the others are what a device takes at all."""


def solved_configs(case: Case, shape: EngineConfig, workload: Workload) -> Iterator[EngineConfig]:
    """The fastest placement for every KV cache and chunk size that is worth a look; none without measured speeds."""
    speed = case.profile.speed
    if not case.gpus or not isinstance(speed, EngineSpeed):
        return
    smaller = shape.kv_type == "f16" and shape.flash_attention and kv_type_fits(case.spec, "q8_0")
    for kv_type in (shape.kv_type, "q8_0") if smaller else (shape.kv_type,):
        for n_ubatch in _UBATCHES:
            try:
                found = _solved(
                    case, shape.model_copy(update={"kv_type": kv_type, "n_ubatch": n_ubatch}), workload, speed
                )
            except SpeedUnknown:
                return
            if found is not None:
                yield found


def _solved(case: Case, shape: EngineConfig, workload: Workload, speed: EngineSpeed) -> EngineConfig | None:
    """The placement of one shape that fits as the engine itself projects it; None when there is none."""
    rooms = {place: offer.limit_bytes for place, offer in case.offers.items()}
    taken = _taken_at_all(case, shape)
    model = CostModel(speed, shape.n_threads, shape.n_threads_batch or shape.n_threads)
    for _ in range(_ATTEMPTS):
        problem = placement_problem(case.spec, _costs(case, shape, workload, model, rooms, taken))
        solution = solve(problem, time_limit_s=_SOLVER_S)
        if not isinstance(solution, Solution):
            return None
        config = to_engine_config(solution.layout, case.spec, shape)
        (estimate,) = estimate_memory(case.spec, [config], case.gpu)
        if case.fits(estimate):
            return config
        for place in rooms:
            rooms[place] -= max(0, -case.spare(estimate, place))
    return None


def joint_formats(case: Case, shape: EngineConfig, workload: Workload) -> dict[str, str]:
    """The format of every matrix of the layers and the head that makes a question fastest, placed where it should be,
    at no larger error than the formats that the model has now; empty where nothing better is known.

    Errors are the formats' usual ones, not measured on this model, and taken to add up.
    """
    speed = case.profile.speed
    if not isinstance(speed, EngineSpeed):
        return {}
    rooms = {place: offer.limit_bytes for place, offer in case.offers.items()}
    model = CostModel(speed, shape.n_threads, shape.n_threads_batch or shape.n_threads)
    budget = sum(_error(case.spec, tensor, tensor.type) for tensor in _placed_matrices(case))
    sizes: dict[tuple[int | None, str], list[TensorSpec]] = {}
    for tensor in _placed_matrices(case):
        sizes.setdefault((tensor.layer, str(unit_of(tensor))), []).append(tensor)

    def error(layer: int | None, unit: Unit, name: str) -> float:
        return sum(_error(case.spec, tensor, name) for tensor in sizes.get((layer, unit), ()))

    try:
        costs = _costs(case, shape, workload, model, rooms, _taken_at_all(case, shape), tuple(USUAL_ERRORS))
    except SpeedUnknown:
        return {}
    problem = placement_problem(case.spec, costs, format_candidates(case.spec, tuple(USUAL_ERRORS), error), budget)
    solution = solve(problem, time_limit_s=_SOLVER_S)
    if not isinstance(solution, Solution):
        return {}
    chosen = {
        (layer, unit): placed.format
        for layer, places in enumerate(solution.layout.layers)
        for unit, placed in places.units
    }
    head = solution.layout.head.format
    return {
        tensor.name: head if tensor.layer is None else chosen[tensor.layer, unit_of(tensor)]  # type: ignore[index]
        for tensor in _placed_matrices(case)
    }


def _placed_matrices(case: Case) -> list[TensorSpec]:
    return [tensor for tensor in matrices(case.spec) if unit_of(tensor) is not None]


def _error(spec: ModelSpec, tensor: TensorSpec, format_name: str) -> float:
    """What rounding a matrix loses, in errors of one weight; the first and last eighth of the layers count double."""
    eighth, layer = spec.n_layers // 8, tensor.layer
    outer = layer is None or layer < eighth or layer >= spec.n_layers - eighth
    return USUAL_ERRORS.get(format_name, 0.0) * math.prod(tensor.shape) * (2 if outer else 1)


def _taken_at_all(case: Case, shape: EngineConfig) -> dict[str, int]:
    """Bytes of each place that are neither weights nor KV cache, with layers on both sides."""
    half = shape.model_copy(update={"n_gpu_layers": case.spec.n_layers // 2 + 1})
    (estimate,) = estimate_memory(case.spec, [half], case.gpu)
    return {place: _beside(estimate, place) for place in case.offers}


def _beside(estimate: Estimate, place: str) -> int:
    return sum(need.n_bytes for need in estimate.needs if need.place == place and need.part not in _PLACED)


def _costs(
    case: Case,
    shape: EngineConfig,
    workload: Workload,
    model: CostModel,
    rooms: Mapping[str, int],
    taken: Mapping[str, int],
    formats: Sequence[str] = (),
) -> PlacementCosts:
    """Seconds of one question, by device and format: those of the model, and `formats`. Raises SpeedUnknown."""
    spec, answer = case.spec, workload.answer_tokens
    steps = list(prompt_steps(workload.prompt_tokens, shape.n_ubatch))
    passes = answer + len(steps)
    depth = workload.prompt_tokens + answer // 2
    typical = max(matrices(spec), key=lambda tensor: math.prod(tensor.shape) if tensor.layer is not None else 0)

    def seconds_per_byte(place: str, format_name: str) -> float:
        rows = math.prod(typical.shape[:-1])
        changes = {"type": format_name, "n_bytes": rows * BY_NAME[format_name].row_bytes(typical.shape[-1])}
        tensor = typical.model_copy(update=changes)
        reading = sum(
            model.matrix_s(device_of_place(place), tensor, rows_of(tensor, spec, size, out)) for size, _, out in steps
        )
        return (reading + answer * model.matrix_s(device_of_place(place), tensor, 1)) / tensor.n_bytes

    def attention_s(place: str) -> float:
        device = device_of_place(place)
        reading = sum(model.prompt_attention_s(device, spec, shape.kv_type, size, before) for size, before, _ in steps)
        return reading + answer * model.decode_attention_s(device, spec, shape.kv_type, depth)

    names = {tensor.type for tensor in matrices(spec)} | set(formats)
    table = {(place, name): seconds_per_byte(place, name) for place in rooms for name in names}
    return PlacementCosts(
        devices=tuple(DeviceLimit(device=p, free_bytes=rooms[p], overhead_bytes=taken[p]) for p in rooms),
        seconds_per_byte=table,
        kv_bytes=kv_bytes(spec, shape) // spec.n_layers,
        kv_s={place: attention_s(place) for place in rooms},
        unit_s={place: model.layer_s(device_of_place(place)) * passes / 3 for place in rooms},
        crossings=tuple(Crossing(device=p, seconds=model.crossing_s(CPU, p) * passes) for p in rooms if p != RAM),
    )
