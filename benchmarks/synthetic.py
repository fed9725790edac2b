"""A GGUF with the shape of a real model and random weights: for timing, never for answers.

    python benchmarks/synthetic.py OUT --shape qwen2-0.5b --type q8_0 [--layers N] [--vocab-size N]

Written tensor by tensor with gguf-py, so memory stays at one tensor. The vocabulary is the 256 bytes and
numbered fillers; speed does not depend on what the words are. Random blocks are valid blocks of their type.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Shape:
    """The sizes that decide a model's speed."""

    n_layers: int
    hidden_size: int
    ffn_size: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int
    tied: bool


SHAPES = {
    "qwen2-0.5b": Shape(24, 896, 4864, 14, 2, 64, 151936, tied=True),
    "qwen2-1.5b": Shape(28, 1536, 8960, 12, 2, 128, 151936, tied=True),
    "qwen2-7b": Shape(28, 3584, 18944, 28, 4, 128, 152064, tied=False),
    "tiny": Shape(2, 256, 512, 4, 2, 64, 1024, tied=True),
}
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The chat template of the Qwen models."""
TYPES = ("f16", "q8_0", "q4_0")


def write_synthetic(path: Path, shape: Shape, type_name: str = "q8_0", *, context_length: int = 32768) -> Path:
    """Write the model and return its path; an interrupted run leaves no file."""
    import gguf

    part = path.with_name(path.name + ".part")
    try:
        writer = gguf.GGUFWriter(part, "qwen2")
        _add_metadata(writer, path.stem, shape, context_length)
        kind = gguf.GGMLQuantizationType[type_name.upper()]
        tensors = list(_tensors(shape, kind))
        for name, rows, columns, tensor_kind in tensors:
            block, block_bytes = gguf.GGML_QUANT_SIZES[tensor_kind]
            n_bytes = rows * columns // block * block_bytes
            size = (rows, columns) if rows > 1 else (columns,)
            writer.add_tensor_info(name, size, _dtype(tensor_kind), n_bytes, raw_dtype=tensor_kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, rows, columns, tensor_kind in tensors:
            writer.write_tensor_data(_values(name, rows, columns, tensor_kind))
        writer.close()
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _add_metadata(writer: Any, name: str, shape: Shape, context_length: int) -> None:
    import gguf

    writer.add_name(name)
    writer.add_block_count(shape.n_layers)
    writer.add_context_length(context_length)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_feed_forward_length(shape.ffn_size)
    writer.add_head_count(shape.n_heads)
    writer.add_head_count_kv(shape.n_kv_heads)
    writer.add_rope_freq_base(1_000_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_quantization_version(2)
    fillers = [f"w{n}" for n in range(shape.vocab_size - 257)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*_byte_alphabet(), *fillers, "<|endoftext|>"])
    writer.add_token_types([gguf.TokenType.NORMAL] * (shape.vocab_size - 1) + [gguf.TokenType.CONTROL])
    writer.add_token_merges(["h e"])
    writer.add_eos_token_id(shape.vocab_size - 1)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHATML)


def _byte_alphabet() -> list[str]:
    """The printable stand-ins of the 256 bytes in byte-level BPE."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]


def _tensors(shape: Shape, kind: Any) -> Any:
    """Name, rows, columns and type of every tensor."""
    from gguf import GGMLQuantizationType

    f32 = GGMLQuantizationType.F32
    hidden, q, kv = shape.hidden_size, shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim
    yield "token_embd.weight", shape.vocab_size, hidden, kind
    yield "output_norm.weight", 1, hidden, f32
    if not shape.tied:
        yield "output.weight", shape.vocab_size, hidden, kind
    for layer in range(shape.n_layers):
        block = f"blk.{layer}."
        yield block + "attn_norm.weight", 1, hidden, f32
        yield block + "ffn_norm.weight", 1, hidden, f32
        for name, rows in (("q", q), ("k", kv), ("v", kv)):
            yield f"{block}attn_{name}.weight", rows, hidden, kind
            yield f"{block}attn_{name}.bias", 1, rows, f32
        yield block + "attn_output.weight", hidden, q, kind
        yield block + "ffn_gate.weight", shape.ffn_size, hidden, kind
        yield block + "ffn_up.weight", shape.ffn_size, hidden, kind
        yield block + "ffn_down.weight", hidden, shape.ffn_size, kind


def _dtype(kind: Any) -> Any:
    import numpy as np

    return np.dtype(np.float32 if kind.name == "F32" else np.float16)


def _values(name: str, rows: int, columns: int, kind: Any) -> Any:
    """Random weights of about the size a trained model has: 1 / sqrt(columns)."""
    import gguf
    import numpy as np

    if kind.name == "F32":
        return np.full(columns, 1.0 if name.endswith("norm.weight") else 0.0, np.float32)
    random = np.random.default_rng(rows * columns)
    scale = columns**-0.5
    if kind.name == "F16":
        return np.resize((random.standard_normal(1 << 20) * scale).astype(np.float16), (rows, columns))
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    pool = random.integers(0, 256, 1 << 22, dtype=np.uint8)
    blocks = np.resize(pool, (rows * columns // block, block_bytes))
    deviation = {"Q8_0": 74.0, "Q4_0": 4.6}[kind.name]  # of uniform random codes
    blocks[:, :2] = np.frombuffer(np.float16(scale / deviation).tobytes(), np.uint8)
    return blocks


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
