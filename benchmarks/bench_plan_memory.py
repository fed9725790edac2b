"""Memory: what a plan says before anything is loaded against what the loaded engine takes, and the 7B headline.

    python benchmarks/bench_plan_memory.py [--only TEXT] [--json FILE]

Each configuration is projected from the file's header, then served by a real engine process: every slot reads a prompt
that fills its context (at most 512 tokens where the model is larger than 20 MB) and writes an answer, and a text is
embedded, so that hardly a page is promised and untouched; the KV cache is resident from the start, because the engine
clears it. Then the engine is asked for its buffers by device, and the system for the process's resident memory.
"Devices" are main memory and llama.cpp's RPC server on loopback (tests/rpc_device.py; benchmarks/peers/build.py --only
rpc), which stands in for a GPU. Models are made of random weights in a temporary folder (at most 1.1 GB at a time).
Takes some minutes on 2 cores; nothing is timed, so other work on the machine does not matter.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from rpc_device import running_device

from edgemed.demo import demo_model_path
from edgemed.engines.base import DoneEvent, EngineConfig, ErrorEvent, Event, GenerationRequest, TensorPlace
from edgemed.engines.memory_breakdown import RAM, Sizes
from edgemed.engines.supervisor import EngineProcess
from edgemed.hardware.synthetic_model import MIXES, SyntheticShape, write_header_only, write_synthetic
from edgemed.models.gguf import check_gguf, spec_from_gguf
from edgemed.plan.formula import sizes_by_place
from edgemed.plan.memory import Estimate, estimate_memory
from edgemed.plan.readback import Difference, MemoryReadback, compare_memory

DEVICE = "RPC0"
_LONGEST_PROMPT = 512
_SMALL_BYTES = 20_000_000
SHAPES = {
    "6M": SyntheticShape(6, 256, 768, 4, 2, 64, 5120, tied=True),
    "0.1B": SyntheticShape(12, 768, 2048, 12, 4, 64, 32000, tied=True),
    "0.3B": SyntheticShape(16, 1024, 3072, 16, 8, 64, 64000, tied=False, architecture="llama"),
    "0.4B": SyntheticShape(24, 1024, 4096, 16, 4, 64, 65536, tied=True),
    "0.5B": SyntheticShape(24, 896, 4864, 14, 2, 64, 151936, tied=True),
    "1.5B": SyntheticShape(28, 1536, 8960, 12, 2, 128, 151936, tied=True),
}
SEVEN = SyntheticShape(28, 3584, 18944, 28, 4, 128, 152064, tied=False)
"""DeepSeek-R1-Distill-Qwen-7B."""
FFN_TO_RAM = (TensorPlace(pattern=r"blk\.[0-7]\.ffn_(gate|up|down)", device="CPU"),)
DOWN_TO_RAM = (TensorPlace(pattern=r"ffn_down", device="CPU"),)
FFN_TO_DEVICE = (TensorPlace(pattern=r"blk\.[0-5]\.ffn_", device=DEVICE),)
HEAD_TO_RAM = (TensorPlace(pattern=r"^output|^token_embd", device="CPU"),)


@dataclass(frozen=True)
class Case:
    """One configuration of one model."""

    shape: str
    format: str
    settings: dict[str, Any] = field(default_factory=dict)

    def name(self) -> str:
        """In short, for the table."""
        return f"{self.shape} {self.format}"

    def words(self) -> str:
        """What is set, beside the defaults."""
        shown = {
            "context_length": "context {}",
            "n_slots": "{} slots",
            "kv_type": "KV {}",
            "n_ubatch": "ubatch {}",
            "n_gpu_layers": "{} layers on the device",
        }
        words = [shown[key].format(value) for key, value in self.settings.items() if key in shown]
        words += ["mapped"] if self.settings.get("use_mmap") else []
        return ", ".join(
            [*words, *(f"{one.pattern} on {one.device}" for one in self.settings.get("tensor_places", ()))]
        )


def _case(shape: str, kind: str, context: int, **settings: Any) -> Case:
    return Case(shape, kind, {"context_length": context, **settings})


CASES = (
    _case("demo", "q8_0", 8192),
    _case("6M", "q8_0", 4096, n_slots=4, kv_type="q8_0", n_ubatch=512),
    _case("demo", "q8_0", 2048, n_gpu_layers=7, n_slots=2),
    _case("0.1B", "f16", 4096, kv_type="q8_0"),
    _case("0.1B", "f16", 512, use_mmap=True, n_slots=2, n_ubatch=32),
    _case("0.1B", "f16", 2048, n_gpu_layers=6, kv_type="q4_0"),
    _case("0.1B", "f16", 1024, n_gpu_layers=13, n_ubatch=512),
    _case("0.1B", "q8_0", 8192, n_ubatch=512),
    _case("0.1B", "q8_0", 1024, n_slots=4, n_ubatch=256, kv_type="q4_0"),
    _case("0.1B", "q8_0", 1024, n_gpu_layers=13, n_slots=4, n_ubatch=32),
    _case("0.3B", "nf4-int8", 1024, use_mmap=True),
    _case("0.3B", "nf4-int8", 2048, kv_type="q4_0", n_slots=2),
    _case("0.3B", "nf4-int8", 1024, n_gpu_layers=17, tensor_places=FFN_TO_RAM),
    _case("0.3B", "nf4-int8", 1024, n_gpu_layers=9, use_mmap=True, n_ubatch=64),
    _case("0.3B", "nf4-int8", 1024, n_gpu_layers=17, tensor_places=HEAD_TO_RAM, kv_type="q8_0"),
    _case("0.4B", "q4_k", 1024, n_slots=3, n_ubatch=256),
    _case("0.4B", "q4_k", 1024, use_mmap=True, kv_type="q8_0"),
    _case("0.4B", "q4_k", 1024, n_gpu_layers=12),
    _case("0.4B", "q4_k", 1024, n_gpu_layers=25, tensor_places=DOWN_TO_RAM),
    _case("0.4B", "q6_k", 2048, kv_type="q8_0"),
    _case("0.4B", "q6_k", 1024, n_gpu_layers=25, use_mmap=True),
    _case("0.5B", "iq4_nl", 1024, n_ubatch=512),
    _case("0.5B", "iq4_nl", 1024, n_gpu_layers=1, kv_type="q8_0"),
    _case("0.5B", "iq4_nl", 512, n_gpu_layers=0, tensor_places=FFN_TO_DEVICE, devices=(DEVICE,)),
    _case("0.5B", "q8_0", 1024, n_slots=2, kv_type="q8_0"),
    _case("1.5B", "nf4-int8", 512),
    _case("1.5B", "nf4-int8", 512, n_gpu_layers=20, kv_type="q8_0"),
)


@dataclass(frozen=True)
class Outcome:
    """What one configuration needed."""

    case: Case
    estimate: Estimate
    found: MemoryReadback
    formula_percent: float
    """The formula's largest difference from the projection of a place."""


