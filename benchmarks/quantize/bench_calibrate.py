"""Calibrated rounding of one decoder layer with a 7B's shapes: wall time, CPU seconds, peak memory.

    python benchmarks/quantize/bench_calibrate.py [--layers 1] [--tokens 23680] [--recipe nf4-int8]

A synthetic bf16 checkpoint of DeepSeek-R1-Distill-Qwen-7B's widths (3584, feed-forward 18944, 28 heads on 4) with few
layers and a vocabulary of 2048; calibrated on random tokens, as many as the widest layer needs. Layers of a model are
alike, so the time of a whole one is its number of layers times this, and the memory that of one layer.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
import bench_export

from edgemed.core.tensor_types import BY_NAME
from edgemed.formats.blocks import has_codes
from edgemed.formats.recipes import bind, find_recipe
from edgemed.models.checkpoint import layer_of, open_checkpoint, spec_from_checkpoint
from edgemed.quantize.calibration_texts import CalibrationSet, CalibrationText
from edgemed.quantize.layerwise import round_layers
from edgemed.quantize.rounding import BlockRounding

WIDTHS = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 2048,
}
_TEXT = 512  # tokens


def main() -> None:
    """The command line of this script."""
    parser = argparse.ArgumentParser(description="Time and memory of calibrated rounding at 7B widths.")
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=23_680)
    parser.add_argument("--recipe", default="nf4-int8")
    arguments = parser.parse_args()
    bench_export.SHAPE.update(WIDTHS | {"num_hidden_layers": arguments.layers})
    bench_export.N_SHARDS = 1
    with tempfile.TemporaryDirectory(prefix="edgemed-calibrate-") as temporary:
        folder = Path(temporary) / "checkpoint"
        bench_export.write_checkpoint(folder)
        print(json.dumps(_measure(folder, Path(temporary) / "work", arguments.recipe, arguments.tokens)))


def _measure(folder: Path, work: Path, recipe: str, n_tokens: int) -> dict[str, float]:
    checkpoint = open_checkpoint(folder)
    spec = spec_from_checkpoint(checkpoint)
    bound = {one.name: BY_NAME[one.type] for one in bind(find_recipe(recipe), spec.tensors, spec.n_layers)}
    matrices = {
        name: BlockRounding(kind)
        for name, kind in bound.items()
        if layer_of(name) is not None and has_codes(kind) and len(checkpoint.tensors[name].shape) == 2
    }
    rng = np.random.default_rng(0)
    texts = tuple(
        CalibrationText(tuple(rng.integers(0, 2048, _TEXT).tolist()), np.ones(_TEXT, np.float32))
        for _ in range(n_tokens // _TEXT)
    )
    peak = _Peak()
    began, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    with peak:
        finished = round_layers(checkpoint, matrices, CalibrationSet(texts, "random", "random"), work)
    now = resource.getrusage(resource.RUSAGE_SELF)
    weights = sum(int(np.prod(checkpoint.tensors[name].shape)) for name in matrices)
    cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    return {
        "weights": weights,
        "wall_s": time.perf_counter() - began,
        "cpu_s": cpu,
        "cpu_s_per_billion": cpu / weights * 1e9,
        "peak_rss_gib": peak.n_bytes / 2**30,
        "compensated": sum(tensor.method == "compensated" for tensor in finished.values()),
        "matrices": len(finished),
    }


class _Peak:
    """The largest resident memory while a block runs, looked at every 50 ms."""

    def __init__(self) -> None:
        self.n_bytes = 0
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._watcher.start()

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._watcher.join()

    def _watch(self) -> None:
        process = psutil.Process()
        while not self._ended.wait(0.05):
            self.n_bytes = max(self.n_bytes, process.memory_info().rss)


if __name__ == "__main__":
    main()
