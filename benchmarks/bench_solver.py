"""How long the placement solver takes, and how good it proves its answer to be, on the true shapes of large models.

    python benchmarks/bench_solver.py [--quick] [--repeat N] [--time-limit S]

Machines are round figures (main memory 40 GB/s; GPUs of 200 to 400 GB/s; a step's crossing of 40 us): what is measured
is the solver, not a machine. "fixed" is one format for all; "joint" chooses among five for each unit, the layers alike;
"joint, each layer" gives every layer errors of its own, so that no two are alike. The naive form has one binary for
each unit, device and format, and one for each change of device. CPU seconds are of the whole process, all threads.
"""

from __future__ import annotations

import argparse
import math
import platform
import random
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edgemed.core.native_output import discarded_output
from edgemed.core.tensor_types import BY_NAME
from edgemed.core.units import GIB
from edgemed.engines.memory_breakdown import RAM
from edgemed.models.spec import ModelSpec, TensorSpec
from edgemed.plan.placement import LAYER_UNITS, Choice, Crossing, DeviceLimit, PlacementProblem, Solution
from edgemed.plan.placement_problem import PlacementCosts, format_candidates, placement_problem
from edgemed.plan.placement_solver import solve

FORMATS = ("q8_0", "q6_k", "q5_k", "q4_k", "q3_k")
FIXED = "q4_k"
ERRORS = {"q8_0": 0.0004, "q6_k": 0.001, "q5_k": 0.004, "q4_k": 0.016, "q3_k": 0.07}
"""Relative squared errors of rounding, by order of magnitude; only their proportions matter here."""
CPU_BANDWIDTH = 40e9
GPU_BANDWIDTH = (400e9, 250e9)
SPEED = {"q8_0": 0.95, "q6_k": 0.8, "q5_k": 0.75, "q4_k": 0.85, "q3_k": 0.6}
"""Share of the bandwidth that a format's kernels reach."""
CROSSING_S = 40e-6
CONTEXT = 4096
GPU_GB = (4, 6, 8, 12, 16, 24)


@dataclass(frozen=True)
class Shape:
    """The published shape of one model."""

    name: str
    n_layers: int
    hidden_size: int
    ffn_size: int
    n_heads: int
    n_kv_heads: int
    vocab_size: int


SHAPES = (
    Shape("Qwen2 7B", 28, 3584, 18944, 28, 4, 152064),
    Shape("Qwen2 14B", 48, 5120, 13824, 40, 8, 152064),
    Shape("Qwen2 32B", 64, 5120, 27648, 40, 8, 152064),
    Shape("Llama 70B", 80, 8192, 28672, 64, 8, 128256),
)


@dataclass(frozen=True)
class Case:
    """One row of the table, without its figures."""

    shape: Shape
    formats: str
    n_gpus: int
    gpu_gb: int


