"""Is the planned way to run a model ever slower than what a user would have without edgemed?

    python benchmarks/bench_no_regret.py [--cells N] [--rounds 3] [--short-of-both] [--quick]

The second device is llama.cpp's RPC server on loopback with one thread (no GPU is needed): a stand-in whose traffic and
memory are real. A cell is a model, a limit of the device's memory, a limit of main memory and a prompt's length. In
each, `edgemed plan` chooses by its trial; then, apart from the timings that chose, the winner is timed again in turns
with: the CPU alone; the best `-ngl` of those that fit (each timed once, the fastest kept); what llama-fit-params says
with its margin set to the device's reported free memory - the limit + 1 GiB. One that breaks a limit is timed all
the same and marked. "Regret" is winner / fastest baseline that keeps the limits: above 1 the plan lost.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from peers.build import peer
from rpc_device import running_device

from edgemed.core.units import GIB, MIB, format_bytes
from edgemed.engines.base import EngineConfig
from edgemed.engines.memory_breakdown import RAM
from edgemed.engines.stopwatch import Measurement, Stopwatch, StopwatchFailed
from edgemed.hardware.profile import measure_profile
from edgemed.hardware.record import HardwareProfile, value_of
from edgemed.hardware.synthetic_model import MIXES, Formats, SyntheticShape, write_synthetic
from edgemed.models.gguf import check_gguf, spec_from_gguf
from edgemed.plan.make import make_plan
from edgemed.plan.memory import estimate_memory
from edgemed.plan.record import Plan, Workload
from edgemed.plan.situation import Case, PlanRequest, offers

CONTEXT = 1024
SHAPES: dict[str, tuple[SyntheticShape, Formats]] = {
    "0.2B q8_0": (SyntheticShape(12, 896, 4864, 14, 2, 64, 32768, tied=True), "q8_0"),
    "0.4B nf4-int8": (SyntheticShape(8, 1536, 8960, 12, 2, 128, 32768, tied=False), MIXES["nf4-int8"]),
    "0.3B f16": (SyntheticShape(16, 896, 4864, 14, 2, 64, 32768, tied=True), "f16"),
    "1.3B q8_0": (SyntheticShape(24, 1536, 8960, 12, 2, 128, 32768, tied=False), "q8_0"),
}


@dataclass(frozen=True)
class Cell:
    """Limits as shares of the model's weights; None is no limit."""

    model: str
    vram_share: float
    ram_share: float | None
    prompt_tokens: int
    extra_vram: int = 0
    """On top, so that llama.cpp's fit has its GiB to leave free."""


CELLS = (
    *(Cell("0.2B q8_0", 0.7, 0.8, prompt) for prompt in (32, 256)),
    *(Cell("0.2B q8_0", 0.4, None, prompt) for prompt in (32, 256)),
    *(Cell("0.4B nf4-int8", 0.7, 0.8, prompt) for prompt in (32, 256)),
    *(Cell("0.4B nf4-int8", 1.5, None, prompt) for prompt in (32, 256)),
    *(Cell("0.3B f16", 0.8, 0.7, prompt) for prompt in (32, 256)),
    *(Cell("1.3B q8_0", 0.7, 0.7, prompt) for prompt in (32, 128)),
    Cell("1.3B q8_0", 0.5, None, 32, extra_vram=GIB),
)


