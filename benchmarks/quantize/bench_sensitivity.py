"""What bit allocation rests on: does sensitivity add up, does the cheap estimate agree, does the allocation win?

    python benchmarks/quantize/bench_sensitivity.py OUTPUT [--checkpoint DIR] [--texts FILE --others FILE]
        [--tokens 2000] [--seed 11] [--threads 1]

OUTPUT is a folder for the sensitivity files; a run that was killed goes on where it ended. Weights are rounded to
nearest, as llama.cpp does. Tables, in nats per token of text drawn with another seed (or of OTHERS) unless said:

1. times, and the rank correlation of the second-order estimate, in memory and streamed, with the measured divergence;
2. additivity: the sum of the divergences of single tensors beside that of the whole assignment, same text;
3. allocation against llama.cpp's q4_k_m at its size: by measured costs, by the estimate, and by either multiplied by
   the layer's attention to medical terms.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from edgemed.core.progress import SilentProgress
from edgemed.core.tensor_types import BY_NAME
from edgemed.demo import demo_checkpoint_path
from edgemed.engines.rounding import round_rows
from edgemed.formats.blocks import dequantize
from edgemed.models.checkpoint import layer_of, open_checkpoint, role_of
from edgemed.quantize.allocation import Option, allocate
from edgemed.quantize.calibration_texts import calibration_set
from edgemed.quantize.layer_replay import LayerReplay
from edgemed.quantize.second_order import estimated_sensitivity, input_moments, output_gradients
from edgemed.quantize.sensitivity import (
    Sensitivity,
    SensitivityInputs,
    checkpoint_digest,
    measured_sensitivity,
    write_sensitivity,
)
from edgemed.quantize.streamed_sensitivity import streamed_sensitivity
from edgemed.quantize.term_attention import attention_to_terms, weighed_by_attention

FORMATS = ("q2_k", "q3_k", "q4_k", "iq4_nl", "q5_k", "q6_k", "q8_0")
BITS = (3.0, 3.5, 4.5, 5.5)


def q4_k_m(names: list[str], n_layers: int) -> dict[str, str]:
    """llama.cpp's mix: q6_k for the head, a tied embedding, and v and down in the first, last and every third layer."""

    def more(layer: int) -> bool:
        eighth = n_layers // 8
        return layer < eighth or layer >= 7 * n_layers // 8 or (layer - eighth) % 3 == 2

    tied = not any(role_of(name) == "head" for name in names)
    result = {}
    for name in names:
        role, layer = role_of(name), layer_of(name)
        high = role == "head" or (role == "embedding" and tied)
        high = high or (role in ("attention_v", "ffn_down") and layer is not None and more(layer))
        result[name] = "q6_k" if high else "q4_k"
    return result


