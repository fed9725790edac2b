"""Writes a GGUF of any shape with made-up weights: to time and to project, never to answer.

Weights are random blocks of their format with finite scales, about as large as a trained model's; a few MiB of them
are repeated, because speed does not depend on what they are. The vocabulary is the 256 bytes and numbered fillers.
Writing takes as long as the file system needs for the bytes. `write_header_only` makes the same model as a sparse file
that holds nothing but its header: enough for the engine to say what memory it would take.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgemed.core.tensor_types import BY_NAME, Role, TensorType
from edgemed.core.units import MIB
from edgemed.formats.targets import fitting_type
from edgemed.models.gguf_values import Value, f32, flag, i32_array, text, texts, u32
from edgemed.models.gguf_writer import GgufWriter, OutputTensor, lay_out

Bytes = npt.NDArray[np.uint8]

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The chat template of the Qwen models."""
_POOL_BYTES = 4 * MIB
_SAMPLE_BLOCKS = 64
"""Enough to see how far a format's random values spread."""
_SCALES = {"q8_0": (0, None), "q4_0": (0, None), "iq4_nl": (0, None), "q2_k": (80, 82), "q3_k": (108, None),
           "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208, None), "q5_0": (0, None), "q5_1": (0, 2)}  # fmt: skip
"""Where in a block its float16 scale and offset stand (ggml-common.h)."""
_OFFSETS = {"q2_k": 1.5, "q4_k": 7.5, "q5_k": 15.5, "q5_1": -15.5}
"""Offset for each unit of scale that makes the mean of random codes about zero."""

Formats = str | Mapping[str, str]
"""One format for every matrix, or formats by tensor name or role (the name goes before the role)."""


@dataclass(frozen=True, slots=True)
class SyntheticShape:
    """The sizes that decide a dense decoder's speed."""

    n_layers: int
    hidden_size: int
    ffn_size: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int
    tied: bool
    """The embedding is also the head."""
    architecture: Literal["qwen2", "llama"] = "qwen2"
    """Qwen2 has biases at q, k and v."""


MIXES: Mapping[str, Mapping[str, str]] = {
    "nf4-int8": {
        **dict.fromkeys(("attention_q", "attention_k", "attention_v", "attention_output"), "q8_0"),
        **dict.fromkeys(("ffn_gate", "ffn_up", "ffn_down"), "iq4_nl"),
        "head": "q6_k",
        "embedding": "q4_k",
    },
}
"""Formats by role of the shipped recipes that mix them."""


def write_synthetic(
    path: Path,
    shape: SyntheticShape,
    formats: Formats,
    *,
    context_length: int = 32768,
    vocabulary: Mapping[str, Value] | None = None,
) -> Path:
    """Write the whole model and return its path; an interrupted run leaves no file. Raises OSError, ValueError.

    `vocabulary` stands in for the made-up one: the header's "tokenizer." entries, of `shape.vocab_size` tokens.
    """
    tensors = synthetic_tensors(shape, formats)
    metadata = _metadata(shape, path.stem, context_length)
    if vocabulary is not None:
        metadata = {key: value for key, value in metadata.items() if not key.startswith("tokenizer.")} | {**vocabulary}
    layout = lay_out(metadata, [tensor for tensor, _ in tensors])
    part = path.with_name(path.name + ".part")
    try:
        # Not brought to the disk (`finish`): it is read once, soon, and thrown away.
        with GgufWriter(part, layout) as writer:
            for tensor, role in tensors:
                writer.write(tensor, _values(tensor, role))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def write_header_only(path: Path, shape: SyntheticShape, formats: Formats, *, context_length: int = 32768) -> Path:
    """Write a sparse file of the model's length that holds its header alone, and return its path."""
    tensors = [tensor for tensor, _ in synthetic_tensors(shape, formats)]
    layout = lay_out(_metadata(shape, path.stem, context_length), tensors)
    path.write_bytes(layout.header)
    os.truncate(path, layout.file_bytes)
    return path


def synthetic_tensors(shape: SyntheticShape, formats: Formats) -> list[tuple[OutputTensor, Role]]:
    """Every tensor with its format and role, in the file's order. Raises ValueError for a format that is not known."""
    return [
        (OutputTensor(name, _type(name, role, extents, shape, formats), extents), role)
        for name, role, extents in _names(shape)
    ]


def synthetic_bytes(shape: SyntheticShape, formats: Formats) -> int:
    """Bytes of all weights."""
    return sum(tensor.n_bytes for tensor, _ in synthetic_tensors(shape, formats))


def _names(shape: SyntheticShape) -> Iterator[tuple[str, Role, tuple[int, ...]]]:
    hidden, q, kv = shape.hidden_size, shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim
    yield "token_embd.weight", "embedding", (shape.vocab_size, hidden)
    yield "output_norm.weight", "norm", (hidden,)
    if not shape.tied:
        yield "output.weight", "head", (shape.vocab_size, hidden)
    for layer in range(shape.n_layers):
        block = f"blk.{layer}."
        yield block + "attn_norm.weight", "norm", (hidden,)
        yield block + "ffn_norm.weight", "norm", (hidden,)
        yield block + "attn_q.weight", "attention_q", (q, hidden)
        yield block + "attn_k.weight", "attention_k", (kv, hidden)
        yield block + "attn_v.weight", "attention_v", (kv, hidden)
        if shape.architecture == "qwen2":
            for part, rows in (("q", q), ("k", kv), ("v", kv)):
                yield f"{block}attn_{part}.bias", "bias", (rows,)
        yield block + "attn_output.weight", "attention_output", (hidden, q)
        yield block + "ffn_gate.weight", "ffn_gate", (shape.ffn_size, hidden)
        yield block + "ffn_up.weight", "ffn_up", (shape.ffn_size, hidden)
        yield block + "ffn_down.weight", "ffn_down", (hidden, shape.ffn_size)


def _type(name: str, role: Role, extents: tuple[int, ...], shape: SyntheticShape, formats: Formats) -> TensorType:
    if len(extents) == 1:
        return BY_NAME["f32"]
    if isinstance(formats, str):
        wanted = formats
    else:
        # A tied embedding works as the head: its format is the head's, as in a recipe.
        part: Role = "head" if role == "embedding" and shape.tied and "head" in formats else role
        wanted = formats.get(name) or formats[part]
    if wanted not in BY_NAME:
        raise ValueError(f"{wanted} is no format of a GGUF")
    return BY_NAME[fitting_type(wanted, extents, "gguf")[0]]


def _values(tensor: OutputTensor, role: Role) -> Iterator[memoryview]:
    """The packed bytes of one tensor, in pieces."""
    if len(tensor.shape) == 1:
        yield memoryview(np.full(tensor.shape, 1.0 if role == "norm" else 0.0, np.float32).tobytes())
        return
    pool = _pool(tensor.type, tensor.shape[-1])
    left = tensor.n_bytes
    while left:
        size = min(left, len(pool))
        yield pool[:size]
        left -= size


@lru_cache(maxsize=16)
def _pool(kind: TensorType, columns: int) -> memoryview:
    """Some MiB of whole blocks whose values spread about 1 / sqrt(columns), as a trained matrix's do."""
    random = np.random.default_rng(kind.gguf_id)
    spread = columns**-0.5
    n_blocks = _POOL_BYTES // kind.block_bytes
    if kind.name in ("f32", "f16", "bf16"):
        values = random.standard_normal(n_blocks, np.float32) * np.float32(spread)
        if kind.name == "bf16":
            return memoryview((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())
        return memoryview((values if kind.name == "f32" else values.astype(np.float16)).tobytes())
    if kind.name not in _SCALES:
        raise ValueError(f"made-up weights in {kind.name} cannot be written; {', '.join(_SCALES)} can")
    blocks = random.integers(0, 256, (n_blocks, kind.block_bytes), dtype=np.uint8)
    _set_scale(kind, blocks, 1.0)
    _set_scale(kind, blocks, spread / _deviation(kind, blocks[:_SAMPLE_BLOCKS]))
    return memoryview(blocks.tobytes())


def _set_scale(kind: TensorType, blocks: Bytes, scale: float) -> None:
    at, offset_at = _SCALES[kind.name]
    blocks[:, at : at + 2] = _half(scale)
    if offset_at is not None:
        blocks[:, offset_at : offset_at + 2] = _half(scale * _OFFSETS[kind.name])


def _half(value: float) -> Bytes:
    return np.frombuffer(np.float16(value).tobytes(), np.uint8)


def _deviation(kind: TensorType, blocks: Bytes) -> float:
    """How far the values of these blocks spread."""
    from edgemed.formats.blocks import dequantize, has_codes

    if not has_codes(kind):  # q5_0, q5_1: codes of five bits, one scale
        return 9.2
    return float(dequantize(kind, blocks).std())


def _metadata(shape: SyntheticShape, name: str, context_length: int) -> dict[str, Value]:
    key = shape.architecture
    return {
        "general.architecture": text(key),
        "general.name": text(name),
        "general.quantization_version": u32(2),
        f"{key}.block_count": u32(shape.n_layers),
        f"{key}.context_length": u32(context_length),
        f"{key}.embedding_length": u32(shape.hidden_size),
        f"{key}.feed_forward_length": u32(shape.ffn_size),
        f"{key}.attention.head_count": u32(shape.n_heads),
        f"{key}.attention.head_count_kv": u32(shape.n_kv_heads),
        f"{key}.attention.key_length": u32(shape.head_dim),
        f"{key}.attention.value_length": u32(shape.head_dim),
        f"{key}.rope.dimension_count": u32(shape.head_dim),
        f"{key}.attention.layer_norm_rms_epsilon": f32(1e-6),
        f"{key}.rope.freq_base": f32(1_000_000.0),
        **_vocabulary(shape.vocab_size),
    }


def _vocabulary(size: int) -> dict[str, Value]:
    words = [*byte_alphabet(), *(f"w{number}" for number in range(size - 257)), "<|endoftext|>"]
    return {
        "tokenizer.ggml.model": text("gpt2"),
        "tokenizer.ggml.pre": text("qwen2"),
        "tokenizer.ggml.tokens": texts(words),
        "tokenizer.ggml.token_type": i32_array([1] * (size - 1) + [3]),
        "tokenizer.ggml.merges": texts(["h e"]),
        "tokenizer.ggml.eos_token_id": u32(size - 1),
        "tokenizer.ggml.add_bos_token": flag(False),
        "tokenizer.chat_template": text(CHATML),
    }


def byte_alphabet() -> list[str]:
    """The printable stand-ins of the 256 bytes in byte-level BPE."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]