def main() -> None:
    """The command line of this script."""
    parser = argparse.ArgumentParser(description="Compare predicted with real memory.")
    parser.add_argument("--only", default="", help="only configurations whose name or settings hold this text")
    parser.add_argument("--json", type=Path, help="write every figure to this file as well")
    asked = parser.parse_args()
    cases = [case for case in CASES if asked.only in f"{case.name()}, {case.words()}"]
    with tempfile.TemporaryDirectory(prefix="edgemed-memory-") as folder, running_device():
        outcomes = list(_run_all(Path(folder), cases))
        _show(outcomes)
        _headline(Path(folder))
    if asked.json:
        asked.json.write_text(json.dumps([_row(one) for one in outcomes], indent=1))


def _run_all(folder: Path, cases: list[Case]) -> Iterator[Outcome]:
    done = 0
    for name in dict.fromkeys(case.name() for case in cases):
        same = [case for case in cases if case.name() == name]
        with _model(folder, same[0]) as path:
            spec = spec_from_gguf(check_gguf(path))
            configs = [_config(path, case) for case in same]
            for case, estimate in zip(same, estimate_memory(spec, configs), strict=True):
                found = _load(estimate)
                done += 1
                worst, rss = found.worst_percent(), found.resident
                seen = f"devices {worst:.3f} %, RSS {rss.difference_percent if rss else 0:+.1f} %"
                print(f"{done}/{len(cases)} {name}, {case.words()}: {seen}", file=sys.stderr)
                sys.stderr.flush()
                yield Outcome(case, estimate, found, _formula_percent(spec, estimate))


@contextmanager
def _model(folder: Path, case: Case) -> Iterator[Path]:
    if case.shape == "demo":
        yield demo_model_path()
        return
    path = folder / f"{case.shape}-{case.format}.gguf"
    yield write_synthetic(path, SHAPES[case.shape], MIXES.get(case.format, case.format))
    path.unlink()


def _config(path: Path, case: Case) -> EngineConfig:
    devices = {"devices": (DEVICE,)} if case.settings.get("n_gpu_layers") else {}
    return EngineConfig(model_path=path, n_threads=1).model_copy(update=devices | case.settings)


def _load(estimate: Estimate) -> MemoryReadback:
    """What a serving process takes after its longest prompts."""
    import psutil

    config = estimate.config
    engine = EngineProcess(config)
    try:
        engine.start()
        _fill(engine, config)
        engine.embed([5] * 32)
        resident = psutil.Process(engine.pid).memory_info().rss
        return compare_memory(estimate.needs, engine.info.memory, resident, embeds=True)
    finally:
        engine.close()