def main() -> None:
    """Print the tables in Markdown; progress goes to stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two memory limits instead of six")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--time-limit", type=float, default=30.0, help="seconds for one problem")
    asked = parser.parse_args()
    limits = (6, 12) if asked.quick else GPU_GB
    print(f"{platform.machine()}, {platform.system()}; {time.strftime('%Y-%m-%d')}; {asked.repeat} runs of each case\n")
    print("| model | formats | devices | GPU GB | CPU s, median (worst) | wall s | gap | columns | ms/token |")
    print("|---|---|---|---|---|---|---|---|---|")
    worst: dict[tuple[str, str], float] = {}
    for case in _cases(limits):
        row, slowest = _measured(case, asked.repeat, asked.time_limit)
        print(row, flush=True)
        key = case.shape.name, case.formats
        worst[key] = max(worst.get(key, 0.0), slowest)
    print("\n| model | formats | slowest CPU s |\n|---|---|---|")
    for (name, formats), seconds in worst.items():
        print(f"| {name} | {formats} | {seconds:.2f} |")
    print()
    _compare_with_naive(asked.time_limit)


def _cases(limits: tuple[int, ...]) -> Iterator[Case]:
    for shape in SHAPES:
        for formats in ("fixed", "joint", "joint, each layer"):
            for n_gpus in (0, 1, 2):
                for gpu_gb in limits if n_gpus else (0,):
                    yield Case(shape, formats, n_gpus, gpu_gb)


def _measured(case: Case, repeat: int, time_limit_s: float) -> tuple[str, float]:
    problem = problem_of(case)
    cpu, wall = [], []
    for _ in range(repeat):
        began, at = time.process_time(), time.perf_counter()
        found = solve(problem, time_limit_s=time_limit_s)
        cpu.append(time.process_time() - began)
        wall.append(time.perf_counter() - at)
    what = f"{case.shape.name} | {case.formats} | {1 + case.n_gpus} | {case.gpu_gb or '-'}"
    print(f"{what}: {max(wall):.2f} s", file=sys.stderr, flush=True)
    times = f"{statistics.median(cpu):.2f} ({max(cpu):.2f}) | {statistics.median(wall):.2f}"
    if not isinstance(found, Solution):
        return f"| {what} | {times} | does not fit: {(found.missing_bytes or 0) / 1e9:.2f} GB | | |", max(cpu)
    gap = f"{found.gap:.1e}{'' if found.proven else ' (not proven)'}"
    return f"| {what} | {times} | {gap} | {found.n_columns} | {1e3 * found.cost.seconds:.2f} |", max(cpu)


def problem_of(case: Case) -> PlacementProblem:
    """The problem of one case; RAM holds everything, so that the GPUs' memory is what is short."""
    spec = spec_of(case.shape)
    gpus = tuple(f"CUDA{n}" for n in range(case.n_gpus))
    bandwidth = {RAM: CPU_BANDWIDTH, **dict(zip(gpus, GPU_BANDWIDTH, strict=False))}
    kv_bytes = CONTEXT * case.shape.n_kv_heads * (case.shape.hidden_size // case.shape.n_heads) * 2 * 2
    costs = PlacementCosts(
        devices=(
            DeviceLimit(device=RAM, free_bytes=128 * GIB, overhead_bytes=GIB),
            *(DeviceLimit(device=gpu, free_bytes=case.gpu_gb * 10**9, overhead_bytes=500 * 10**6) for gpu in gpus),
        ),
        seconds_per_byte=lambda device, name: 1 / (bandwidth[device] * SPEED[name]),
        kv_bytes=kv_bytes,
        kv_s={device: kv_bytes / each for device, each in bandwidth.items()},
        unit_s=dict.fromkeys(bandwidth, 10e-6),
        crossings=tuple(Crossing(device=gpu, seconds=CROSSING_S) for gpu in gpus),
    )
    if case.formats == "fixed":
        return placement_problem(spec, costs)
    rng = random.Random(1)
    own = {n: math.exp(rng.gauss(0.0, 0.5)) if case.formats != "joint" else 1.0 for n in range(spec.n_layers)}
    weight = {"attention": 1.0, "gate_up": 1.5, "down": 2.5, "head": 3.0}

    def error(layer: int | None, unit: str, name: str) -> float:
        return ERRORS[name] * weight[unit] * (1.0 if layer is None else own[layer])

    candidates = format_candidates(spec, FORMATS, error)
    budget = sum(candidate.error for candidate in candidates if candidate.format == FIXED)
    return placement_problem(spec, costs, candidates, budget)


def spec_of(shape: Shape) -> ModelSpec:
    """A model of that shape, every matrix in FIXED."""
    hidden, kv = shape.hidden_size, shape.hidden_size // shape.n_heads * shape.n_kv_heads
    rows = [
        ("token_embd", "embedding", None, shape.vocab_size, hidden),
        ("output", "head", None, shape.vocab_size, hidden),
    ]
    for n in range(shape.n_layers):
        rows += [
            (f"blk.{n}.attn_q", "attention_q", n, hidden, hidden),
            (f"blk.{n}.attn_k", "attention_k", n, kv, hidden),
            (f"blk.{n}.attn_v", "attention_v", n, kv, hidden),
            (f"blk.{n}.attn_output", "attention_output", n, hidden, hidden),
            (f"blk.{n}.ffn_gate", "ffn_gate", n, shape.ffn_size, hidden),
            (f"blk.{n}.ffn_up", "ffn_up", n, shape.ffn_size, hidden),
            (f"blk.{n}.ffn_down", "ffn_down", n, hidden, shape.ffn_size),
        ]  # fmt: skip
    tensors = [
        TensorSpec(
            name=f"{name}.weight",
            shape=(out, columns),
            type=FIXED,
            role=role,
            layer=layer,
            n_bytes=out * BY_NAME[FIXED].row_bytes(columns),
        )
        for name, role, layer, out, columns in rows
    ]
    return ModelSpec(
        architecture="qwen2",
        n_layers=shape.n_layers,
        hidden_size=hidden,
        n_heads=shape.n_heads,
        n_kv_heads=shape.n_kv_heads,
        head_dim=hidden // shape.n_heads,
        ffn_size=shape.ffn_size,
        vocab_size=shape.vocab_size,
        context_length=32768,
        tied_embeddings=False,
        tensors=tuple(tensors),
    )


def _compare_with_naive(time_limit_s: float) -> None:
    limit = f"limit {time_limit_s:g} s"
    print(f"| Qwen2 7B, 4 GB | ours: CPU s, gap | naive: CPU s ({limit}), gap | binaries | ours / naive ms |")
    print("|---|---|---|---|---|")
    for formats in ("fixed", "joint"):
        problem = problem_of(Case(SHAPES[0], formats, 1, 4))
        began = time.process_time()
        found = solve(problem)
        ours_s = time.process_time() - began
        assert isinstance(found, Solution)
        began = time.process_time()
        seconds, gap, n_binaries = naive(problem, time_limit_s)
        naive_s = time.process_time() - began
        print(
            f"| {formats} | {ours_s:.2f}, {found.gap:.1e} | {naive_s:.2f}, {gap:.1e} | {n_binaries} "
            f"| {1e3 * found.cost.seconds:.3f} / {1e3 * seconds:.3f} |",
            flush=True,
        )


def naive(problem: PlacementProblem, time_limit_s: float) -> tuple[float, float, int]:
    """Seconds, gap and binaries of the textbook form for one GPU: a binary per choice, a binary per change of device.

    The order of ranges is asked for as well: attention never goes back from the GPU to RAM.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    units: list[list[Choice]] = []
    for n in range(problem.n_layers):
        units += [list(problem.class_of[n].of(unit)) for unit in LAYER_UNITS]
    units.append(list(problem.head))
    choices = [(u, choice) for u, offered in enumerate(units) for choice in offered]
    n_choices, n_units = len(choices), len(units)
    entries: list[tuple[int, int, float]] = []
    low: list[float] = []
    high: list[float] = []

    def row(terms: list[tuple[int, float]], least: float, most: float) -> None:
        entries.extend((len(low), column, factor) for column, factor in terms)
        low.append(least)
        high.append(most)

    def on_gpu(u: int, sign: float) -> list[tuple[int, float]]:
        return [(i, sign) for i, (owner, choice) in enumerate(choices) if owner == u and choice.device != RAM]

    for u in range(n_units):
        row([(i, 1.0) for i, (owner, _) in enumerate(choices) if owner == u], 1, 1)
        for sign in (1.0, -1.0) if u else ():
            row([(n_choices + u, -1.0), *on_gpu(u, sign), *on_gpu(u - 1, -sign)], -np.inf, 0)
    row([(n_choices, -1.0), *on_gpu(0, 1.0)], -np.inf, 0)
    for n in range(1, problem.n_layers):
        row([*on_gpu(3 * n, 1.0), *on_gpu(3 * n - 3, -1.0)], 0, np.inf)
    for limit in problem.devices:
        taken = [(i, choice.n_bytes / 1e9) for i, (_, choice) in enumerate(choices) if choice.device == limit.device]
        row(taken, -np.inf, limit.room_bytes / 1e9)
    if problem.error_budget is not None:
        row([(i, choice.error) for i, (_, choice) in enumerate(choices)], -np.inf, problem.error_budget)
    link_s = max(problem.crossing_s.values())
    cost = np.array([choice.seconds for _, choice in choices] + [link_s] * n_units) * 1e3
    rows, columns, factors = zip(*entries, strict=True)
    with discarded_output():
        result = milp(
            cost,
            integrality=np.ones(len(cost)),
            bounds=Bounds(0, 1),
            constraints=LinearConstraint(csr_array((factors, (rows, columns)), shape=(len(low), len(cost))), low, high),
            options={"mip_rel_gap": 1e-4, "time_limit": time_limit_s},
        )
    back_s = link_s * sum(result.x[i] for i, _ in on_gpu(n_units - 1, 1.0)) if result.x is not None else 0.0
    seconds = result.fun / 1e3 + back_s if result.x is not None else math.nan
    return seconds, float(result.mip_gap if result.mip_gap is not None else math.nan), len(cost)


if __name__ == "__main__":
    main()