def main() -> None:
    """Measure cell by cell; a table on stdout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=len(CELLS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--answer-tokens", type=int, default=96)
    parser.add_argument("--short-of-both", action="store_true", help="the cells that neither device can hold alone")
    parser.add_argument("--quick", action="store_true", help="the smallest model's cells alone")
    asked = parser.parse_args()
    cells = [cell for cell in CELLS if not asked.quick or cell.model == "0.2B q8_0"]
    cells = [cell for cell in cells if not asked.short_of_both or cell.ram_share is not None][: asked.cells]
    rows = []
    with tempfile.TemporaryDirectory() as folder, running_device(threads=1):
        os.environ["EDGEMED_HOME"] = folder
        profile = measure_profile(quick=True)
        for number, cell in enumerate(cells, 1):
            began = time.monotonic()
            row = measure_cell(Path(folder), cell, profile, asked.rounds, asked.answer_tokens)
            rows.append(row)
            took = time.monotonic() - began
            print(f"{number}/{len(cells)} {json.dumps(row)} ({took:.0f} s)", file=sys.stderr, flush=True)
    print_table(rows)


def measure_cell(folder: Path, cell: Cell, profile: HardwareProfile, rounds: int, answer_tokens: int) -> dict[str, Any]:
    """The plan's winner and the baselines, timed in turns."""
    model = _model(folder, cell.model)
    workload = Workload(prompt_tokens=cell.prompt_tokens, answer_tokens=answer_tokens)
    request = _request(model, cell, workload)
    plan = make_plan(model, profile, request, trial=True)
    contenders = {"plan": plan.engine_config, **dict(_baselines(model, profile, request, plan))}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds):
        names = list(contenders)[:: 1 if turn % 2 == 0 else -1]
        for name in names:
            times[name].append(seconds(contenders[name], workload))
    case = _case(model, profile, request)
    legal = {name: name == "plan" or _keeps_limits(case, config) for name, config in contenders.items()}
    medians = {name: statistics.median(values) for name, values in times.items()}
    rivals = [value for name, value in medians.items() if name != "plan" and legal[name]]
    chosen = next(candidate.name for candidate in plan.candidates if candidate.chosen)
    return {
        "model": cell.model,
        "vram": format_bytes(request.max_vram_bytes or 0),
        "ram": format_bytes(request.max_ram_bytes) if request.max_ram_bytes else "free",
        "neither_alone": cell.ram_share is not None and cell.vram_share < 1 and not cell.extra_vram,
        "prompt": cell.prompt_tokens,
        "chosen": chosen,
        "seconds": {
            name: _spread(values) + ("" if legal[name] else " beyond limits") for name, values in times.items()
        },
        "regret": round(medians["plan"] / min(rivals), 3) if rivals else None,
        "noise": round(max(max(values) / min(values) - 1 for values in times.values()), 3),
        "milp_rank": _rank_of_solver(plan),
    }


def _request(model: Path, cell: Cell, workload: Workload) -> PlanRequest:
    """The cell's limits: what a device needs for the whole model, its weights cut to the share."""
    spec = spec_from_gguf(check_gguf(model))
    plain = EngineConfig(model_path=model, context_length=CONTEXT)
    alone, whole = estimate_memory(
        spec, [plain, plain.model_copy(update={"n_gpu_layers": spec.n_layers + 1})], gpu_place="RPC0"
    )
    missing = (1 - cell.vram_share) * spec.weight_bytes
    vram = whole.bytes_in("RPC0") - missing + cell.extra_vram
    ram = None if cell.ram_share is None else alone.bytes_in(RAM) - (1 - cell.ram_share) * spec.weight_bytes
    return PlanRequest(
        context_length=CONTEXT,
        n_slots=1,
        max_vram_bytes=round(vram),
        max_ram_bytes=None if ram is None else round(ram),
        workload=workload,
    )