def _fill(engine: EngineProcess, config: EngineConfig) -> None:
    """Let every slot read a prompt that fills its context but for the answer, or many steps of it."""
    left = threading.Semaphore(0)
    faults: list[str] = []

    def on_event(event: Event) -> None:
        if isinstance(event, ErrorEvent):
            faults.append(event.message)
        if isinstance(event, DoneEvent | ErrorEvent):
            left.release()

    n_vocab = engine.info.vocab_size
    # An answer outlasts the reading of all prompts: then all slots are full at the same time.
    answer = min(config.context_length // 4, 16 + config.n_slots * (config.context_length // config.n_ubatch + 1))
    whole = config.model_path.stat().st_size < _SMALL_BYTES
    n_tokens = min(config.context_length - answer, config.context_length if whole else _LONGEST_PROMPT)
    for slot in range(config.n_slots):
        prompt = tuple((300 + 7919 * n + slot) % (n_vocab - 300) for n in range(n_tokens))
        engine.submit(GenerationRequest(id=str(slot), prompt=prompt, max_tokens=answer if whole else 8), on_event)
    for _ in range(config.n_slots):
        left.acquire()
    if faults:
        raise SystemExit(f"The engine failed: {faults[0]}")


def _formula_percent(spec: Any, estimate: Estimate) -> float:
    computed = sizes_by_place(spec, estimate.config)
    places = {need.place for need in estimate.needs}
    worst = 0.0
    for place in places:
        asked = sum(
            need.n_bytes
            for need in estimate.needs
            if need.place == place and need.part in ("kv_cache", "compute", "weights")
        )
        ours = sum(computed.get(place, Sizes()))
        if asked and not (place == RAM and estimate.config.use_mmap):  # a mapping is by formula in both
            worst = max(worst, 100 * abs(ours - asked) / asked)
    return worst


def _show(outcomes: list[Outcome]) -> None:
    print(
        "| model | settings | RAM buffers, MB: predicted / real | device: predicted / real | worst device | formula | "
    )
    print("|---|---|---|---|---|---|---|")
    for one in outcomes:
        by_place = {found.place: found for found in one.found.places}
        rss = one.found.resident
        assert rss is not None
        words = one.case.words().replace("|", "\\|")  # a bar would end the cell
        cells = [one.case.name(), words, _pair(by_place.get(RAM)), _pair(by_place.get(DEVICE))]
        cells += [f"{one.found.worst_percent():.3f} %", f"{one.formula_percent:.2f} %"]
        print(f"| {' | '.join(cells)} | {_pair(rss)}, {rss.difference_percent:+.1f} % |")
    devices = [one.found.worst_percent() for one in outcomes]
    host = [abs(one.found.resident.difference_percent or 0) for one in outcomes if one.found.resident]
    forms = [one.formula_percent for one in outcomes]
    for name, goal, values in (("every device", 0.5, devices), ("host RSS", 5.0, host), ("formula", 0.5, forms)):
        told = f"worst {max(values):.3f} %, median {statistics.median(values):.3f} %"
        print(f"{name}: {told} of {len(values)} configurations (goal {goal} %)")


def _pair(found: Difference | None) -> str:
    return "" if found is None else f"{found.predicted_bytes / 1e6:.2f} / {found.real_bytes / 1e6:.2f}"


def _row(one: Outcome) -> dict[str, Any]:
    return {
        "model": one.case.name(),
        "settings": one.case.words(),
        "predicted": [need.model_dump(mode="json") for need in one.estimate.needs],
        "note": one.estimate.note,
        "found": one.found.model_dump(mode="json"),
        "formula_percent": one.formula_percent,
    }


def _headline(folder: Path) -> None:
    """Engine buffers of the 7B's true shape, context 4096: the mix against 16 bits, from sparse headers."""
    totals = {}
    for name, kv_type in (("nf4-int8", "q8_0"), ("f16", "f16")):
        path = write_header_only(folder / f"7b-{name}.gguf", SEVEN, MIXES.get(name, name))
        config = EngineConfig(model_path=path, context_length=4096, kv_type=kv_type, n_ubatch=128)
        (found,) = estimate_memory(spec_from_gguf(check_gguf(path)), [config])
        parts = {need.part: need.n_bytes for need in found.needs}
        totals[name] = parts["weights"] + parts["kv_cache"] + parts["compute"] + parts["logits"]
        shown = ", ".join(f"{part} {n_bytes / 1e9:.3f} GB" for part, n_bytes in parts.items())
        print(
            f"7B {name}, context 4096, KV {kv_type}, ubatch 128: engine buffers {totals[name] / 1e9:.3f} GB ({shown})"
        )
    less = 100 * (1 - totals["nf4-int8"] / totals["f16"])
    print(f"7B: {less:.1f} % below 16 bits (goal 64.7 %), {totals['nf4-int8'] / 1e9:.3f} GB (goal 5.05 GB)")


if __name__ == "__main__":
    main()
