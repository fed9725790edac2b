"""Predicted against measured speed, on models that the measurement of the machine never saw.

    python benchmarks/bench_speed.py [--small] [--quick] [--json] [--profile FILE] [--models NAME,NAME]

Measures the machine as `edgemed profile` does (or takes the speed of --profile), then writes one synthetic model after
the other, with true shapes from 0.1B to 7B in several mixes of formats, predicts its speed from its header, and times
it: decoding with 64 and with 1024 tokens before, prompts of 64 and 512 tokens. Measured is the median; for the 7B some
GB are written to a temporary folder (--folder says where) and removed. Eight minutes on 2 calm cores; --small takes
what fits in two. Goals: decoding off by 8 % on average and 15 % at most, prompts by 15 % on average. The load average,
and the column "drift" (how much slower one small model decodes beside this case than right after the machine was
measured) tell whether it was calm enough for that.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synthetic import MIXES, SHAPES, Formats, Shape, synthetic_bytes

from edgemed.core.progress import SilentProgress
from edgemed.core.records import Figure, MaybeFigure
from edgemed.engines.base import EngineConfig
from edgemed.engines.stopwatch import Measurement, Stopwatch
from edgemed.hardware.measure import measure_speed
from edgemed.hardware.profile import load_profile
from edgemed.hardware.record import EngineSpeed
from edgemed.hardware.synthetic_model import write_synthetic
from edgemed.models.gguf import check_gguf, spec_from_gguf
from edgemed.plan.speed import predict_speed

DEPTHS, PROMPTS = (64, 1024), (64, 512)
GOALS = {"decode mean": 0.08, "decode worst": 0.15, "prompt mean": 0.15}


@dataclass(frozen=True)
class Case:
    """One model to predict."""

    name: str
    shape: Shape
    formats: Formats
    small: bool
    """Part of --small."""


CASES = (
    Case("0.1B llama q8_0", Shape(12, 768, 2048, 12, 12, 64, 32000, tied=False, architecture="llama"), "q8_0", True),
    Case("0.1B llama q4_k", Shape(12, 768, 2048, 12, 4, 64, 32000, tied=False, architecture="llama"), "q4_k", True),
    Case("0.5B qwen2 nf4-int8", SHAPES["qwen2-0.5b"], MIXES["nf4-int8"], True),
    Case("0.5B qwen2 q8_0", SHAPES["qwen2-0.5b"], "q8_0", True),
    Case("1.1B llama f16", Shape(22, 2048, 5632, 32, 4, 64, 32000, tied=False, architecture="llama"), "f16", False),
    Case("1.1B llama q5_k", Shape(22, 2048, 5632, 32, 4, 64, 32000, tied=False, architecture="llama"), "q5_k", False),
    Case("1.5B qwen2 nf4-int8", SHAPES["qwen2-1.5b"], MIXES["nf4-int8"], True),
    Case("1.5B qwen2 q6_k", SHAPES["qwen2-1.5b"], "q6_k", False),
    Case("3B qwen2 q4_k", Shape(36, 2048, 11008, 16, 2, 128, 151936, tied=True), "q4_k", False),
    Case("7B qwen2 nf4-int8", SHAPES["qwen2-7b"], MIXES["nf4-int8"], False),
)
REFERENCE = Shape(4, 1536, 6144, 12, 2, 128, 512, tied=True)


class _Lines(SilentProgress):
    """Says on stderr what is being done."""

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Measure, predict, time, and print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="the smaller models only")
    parser.add_argument("--quick", action="store_true", help="measure the machine as `edgemed profile --quick` does")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--profile", type=Path, help="take the speed of this saved profile")
    parser.add_argument("--models", help="names of models, separated by commas: those that contain one of them")
    parser.add_argument("--folder", type=Path, help="where models are written (default: the temporary folder)")
    asked = parser.parse_args()
    watcher = _Lines()
    before = os.getloadavg()
    watcher.note(f"load average before: {before[0]:.2f} {before[1]:.2f} {before[2]:.2f}")
    began = time.monotonic()
    watcher.note("measuring the machine ...")
    speed = load_profile(asked.profile).speed if asked.profile else measure_speed(watcher, quick=asked.quick)
    if not isinstance(speed, EngineSpeed):
        raise SystemExit(speed.reason)
    measured_in = time.monotonic() - began
    wanted = [name.strip() for name in asked.models.split(",")] if asked.models else [""]
    cases = [case for case in CASES if (case.small or not asked.small) and any(name in case.name for name in wanted)]
    rows = []
    with tempfile.TemporaryDirectory(prefix="edgemed-bench-speed-", dir=asked.folder) as folder:
        with _reference(Path(folder), speed) as reference:
            first = _pace(reference)
            for number, case in enumerate(cases, 1):
                watcher.note(f"{number}/{len(cases)} {case.name} ({time.monotonic() - began:.0f} s so far) ...")
                early = _pace(reference)
                row = _row(case, speed, Path(folder))
                rows.append(row | {"drift": (early + _pace(reference)) / (2 * first) - 1})
                watcher.note(_line(rows[-1]))
    found: dict[str, Any] = {
        "engine": speed.engine,
        "threads": [speed.n_threads, speed.n_threads_batch],
        "noisy": speed.noise_note,
        "profile_s": round(measured_in, 1),
        "seconds": round(time.monotonic() - began, 1),
        "load_before": before,
        "load_after": os.getloadavg(),
        "errors": _errors(rows),
        "goals": GOALS,
        "models": rows,
    }
    print(json.dumps(found, indent=2) if asked.json else _table(found))


def _reference(folder: Path, speed: EngineSpeed) -> Stopwatch:
    """One small model that stays loaded."""
    path = write_synthetic(folder / "reference.gguf", REFERENCE, "q8_0")
    try:
        return Stopwatch(EngineConfig(model_path=path, context_length=256, n_threads=speed.n_threads))
    finally:
        path.unlink()


def _pace(reference: Stopwatch) -> float:
    """Seconds of one of its steps now."""
    return reference.measure(Measurement(prompt_tokens=1, answer_tokens=8, repetitions=5)).step_median_s()


def _row(case: Case, speed: EngineSpeed, folder: Path) -> dict[str, Any]:
    """Prediction and measurement of one model."""
    path = folder / "model.gguf"
    n_bytes = synthetic_bytes(case.shape, case.formats)
    if shutil.disk_usage(folder).free < 1.2 * n_bytes:
        return {"model": case.name, "skipped": f"{n_bytes / 1e9:.1f} GB are not free in {folder}"}
    try:
        write_synthetic(path, case.shape, case.formats)
        config = EngineConfig(
            model_path=path,
            context_length=DEPTHS[-1] + 128,
            n_threads=speed.n_threads,
            n_threads_batch=speed.n_threads_batch,
        )
        spec = spec_from_gguf(check_gguf(path))
        with Stopwatch(config) as watch:
            path.unlink()  # it is in memory now: the disk may need the room for the next
            decode = {str(depth): _decode(watch, depth) for depth in DEPTHS}
            prompt = {str(tokens): _prompt(watch, tokens) for tokens in PROMPTS}
    finally:
        path.unlink(missing_ok=True)
    for depth, timed in decode.items():
        predicted = predict_speed(spec, config, speed, depth=int(depth), prompt_tokens=PROMPTS[0])
        _compare(timed, predicted.tokens_per_s, predicted.note)
    for tokens, timed in prompt.items():
        _compare(timed, predict_speed(spec, config, speed, depth=DEPTHS[0], prompt_tokens=int(tokens)).ttft_s)
    load = round(os.getloadavg()[0], 2)
    return {"model": case.name, "bytes": n_bytes, "decode": decode, "prompt": prompt, "load": load}


def _decode(watch: Stopwatch, depth: int) -> dict[str, Any]:
    timed = watch.measure(Measurement(prompt_tokens=1, answer_tokens=8, depth=depth - 5, repetitions=5, at_most_s=6.0))
    rates = [1 / seconds for seconds in timed.step_s]
    return {"measured": statistics.median(rates), "low": min(rates), "high": max(rates)}


def _prompt(watch: Stopwatch, n_tokens: int) -> dict[str, Any]:
    timed = watch.measure(Measurement(prompt_tokens=n_tokens, repetitions=3, at_most_s=6.0))
    return {"measured": statistics.median(timed.prompt_s), "low": min(timed.prompt_s), "high": max(timed.prompt_s)}


def _compare(timed: dict[str, Any], predicted: MaybeFigure, note: str = "") -> None:
    if isinstance(predicted, Figure):
        assert predicted.low is not None
        assert predicted.high is not None
        timed["predicted"] = predicted.value
        timed["error"] = predicted.value / timed["measured"] - 1
        timed["inside"] = predicted.low <= timed["measured"] <= predicted.high
    else:
        timed["not_predicted"] = predicted.reason
    if note:
        timed["note"] = note


def _errors(rows: list[dict[str, Any]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for kind in ("decode", "prompt"):
        entries = [entry for row in rows for entry in row.get(kind, {}).values() if "error" in entry]
        errors = [abs(entry["error"]) for entry in entries]
        if errors:
            found[f"{kind} mean"] = statistics.mean(errors)
            found[f"{kind} worst"] = max(errors)
            found[f"{kind} inside the interval"] = statistics.mean(entry["inside"] for entry in entries)
    return found


def _table(found: Mapping[str, Any]) -> str:
    heads = [f"decode at {depth}, tokens/s" for depth in DEPTHS] + [f"prompt of {tokens}, s" for tokens in PROMPTS]
    lines = [f"| model | {' | '.join(heads)} | drift | load |", "|---" * (len(heads) + 3) + "|"]
    lines += [_line(row) for row in found["models"]]
    lines += [f"{name}: {value:.1%}" for name, value in found["errors"].items()]
    before, after = (" ".join(f"{value:.2f}" for value in found[key]) for key in ("load_before", "load_after"))
    lines.append(f"load average before {before}, after {after}; {found['seconds']:.0f} s; {found['engine']}")
    lines.append(f"noisy: {found['noisy']}" if found["noisy"] else "the machine was quiet while it was measured")
    return "\n".join(lines)


def _line(row: Mapping[str, Any]) -> str:
    if "skipped" in row:
        return f"| {row['model']} | {row['skipped']} |"
    cells = [_cell(entry) for kind in ("decode", "prompt") for entry in row[kind].values()]
    return f"| {row['model']} | {' | '.join(cells)} | {row['drift']:+.0%} | {row['load']} |"


def _cell(entry: Mapping[str, Any]) -> str:
    measured = f"{entry['measured']:.3g} ({entry['low']:.3g} to {entry['high']:.3g})"
    if "error" not in entry:
        return f"{measured}, not predicted: {entry['not_predicted']}"
    return f"{measured}, predicted {entry['predicted']:.3g}: {entry['error']:+.1%}"


if __name__ == "__main__":
    main()
