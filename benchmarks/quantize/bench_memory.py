"""Memory of a 7B in llama.cpp by recipe: true shapes, sparse files of a header alone, asked of the engine itself.

    python benchmarks/quantize/bench_memory.py [--context 4096]

DeepSeek-R1-Distill-Qwen-7B's shapes (Qwen2: 28 layers of 3584, feed-forward 18944, vocabulary 152064, head not tied),
KV cache in q8_0, micro-batches of 128 tokens: what the engine would allocate (edgemed.plan.projection), without the
process itself. Formats of `auto` at 4.66 bits per weight follow from costs that are assumed (a format's usual error,
doubled for the first and last eighth of the layers); its memory depends on the bits, hardly on where they are.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from synthetic import CHATML, SHAPES, byte_alphabet

from edgemed.core.tensor_types import BY_NAME, Role
from edgemed.engines.base import EngineConfig
from edgemed.formats.recipes import bind, find_recipe
from edgemed.models.gguf_values import Value, f32, flag, i32_array, text, texts, u32
from edgemed.models.gguf_writer import OutputTensor, lay_out
from edgemed.models.spec import TensorSpec
from edgemed.plan.projection import project
from edgemed.quantize.allocation import Option, allocate, budget_from

SHAPE = SHAPES["qwen2-7b"]
CANDIDATES = {"q2_k": 0.06, "q3_k": 0.02, "iq4_nl": 0.005, "q4_k": 0.005, "q5_k": 0.0013, "q6_k": 0.0004, "q8_0": 3e-5}
"""Formats and their usual relative squared errors."""


def main() -> None:
    """The command line of this script."""
    parser = argparse.ArgumentParser(description="Project the memory of a 7B by recipe.")
    parser.add_argument("--context", type=int, default=4096)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, types in (
            *((name, _bound(name)) for name in ("q4_k_m", "nf4-int8", "q8_0")),
            ("auto at 4.66", _allocated(4.66)),
        ):
            path = Path(folder) / "header.gguf"
            bits = _write(path, types)
            config = EngineConfig(
                model_path=path, context_length=arguments.context, n_slots=1, n_threads=1, kv_type="q8_0", n_ubatch=128
            )
            (found,) = project([config])
            assert found is not None, "the engine gave no answer"
            sizes = found.places["RAM"]
            total = sizes.weights + sizes.kv_cache + sizes.compute
            print(
                f"{name}: {bits:.2f} bits per weight; weights {sizes.weights / 1e9:.3f} GB, KV "
                f"{sizes.kv_cache / 1e9:.3f}, compute {sizes.compute / 1e9:.3f}; together {total / 1e9:.3f} GB"
            )


def _tensors() -> Iterator[TensorSpec]:
    hidden, q, kv = SHAPE.hidden_size, SHAPE.n_heads * SHAPE.head_dim, SHAPE.n_kv_heads * SHAPE.head_dim
    yield _spec("token_embd.weight", "embedding", None, SHAPE.vocab_size, hidden)
    yield _spec("output_norm.weight", "norm", None, hidden)
    yield _spec("output.weight", "head", None, SHAPE.vocab_size, hidden)
    parts: tuple[tuple[str, Role, tuple[int, ...]], ...] = (
        ("attn_norm.weight", "norm", (hidden,)),
        ("ffn_norm.weight", "norm", (hidden,)),
        ("attn_q.weight", "attention_q", (q, hidden)),
        ("attn_k.weight", "attention_k", (kv, hidden)),
        ("attn_v.weight", "attention_v", (kv, hidden)),
        ("attn_q.bias", "bias", (q,)),
        ("attn_k.bias", "bias", (kv,)),
        ("attn_v.bias", "bias", (kv,)),
        ("attn_output.weight", "attention_output", (hidden, q)),
        ("ffn_gate.weight", "ffn_gate", (SHAPE.ffn_size, hidden)),
        ("ffn_up.weight", "ffn_up", (SHAPE.ffn_size, hidden)),
        ("ffn_down.weight", "ffn_down", (hidden, SHAPE.ffn_size)),
    )
    for layer in range(SHAPE.n_layers):
        for name, role, shape in parts:
            yield _spec(f"blk.{layer}.{name}", role, layer, *shape)


def _spec(name: str, role: Role, layer: int | None, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, shape=shape, type="", role=role, layer=layer, n_bytes=0)


def _bound(recipe: str) -> dict[str, str]:
    tensors = tuple(_tensors())
    return {one.name: one.type for one in bind(find_recipe(recipe), tensors, SHAPE.n_layers)}


def _allocated(bits: float) -> dict[str, str]:
    tensors = tuple(_tensors())
    types = _bound("q4_k_m")
    fixed = sum(_bytes(tensor, types[tensor.name]) for tensor in tensors if len(tensor.shape) == 1)
    eighth = SHAPE.n_layers // 8
    options = [
        Option(
            tensor=tensor.name,
            format=kind,
            n_bytes=_bytes(tensor, kind),
            cost=error * math.prod(tensor.shape) * (1 if tensor.layer in range(eighth, SHAPE.n_layers - eighth) else 2),
        )
        for tensor in tensors
        if len(tensor.shape) == 2
        for kind, error in CANDIDATES.items()
    ]
    budget = budget_from(n_weights=sum(math.prod(tensor.shape) for tensor in tensors), target_bpw=bits)
    return types | allocate(options, budget, fixed).formats


def _bytes(tensor: TensorSpec, kind: str) -> int:
    return OutputTensor(tensor.name, BY_NAME[kind], tensor.shape).n_bytes


def _write(path: Path, types: Mapping[str, str]) -> float:
    """A sparse file of the right length; its bits per weight."""
    tensors = [OutputTensor(tensor.name, BY_NAME[types[tensor.name]], tensor.shape) for tensor in _tensors()]
    layout = lay_out(_metadata(), tensors)
    path.write_bytes(layout.header)
    os.truncate(path, layout.file_bytes)
    weights = sum(math.prod(tensor.shape) for tensor in tensors)
    return 8 * sum(tensor.n_bytes for tensor in tensors) / weights


def _metadata() -> dict[str, Value]:
    key, n_vocab = "qwen2", SHAPE.vocab_size
    words = [*byte_alphabet(), *(f"w{number}" for number in range(n_vocab - 257)), "<|endoftext|>"]
    return {
        "general.architecture": text(key),
        f"{key}.block_count": u32(SHAPE.n_layers),
        f"{key}.context_length": u32(131072),
        f"{key}.embedding_length": u32(SHAPE.hidden_size),
        f"{key}.feed_forward_length": u32(SHAPE.ffn_size),
        f"{key}.attention.head_count": u32(SHAPE.n_heads),
        f"{key}.attention.head_count_kv": u32(SHAPE.n_kv_heads),
        f"{key}.attention.layer_norm_rms_epsilon": f32(1e-6),
        f"{key}.rope.freq_base": f32(1_000_000.0),
        "tokenizer.ggml.model": text("gpt2"),
        "tokenizer.ggml.pre": text("qwen2"),
        "tokenizer.ggml.tokens": texts(words),
        "tokenizer.ggml.token_type": i32_array([1] * (n_vocab - 1) + [3]),
        "tokenizer.ggml.merges": texts(["h e"]),
        "tokenizer.ggml.eos_token_id": u32(n_vocab - 1),
        "tokenizer.ggml.add_bos_token": flag(False),
        "tokenizer.chat_template": text(CHATML),
    }


if __name__ == "__main__":
    main()
