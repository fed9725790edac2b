"""The method paper's resource table beside ours: a 7B in the nf4-int8 mix against its 16-bit form, on the same cores.

    python benchmarks/bench_headline.py [--threads 2] [--repetitions 3] [--layers 28] [--folder DIR]

DeepSeek-R1-Distill-Qwen-7B's true shape with made-up weights, written whole (16 bits: 15 GB of disk, and as much memory
is needed), context 4096, KV cache q8_0 (f16 for the 16-bit form), chunks of 128 tokens, flash attention. Memory is
asked of the loaded engine; the process stands apart. Speed: a prompt of 64 tokens, then 8 tokens of answer.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgemed.engines.base import EngineConfig, KvType
from edgemed.engines.memory_breakdown import RAM
from edgemed.engines.stopwatch import Measurement, Stopwatch
from edgemed.hardware.synthetic_model import MIXES, Formats, write_synthetic
from edgemed.plan.paper_model import SHAPES

FORMS: dict[str, tuple[Formats, KvType]] = {"f16": ("f16", "f16"), "nf4-int8": (MIXES["nf4-int8"], "q8_0")}


def main() -> None:
    """Measure both forms, one after the other; one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--folder", type=Path, help="where the files are written (default: the temporary folder)")
    asked = parser.parse_args()
    found: dict[str, Any] = {}
    for name in FORMS:
        print(f"{name}: writing, loading, timing", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
            found[name] = measure(Path(folder), name, asked.layers, asked.threads, asked.repetitions)
        print(json.dumps(found[name]), file=sys.stderr, flush=True)
    full, mix = found["f16"], found["nf4-int8"]
    found["buffers below 16 bits, percent"] = round(100 * (1 - mix["buffers_gb"] / full["buffers_gb"]), 1)
    found["decode ratio to f16"] = round(full["step_s"][0] / mix["step_s"][0], 2)
    found["prompt ratio to f16"] = round(full["prompt_s"][0] / mix["prompt_s"][0], 2)
    print(json.dumps(found, indent=1))


def measure(folder: Path, name: str, n_layers: int, threads: int, repetitions: int) -> dict[str, Any]:
    """Memory and times of one form."""
    formats, kv_type = FORMS[name]
    shape = replace(SHAPES["deepseek-r1-distill-qwen-7b"], n_layers=n_layers)
    path = write_synthetic(folder / f"7b-{name}.gguf", shape, formats)
    config = EngineConfig(model_path=path, context_length=4096, n_threads=threads, kv_type=kv_type, n_ubatch=128)
    with Stopwatch(config) as watch:
        buffers = watch.loaded.memory[RAM]
        watch.measure(Measurement(prompt_tokens=4, answer_tokens=1, repetitions=1))
        timed = watch.measure(
            Measurement(prompt_tokens=64, answer_tokens=8, repetitions=repetitions, at_most_s=200), timeout_s=600
        )
        resident = watch.resident_bytes()
    return {
        "weights_gb": round(buffers[0] / 1e9, 3),
        "buffers_gb": round(sum(buffers) / 1e9, 3),
        "process_gb": round((resident - sum(buffers)) / 1e9, 3),
        "step_s": _spread(timed.step_s),
        "prompt_s": _spread(timed.prompt_s),
    }


def _spread(values: tuple[float, ...]) -> tuple[float, float, float]:
    ordered = sorted(values)
    return (round(ordered[len(ordered) // 2], 3), round(ordered[0], 3), round(ordered[-1], 3))


if __name__ == "__main__":
    main()
