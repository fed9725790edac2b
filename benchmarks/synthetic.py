"""A GGUF with the shape of a real model and random weights: for timing, never for answers.

    python benchmarks/synthetic.py OUT --shape qwen2-0.5b --type q8_0 [--layers N] [--vocab-size N]

A thin layer over edgemed.hardware.synthetic_model: names for shapes that are known, and a command line.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from edgemed.hardware.synthetic_model import (
    CHATML,
    MIXES,
    Formats,
    SyntheticShape,
    byte_alphabet,
    synthetic_bytes,
    write_header_only,
)
from edgemed.hardware.synthetic_model import write_synthetic as _write_synthetic

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
