"""Export's conversion phase against `cp` and a sync of the same bytes: wall time, ratio, peak memory.

    python benchmarks/bench_export.py [--repeats 5] [--recipes bf16,f16,q8_0] [--folder DIR]

Makes a synthetic bf16 checkpoint of Qwen2's shape (30 layers of 1280, about 2.1 GB, four shards) in a
temporary folder on the disk of DIR and removes it at the end. Copy and conversion take turns, so that a busy machine
hurts both alike. Each conversion runs in a fresh process, whose peak resident memory is read from the system.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SHAPE: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 6400,
    "num_hidden_layers": 30,
    "num_attention_heads": 20,
    "num_key_value_heads": 4,
    "vocab_size": 151_936,
}
N_SHARDS = 4
REAL_TOKENIZER = Path(__file__).parents[2] / "shared" / "data" / "tokenizer-qwen2.5" / "tokenizer.json.gz"
CORPUS = ["give paracetamol 15 mg/kg every 6 hours", "the dose of amoxicillin in a child"]
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def main() -> None:
    """Make, measure, print, remove."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--recipes", default="bf16,f16,q8_0")
    options.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options.add_argument("--convert", nargs=3, metavar=("SOURCE", "OUTPUT", "RECIPE"), help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.convert:
        _convert_here(*chosen.convert)
        return
    work = Path(tempfile.mkdtemp(prefix="edgemed-bench-", dir=chosen.folder))
    try:
        _measure(work, chosen.recipes.split(","), chosen.repeats)
    finally:
        shutil.rmtree(work)


def _measure(work: Path, recipes: list[str], repeats: int) -> None:
    source = work / "checkpoint"
    n_bytes, largest = write_checkpoint(source)
    print(f"checkpoint: {n_bytes / 1e9:.2f} GB in {N_SHARDS} shards, largest tensor {largest / 2**20:.0f} MiB")
    _copy(source, work / "warm")  # the first read fills the page cache for both
    print(
        "| recipe | cp + fsync, s | conversion, s | ratio, median | lowest to highest | CPU s, both | peak RSS, MiB |"
    )
    print("|---|---|---|---|---|---|---|")
    for recipe in recipes:
        copies, conversions, peaks, busy = [], [], [], []
        for _ in range(repeats):
            seconds, copy_cpu = _copy(source, work / "copy")
            copies.append(seconds)
            mine = _convert(source, work / "out.gguf", recipe)
            conversions.append(mine["seconds"])
            peaks.append(mine["peak_bytes"])
            busy.append((copy_cpu, mine["cpu_seconds"]))
        ratios = [mine / theirs for mine, theirs in zip(conversions, copies, strict=True)]
        print(
            f"| {recipe} | {_spread(copies)} | {_spread(conversions)} | {statistics.median(ratios):.2f} "
            f"| {min(ratios):.2f} to {max(ratios):.2f} "
            f"| {statistics.median(b[0] for b in busy):.1f} / {statistics.median(b[1] for b in busy):.1f} "
            f"| {max(peaks) / 2**20:.0f} |",
            flush=True,
        )
    print(f"goal: ratio at most 2.5, peak RSS at most {largest / 2**20 + 400:.0f} MiB (largest tensor + 400)")


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def _copy(source: Path, target: Path) -> tuple[float, float]:
    """Seconds, and CPU seconds, of `cp` of the weights, then a sync of each file."""
    target.mkdir()
    files = sorted(source.glob("*.safetensors"))
    os.sync()
    before = os.times()
    began = time.perf_counter()
    subprocess.run(["cp", *map(str, files), str(target)], check=True)
    for file in files:
        with (target / file.name).open("rb+") as copied:
            os.fsync(copied.fileno())
    seconds = time.perf_counter() - began
    after = os.times()
    shutil.rmtree(target)
    return seconds, sum(after[:4]) - sum(before[:4])


def _convert(source: Path, output: Path, recipe: str) -> dict[str, Any]:
    """Seconds and CPU seconds of the conversion phase (its last sync included), peak resident bytes of its process."""
    os.sync()
    command = [sys.executable, __file__, "--convert", str(source), str(output), recipe]
    answer: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    output.unlink()
    return answer


def _convert_here(source: str, output: str, recipe: str) -> None:
    import resource

    from edgemed.export.gguf import convert
    from edgemed.export.preflight import prepare

    plan = prepare(Path(source), Path(output), recipe)
    before, began = os.times(), time.perf_counter()
    convert(plan, Path(output))
    seconds, after = time.perf_counter() - began, os.times()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    cpu = sum(after[:2]) - sum(before[:2])
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "peak_bytes": peak}))