class Bench:
    """The model, its rounded weights, and the texts."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        folder, tokens, seed = arguments.checkpoint, arguments.tokens, arguments.seed
        self.checkpoint = open_checkpoint(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
        parameters = dict(self.model.named_parameters())
        self.weights = {name: p.detach().numpy().copy() for name, p in parameters.items() if p.ndim == 2}
        self.names = sorted(self.weights)
        self.texts = calibration_set(folder, arguments.texts, tokens=tokens, least=1, seed=seed)
        self.others = calibration_set(folder, arguments.others, tokens=tokens, least=1, seed=seed + 1000)
        self.formats = dict.fromkeys(self.names, FORMATS)

    @cache  # noqa: B019
    def rounded(self, name: str, kind: str) -> np.ndarray:
        """To nearest."""
        return dequantize(BY_NAME[kind], round_rows(self.weights[name], BY_NAME[kind], None, name))

    @staticmethod
    def nearest(rows: np.ndarray, kind: str, name: str) -> np.ndarray:
        """Some rows, to nearest."""
        return dequantize(BY_NAME[kind], round_rows(rows, BY_NAME[kind], None, name))

    def n_bytes(self, name: str, kind: str) -> int:
        rows, columns = self.weights[name].shape
        return rows * BY_NAME[kind].row_bytes(columns)

    def size(self, formats: dict[str, str]) -> int:
        return sum(self.n_bytes(name, kind) for name, kind in formats.items())

    def changed(self, formats: dict[str, str]) -> dict[str, np.ndarray]:
        return {name: self.rounded(name, kind) for name, kind in formats.items()}

    def inputs(self, measure: Any) -> SensitivityInputs:
        digest = checkpoint_digest(self.checkpoint)
        return SensitivityInputs(checkpoint=digest, texts=self.texts.digest, rounding="nearest", measure=measure)


class Timed:
    """Wall and CPU seconds of named steps."""

    def __init__(self) -> None:
        self.seconds: dict[str, tuple[float, float]] = {}

    def __call__(self, name: str, work: Callable[[], Any]) -> Any:
        wall, busy = time.monotonic(), time.process_time()
        result = work()
        self.seconds[name] = (time.monotonic() - wall, time.process_time() - busy)
        print(f"  {name}: {self.seconds[name][0]:.1f} s wall, {self.seconds[name][1]:.1f} s CPU", flush=True)
        return result


def correlations(measured: Sensitivity, estimate: Sensitivity) -> dict[str, Any]:
    """Spearman over all pairs and within each format, and the estimate over the measured figure."""
    from scipy.stats import spearmanr

    def of(kinds: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        pairs = [
            (measured.cost(row.tensor, cost.format), cost.kl)
            for row in estimate.tensors
            for cost in row.costs
            if cost.format in kinds
        ]
        a, b = np.array(pairs).T
        return a, b

    a, b = of(FORMATS)
    return {
        "all": float(spearmanr(a, b).statistic),
        **{kind: float(spearmanr(*of((kind,))).statistic) for kind in FORMATS},
        "ratio_quartiles": [float(value) for value in np.quantile(b / a, (0.25, 0.5, 0.75))],
    }


def additivity(bench: Bench, measured: Sensitivity, replay: LayerReplay) -> list[dict[str, Any]]:
    """Sum of single divergences beside the whole, on the text they were measured on."""
    options = measured.options(bench.n_bytes)
    n_weights = sum(values.size for values in bench.weights.values())
    rows = []
    for bits in BITS:
        found = allocate(options, int(bits * n_weights / 8))
        whole = replay.divergence(bench.changed(found.formats)).weighted
        rows.append({"bpw": bits, "sum": found.cost, "whole": whole, "formats": found.composition()})
    return rows


def contest(bench: Bench, costs: dict[str, list[Option]], fresh: LayerReplay) -> list[dict[str, Any]]:
    """Every allocation and, at its own size, q4_k_m: divergence on text that no cost has seen."""
    stock = q4_k_m(bench.names, bench.model.config.num_hidden_layers)
    n_weights = sum(values.size for values in bench.weights.values())
    sizes = {f"{bits} bpw": int(bits * n_weights / 8) for bits in BITS} | {"q4_k_m's size": bench.size(stock)}
    rows = []
    for size, budget in sizes.items():
        plans = {name: allocate(options, budget).formats for name, options in costs.items()}
        if size == "q4_k_m's size":
            plans["q4_k_m"] = stock
        for name, formats in plans.items():
            lost = fresh.divergence(bench.changed(formats))
            rows.append(
                {"size": size, "plan": name, "bytes": bench.size(formats), "kl": lost.weighted, "plain": lost.plain}
            )
            print(f"  {size:14} {name:28} {rows[-1]['bytes']:9} B  {lost.weighted:.5f}  {lost.plain:.5f}", flush=True)
    return rows


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything, in order."""
    timed = Timed()
    bench = Bench(arguments)
    print(f"{len(bench.names)} tensors, {bench.texts.n_tokens} tokens, {bench.others.n_tokens} others", flush=True)
    timed("rounding", lambda: [bench.rounded(name, kind) for name in bench.names for kind in FORMATS])
    output = arguments.output / f"sensitivity-{arguments.seed}.json"
    texts = bench.texts.texts
    measured = timed(
        "measured",
        lambda: measured_sensitivity(
            bench.model, texts, bench.formats, bench.rounded, bench.inputs("kl"), output, SilentProgress()
        ),
    )
    attention = timed("attention", lambda: attention_to_terms(bench.model, texts))
    write_sensitivity(output, measured.model_copy(update={"attention": attention}))
    gradients = timed("gradients", lambda: output_gradients(bench.model, texts))
    moments = timed("moments", lambda: input_moments(bench.model, texts))
    estimate = timed(
        "estimate",
        lambda: estimated_sensitivity(
            bench.weights.__getitem__,
            moments.__getitem__,
            gradients,
            bench.formats,
            bench.rounded,
            bench.inputs("second_order"),
            measured.n_tokens,
        ),
    )
    streamed = timed(
        "streamed",
        lambda: streamed_sensitivity(
            bench.checkpoint, texts, bench.formats, bench.nearest, bench.inputs("second_order"), SilentProgress()
        ),
    )
    layers = {name: layer_of(name) for name in bench.names}
    found = {"measured": measured, "estimated": estimate, "streamed": streamed}
    costs = {name: sensitivity.options(bench.n_bytes) for name, sensitivity in found.items()}
    for name in ("measured", "estimated"):
        costs[f"{name} x attention"] = weighed_by_attention(costs[name], attention, layers)
    timed("allocation", lambda: allocate(costs["measured"], bench.size(dict.fromkeys(bench.names, "q4_k"))))
    agree = {name: correlations(measured, found[name]) for name in ("estimated", "streamed")}
    print(f"  rank correlation: {agree}", flush=True)
    parts = additivity(bench, measured, LayerReplay(bench.model, texts))
    for part in parts:
        print(f"  {part}", flush=True)
    print(f"  attention: {[(layer.layer, round(layer.ratio, 3)) for layer in attention]}", flush=True)
    return {
        "tokens": bench.texts.n_tokens,
        "seconds": timed.seconds,
        "correlation": agree,
        "additivity": parts,
        "attention": [layer.model_dump() for layer in attention],
        "contest": contest(bench, costs, LayerReplay(bench.model, bench.others.texts)),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    """The command line of this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--checkpoint", type=Path, default=demo_checkpoint_path())
    parser.add_argument("--texts", type=Path, help="calibration file; without it, the table of facts")
    parser.add_argument("--others", type=Path, help="text for the comparison, disjoint from --texts")
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(arguments.threads)
    arguments.output.mkdir(parents=True, exist_ok=True)
    results = run(arguments)
    (arguments.output / f"results-{arguments.seed}.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
