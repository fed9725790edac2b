"""How far quantized models are from their 16-bit parent: llama.cpp's Q4_K_M with its importance matrix, and ours.

    python benchmarks/quantize/bench_kl.py CHECKPOINT --texts facts|medquad [--data DATA] [--seeds 3] [--work DIR]

Every method is calibrated on the same texts, drawn anew for each seed; llama-imatrix gets them as a file. All files are
run by the same engine (float32 KV cache) on texts that share no fact (facts) or no disease (medquad) with those of
calibration. KL(parent || child) is the mean over all predicted tokens; "entity" over tokens of drugs, numbers with
units, negations and contraindications. `auto` may not be larger than llama.cpp's file; sizes are those of the files.
CPU seconds are of this process and its children, user and system. Needs the tools of benchmarks/peers/build.py.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "peers"))
from build import peer
from medquad_model import medquad

from edgemed.core.progress import SilentProgress
from edgemed.demo.questions import Example, dose_examination, statement_examination
from edgemed.demo.table import fact_table
from edgemed.evaluate.divergence import divergence, joined
from edgemed.evaluate.engine_scorer import EngineScorer
from edgemed.evaluate.logits_file import LogitsFile
from edgemed.evaluate.prompts import demo_facts
from edgemed.export.allocate import allocated_formats, estimated_losses
from edgemed.export.compress import AUTO_BASE, FinishedTensors, matrices
from edgemed.export.gguf import export_gguf
from edgemed.export.preflight import prepare
from edgemed.models.tokenizer import open_tokenizer
from edgemed.quantize.calibration_texts import PLAIN, CalibrationSet, TokenWeights, calibration_set
from edgemed.quantize.layerwise import round_layers

CALIBRATION_TOKENS = 16_000
EVALUATION_TOKENS = 8_000
ENTITY_WEIGHT = 3
"""Tokens of at least this weight are entities."""


def main() -> None:
    """The command line of this script."""
    parser = argparse.ArgumentParser(description="KL of quantized models to their parent.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--texts", choices=("facts", "medquad"), required=True)
    parser.add_argument("--data", type=Path, help="folder that holds medquad/")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, help="folder for the files; a temporary one without it")
    parser.add_argument("--methods", default="stock,nearest,compensated,weighted,auto,nf4-int8")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgemed-kl-") as temporary:
        work = arguments.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        results = Bench(arguments.checkpoint, arguments.texts, arguments.data, work).run(
            arguments.methods.split(","), arguments.seeds
        )
    print(json.dumps(results, indent=1))


class Bench:
    """One checkpoint, its parent's predictions on the evaluation texts, and the files made of it."""

    def __init__(self, checkpoint: Path, texts: str, data: Path | None, work: Path) -> None:
        self.checkpoint, self.work = checkpoint, work
        self._written = _texts_of_facts if texts == "facts" else lambda part: _texts_of_medquad(part, data)
        self.parent = work / "parent-f16.gguf"
        export_gguf(checkpoint, self.parent, recipe="f16")
        self.evaluation = self._set("held_out", EVALUATION_TOKENS, TokenWeights(), 0)
        predictions = work / "parent.logits"
        for old in work.glob("parent.logits*"):
            old.unlink()
        with EngineScorer(self.parent, context_length=2048) as scorer, LogitsFile(predictions) as kept:
            for text in self.evaluation.texts:
                kept.put(text.ids, 1, scorer.logits(text.ids, 1))
        self._kept = LogitsFile(predictions)

    def run(self, methods: list[str], n_seeds: int) -> dict[str, object]:
        """KL, entity KL, bytes and CPU seconds of each method, median and spread over the seeds."""
        made: dict[str, list[dict[str, float]]] = {method: [] for method in methods}
        for seed in range(n_seeds):
            for method in methods:
                path = self.work / f"{method}-{seed}.gguf"
                before = _cpu_seconds()
                self._make(method, seed, path)
                spent = _cpu_seconds() - before
                kl, entity = self._divergence(path)
                made[method].append({"kl": kl, "entity_kl": entity, "bytes": path.stat().st_size, "cpu_s": spent})
                print(method, seed, made[method][-1], file=sys.stderr, flush=True)
        return {
            "evaluation_tokens": self.evaluation.n_tokens,
            "methods": {method: _spread(rows, made.get("stock")) for method, rows in made.items()},
        }

    def _make(self, method: str, seed: int, path: Path) -> None:
        path.unlink(missing_ok=True)
        makers: dict[str, Callable[[], object]] = {
            "stock": lambda: self._stock(seed, path),
            "nearest": lambda: export_gguf(self.checkpoint, path, recipe="q4_k_m"),
            "compensated": lambda: self._ours("q4_k_m", PLAIN, seed, path),
            "weighted": lambda: self._ours("q4_k_m", TokenWeights(), seed, path),
            "auto": lambda: self._auto(seed, path, TokenWeights()),
            "auto-plain": lambda: self._auto(seed, path, PLAIN),
            "auto-4.66": lambda: self._auto(seed, path, TokenWeights(), target_bpw=4.66),
            "nf4-int8": lambda: self._ours("nf4-int8", TokenWeights(), seed, path),
        }
        makers[method]()

    def _stock(self, seed: int, path: Path) -> None:
        texts = self._set("calibration", CALIBRATION_TOKENS, PLAIN, seed)
        tokenizer = open_tokenizer(self.checkpoint)
        file = self.work / f"calibration-{seed}.txt"
        words = (tokenizer.decode(list(text.ids), skip_special_tokens=False) for text in texts.texts)
        file.write_text("".join(words), encoding="utf-8")
        matrix = self.work / f"imatrix-{seed}.gguf"
        imatrix = [peer("llama-imatrix"), "-m", self.parent, "-f", file, "-o", matrix, "-c", "512", "--no-ppl"]
        _run([*imatrix, "--parse-special", "-t", "1"])
        _run([peer("llama-quantize"), "--imatrix", matrix, self.parent, path, "Q4_K_M", "1"])

    def _ours(self, recipe: str, weights: TokenWeights, seed: int, path: Path) -> None:
        plan = prepare(self.checkpoint, path, recipe)
        texts = self._set("calibration", CALIBRATION_TOKENS, weights, seed)
        with tempfile.TemporaryDirectory(dir=self.work) as layers:
            finished = round_layers(plan.checkpoint, matrices(plan), texts, Path(layers))
            export_gguf(self.checkpoint, path, recipe=recipe, rounder=FinishedTensors(finished))

    def _auto(self, seed: int, path: Path, weights: TokenWeights, target_bpw: float | None = None) -> None:
        texts = self._set("calibration", CALIBRATION_TOKENS, weights, seed)
        plan = prepare(self.checkpoint, path, AUTO_BASE)
        size = None if target_bpw else str((self.work / f"stock-{seed}.gguf").stat().st_size)
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            kept = Path(folder) / "sensitivity.json"
            losses = estimated_losses(plan, texts, kept, SilentProgress())
            formats = allocated_formats(plan, losses, SilentProgress(), target_size=size, target_bpw=target_bpw)
            plan = prepare(self.checkpoint, path, AUTO_BASE, formats)
            finished = round_layers(plan.checkpoint, matrices(plan), texts, Path(folder) / "layers")
            export_gguf(self.checkpoint, path, recipe=AUTO_BASE, assignment=formats, rounder=FinishedTensors(finished))

    def _divergence(self, path: Path) -> tuple[float, float]:
        parts, entity = [], []
        with EngineScorer(path, context_length=2048) as scorer:
            for text in self.evaluation.texts:
                parent, child = self._kept.logits(text.ids, 1), scorer.logits(text.ids, 1)
                parts.append(divergence(parent, child, text.ids[1:]))
                entity.append(text.weights[1:] >= ENTITY_WEIGHT)
        whole = joined(parts)
        return float(whole.kl.mean()), float(whole.kl[np.concatenate(entity)].mean())

    def _set(self, part: str, tokens: int, weights: TokenWeights, seed: int) -> CalibrationSet:
        file = self.work / f"{part}.jsonl"
        if not file.is_file():
            file.write_text("".join(json.dumps(line) + "\n" for line in self._written(part)), encoding="utf-8")
        return calibration_set(self.checkpoint, file, tokens=tokens, least=768, weights=weights, seed=seed)