def _baselines(
    model: Path, profile: HardwareProfile, request: PlanRequest, plan: Plan
) -> Iterator[tuple[str, EngineConfig]]:
    plain = EngineConfig(
        model_path=model,
        context_length=CONTEXT,
        n_threads=int(value_of(profile.cpu.physical_cores) or 1),
        n_ubatch=512,
    )
    case = _case(model, profile, request)
    threads = {plain.n_threads, plan.engine_config.n_threads}
    alone = [plain.model_copy(update={"n_threads": count}) for count in threads]
    yield "CPU alone", min(alone, key=lambda config: seconds(config, request.workload))
    layers = case.spec.n_layers
    every = [plain.model_copy(update={"n_gpu_layers": count}) for count in range(1, layers + 2)]
    estimates = estimate_memory(case.spec, every, case.gpu)
    counts = [found.config.n_gpu_layers for found in estimates if case.fits(found)]
    few = sorted({counts[0], counts[len(counts) // 2], counts[-1]}) if counts else []
    tried = [
        plain.model_copy(update={"n_gpu_layers": count, "n_threads": thread}) for count in few for thread in threads
    ]
    tried = [config for config in tried if _keeps_limits(case, config)]
    if tried:
        yield "best -ngl", min(tried, key=lambda config: seconds(config, request.workload))
    yield "llama-fit-params", plain.model_copy(update={"n_gpu_layers": fit_layers(model, case)})


def fit_layers(model: Path, case: Case) -> int:
    """`-ngl` as llama.cpp's own tool says it."""
    offer = case.offers[case.gpu]
    limit = offer.limit_bytes
    margin = (offer.free_bytes - limit + GIB) // MIB
    command = [str(peer("llama-fit-params")), "-m", str(model), "-c", str(CONTEXT), "-np", "1", "-fitt", str(margin)]
    command += ["--rpc", os.environ["EDGEMED_RPC_DEVICES"]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    words = done.stdout.split()
    count = int(words[words.index("-ngl") + 1]) if "-ngl" in words else -1
    return case.spec.n_layers + 1 if count < 0 else min(count, case.spec.n_layers + 1)


def seconds(config: EngineConfig, workload: Workload) -> float:
    """One question: prompt and answer, loaded afresh; infinite where the engine fails."""
    steps = min(24, workload.answer_tokens)
    try:
        with Stopwatch(config) as watch:
            watch.measure(Measurement(prompt_tokens=16, answer_tokens=2, repetitions=1))
            timed = watch.measure(
                Measurement(prompt_tokens=workload.prompt_tokens, answer_tokens=steps, repetitions=2, at_most_s=8)
            )
    except StopwatchFailed as failed:
        print(f"{config.n_gpu_layers} layers: {failed}", file=sys.stderr)
        return float("inf")
    return min(timed.prompt_s) + workload.answer_tokens * min(timed.step_s)


def _case(model: Path, profile: HardwareProfile, request: PlanRequest) -> Case:
    return Case(model, spec_from_gguf(check_gguf(model)), profile, request, offers(profile, request))


def _keeps_limits(case: Case, config: EngineConfig) -> bool:
    (found,) = estimate_memory(case.spec, [config], case.gpu)
    return case.fits(found)


def _rank_of_solver(plan: Plan) -> int | None:
    """1 where the integer program's choice was the fastest of all that the trial timed; None where it was not there."""
    timed = [candidate for candidate in plan.candidates if candidate.measured_s.available]
    best = sorted(timed, key=lambda found: found.measured_s.low or 0.0)  # type: ignore[union-attr]
    return next((rank for rank, found in enumerate(best, 1) if "integer program" in found.name), None)


def _model(folder: Path, name: str) -> Path:
    path = folder / f"{name.replace(' ', '-')}.gguf"
    if not path.exists():
        for other in folder.glob("*.gguf"):
            other.unlink()
        shape, formats = SHAPES[name]
        write_synthetic(path, shape, formats)
    return path


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def print_table(rows: list[dict[str, Any]]) -> None:
    """For RESULTS.md."""
    names = ("plan", "CPU alone", "best -ngl", "llama-fit-params")
    print("| model | device | RAM | prompt | chosen | " + " | ".join(names) + " | regret | MILP's rank |")
    print("|---" * (len(names) + 7) + "|")
    for row in rows:
        cells = [row["model"], row["vram"], row["ram"], row["prompt"], row["chosen"]]
        cells += [row["seconds"].get(name, "-") for name in names]
        print("| " + " | ".join(str(cell) for cell in [*cells, row["regret"], row["milp_rank"]]) + " |")
    regrets = [row["regret"] for row in rows if row["regret"] is not None]
    print(
        f"\ncells {len(rows)}, neither alone {sum(row['neither_alone'] for row in rows)}; regret: "
        f"median {statistics.median(regrets):.3f}, worst {max(regrets):.3f}"
    )


if __name__ == "__main__":
    main()