def write_checkpoint(folder: Path) -> tuple[int, int]:
    """A checkpoint of random bf16 weights in shards; its bytes, and those of its largest tensor."""
    import numpy as np

    folder.mkdir()
    config = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "max_position_embeddings": 32768}
    config |= SHAPE | {"rope_theta": 1e6, "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "hidden_act": "silu"}
    (folder / "config.json").write_text(json.dumps(config))
    _write_tokenizer(folder)
    shapes = _shapes()
    pool = (np.random.default_rng(0).standard_normal(1 << 24).astype(np.float32) * 0.02).view(np.uint32) >> 16
    raw = np.resize(pool.astype(np.uint16), 1 << 25)
    names = list(shapes)
    place: dict[str, str] = {}
    per_shard = -(-sum(map(_n_bytes, shapes.values())) // N_SHARDS)
    for number in range(N_SHARDS):
        shard, size = f"model-{number + 1:05}-of-{N_SHARDS:05}.safetensors", 0
        inside: list[str] = []
        while names and (size < per_shard or number == N_SHARDS - 1):
            inside.append(names.pop(0))
            size += _n_bytes(shapes[inside[-1]])
        _write_shard(folder / shard, {name: shapes[name] for name in inside}, raw)
        place |= dict.fromkeys(inside, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": place}))
    os.sync()
    return sum(map(_n_bytes, shapes.values())), max(map(_n_bytes, shapes.values()))


def _shapes() -> dict[str, tuple[int, ...]]:
    hidden, wide = SHAPE["hidden_size"], SHAPE["intermediate_size"]
    narrow = hidden // SHAPE["num_attention_heads"] * SHAPE["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (SHAPE["vocab_size"], hidden)}
    for number in range(SHAPE["num_hidden_layers"]):
        start = f"model.layers.{number}."
        for part, rows in (("q", hidden), ("k", narrow), ("v", narrow)):
            shapes[f"{start}self_attn.{part}_proj.weight"] = (rows, hidden)
            shapes[f"{start}self_attn.{part}_proj.bias"] = (rows,)
        shapes[f"{start}self_attn.o_proj.weight"] = (hidden, hidden)
        shapes |= {f"{start}mlp.{part}_proj.weight": (wide, hidden) for part in ("gate", "up")}
        shapes[f"{start}mlp.down_proj.weight"] = (hidden, wide)
        shapes |= {f"{start}{norm}_layernorm.weight": (hidden,) for norm in ("input", "post_attention")}
    return shapes | {"model.norm.weight": (hidden,)}


def _n_bytes(shape: tuple[int, ...]) -> int:
    size = 2
    for extent in shape:
        size *= extent
    return size


def _write_shard(path: Path, shapes: dict[str, tuple[int, ...]], raw: Any) -> None:
    header, end = {}, 0
    for name, shape in shapes.items():
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + _n_bytes(shape)]}
        end += _n_bytes(shape)
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        while end:
            piece = raw[: min(end // 2, len(raw))]
            file.write(piece.data)
            end -= piece.nbytes


def _write_tokenizer(folder: Path) -> None:
    """Qwen2.5's own where its copy is at hand, so that 152,000 tokens count in the memory; else a small one."""
    if REAL_TOKENIZER.is_file():
        (folder / "tokenizer.json").write_bytes(gzip.decompress(REAL_TOKENIZER.read_bytes()))
        return
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(QWEN2_SPLIT), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, byte_level])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=280, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))


if __name__ == "__main__":
    main()