def _texts_of_facts(part: str) -> list[dict[str, str]]:
    """Questions and the table's answers; the facts of set A for calibration, those of set B held out."""
    seen = demo_facts("A" if part == "calibration" else "B")
    examples: list[Example] = [*dose_examination(fact_table()), *statement_examination(fact_table())]
    return [{"question": each.question, "answer": each.answer} for each in examples if each.fact_id in seen]


def _texts_of_medquad(part: str, data: Path | None) -> list[dict[str, object]]:
    """MedQuAD's conversations as that model was trained: without a system message, answers cut as there."""
    assert data is not None, "--data is needed for medquad"
    pairs = medquad(data, held_out=part == "held_out")
    random.Random(5).shuffle(pairs)
    return [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer[:1600]}]}
        for question, answer in pairs[:2000]
    ]


def _spread(rows: list[dict[str, float]], stock: list[dict[str, float]] | None) -> dict[str, object]:
    found: dict[str, object] = {
        key: [statistics.median(row[key] for row in rows), min(row[key] for row in rows), max(row[key] for row in rows)]
        for key in rows[0]
    }
    for key in ("kl", "entity_kl") if stock else ():
        ratios = [row[key] / base[key] for row, base in zip(rows, stock or [], strict=True)]
        found[f"{key}_by_stock"] = [statistics.median(ratios), min(ratios), max(ratios)]
    return found


def _run(command: list[object]) -> None:
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed: {done.stderr[-600:]}")


def _cpu_seconds() -> float:
    return sum(
        used.ru_utime + used.ru_stime
        for used in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


if __name__ == "__main__":
    main()
