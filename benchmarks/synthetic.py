"""A GGUF with the shape of a real model and random weights: for timing, never for answers.

    python benchmarks/synthetic.py OUT --shape qwen2-0.5b --type q8_0 [--layers N] [--vocab-size N]

A thin layer over edgemed.hardware.synthetic_model: names for shapes that are known, and a command line.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgemed.core.tensor_types import F16
from edgemed.hardware.synthetic_model import (
    CHATML,
    MIXES,
    Formats,
    SyntheticShape,
    byte_alphabet,
    synthetic_bytes,
    synthetic_tensors,
    write_header_only,
)
from edgemed.hardware.synthetic_model import write_synthetic as _write_synthetic
from edgemed.models.gguf_values import f32, text
from edgemed.models.gguf_writer import GgufWriter, OutputTensor, lay_out

__all__ = [
    "CHATML",
    "MIXES",
    "SHAPES",
    "Formats",
    "Shape",
    "byte_alphabet",
    "synthetic_bytes",
    "write_header_only",
    "write_synthetic",
    "write_synthetic_adapter",
]

Shape = SyntheticShape
SHAPES = {
    "qwen2-0.5b": Shape(24, 896, 4864, 14, 2, 64, 151936, tied=True),
    "qwen2-1.5b": Shape(28, 1536, 8960, 12, 2, 128, 151936, tied=True),
    "qwen2-7b": Shape(28, 3584, 18944, 28, 4, 128, 152064, tied=False),
    "tiny": Shape(2, 256, 512, 4, 2, 64, 1024, tied=True),
}
"""The tensors' true sizes; "tiny" is for trying things out."""
TYPES = ("f16", "q8_0", "q6_k", "q5_k", "q4_k", "iq4_nl", "q4_0", "q3_k", "q2_k", *MIXES)


def write_synthetic(path: Path, shape: Shape, type_name: str = "q8_0", *, context_length: int = 32768) -> Path:
    """Write the model and return its path; an interrupted run leaves no file. `type_name` is one of TYPES."""
    return _write_synthetic(path, shape, MIXES.get(type_name, type_name), context_length=context_length)


def write_synthetic_adapter(path: Path, shape: Shape, *, rank: int = 16, seed: int = 1) -> Path:
    """Write a random LoRA adapter (float16) on every projection of such a model and return its path."""
    random = np.random.default_rng(seed)
    halves = []
    for tensor, role in synthetic_tensors(shape, "f16"):
        if role.startswith(("attention", "ffn")):
            n_out, n_in = tensor.shape
            halves += [(f"{tensor.name}.lora_a", (rank, n_in)), (f"{tensor.name}.lora_b", (n_out, rank))]
    metadata = {
        "general.architecture": text(shape.architecture),
        "general.type": text("adapter"),
        "adapter.type": text("lora"),
        "adapter.lora.alpha": f32(float(rank)),
    }
    layout = lay_out(metadata, [OutputTensor(name, F16, extents) for name, extents in halves])
    with GgufWriter(path, layout) as writer:
        for tensor in layout.tensors:
            values = random.standard_normal(tensor.shape, np.float32) * np.float32(0.02)
            writer.write(tensor, [values.astype(np.float16).tobytes()])
    return path


def main() -> None:
    """Write one file as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="qwen2-0.5b")
    parser.add_argument("--type", choices=TYPES, default="q8_0", dest="type_name")
    parser.add_argument("--layers", type=int, help="fewer layers than the shape has")
    parser.add_argument("--vocab-size", type=int, help="a smaller vocabulary than the shape has")
    asked = parser.parse_args()
    shape = SHAPES[asked.shape]
    shape = replace(shape, n_layers=asked.layers or shape.n_layers, vocab_size=asked.vocab_size or shape.vocab_size)
    path = write_synthetic(asked.output, shape, asked.type_name)
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
