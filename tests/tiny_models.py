"""A GGUF of Qwen2 architecture with random weights: some 200 kB, made in milliseconds, loaded by the real engine.

Its vocabulary is the 256 bytes, a few merges and four special tokens. Same seed, same file, same greedy answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|unused|>")
MERGES = ("h e", "l l", "o w", "Ġ t", "i n", "e r", "Ġt he", "d o", "do s", "dos e")


@dataclass(frozen=True)
class TinyShape:
    """The size of a tiny model."""

    n_layers: int = 2
    hidden_size: int = 64
    ffn_size: int = 128
    n_heads: int = 4
    n_kv_heads: int = 2
    context_length: int = 65536


def byte_alphabet() -> list[str]:
    """The printable character that byte-level BPE writes for each byte, in GPT-2's order of bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    return [letters[byte] for byte in range(256)]


def vocabulary() -> list[str]:
    """Every token's text: bytes, merges, special tokens."""
    return [*byte_alphabet(), *("".join(merge.split()) for merge in MERGES), *SPECIAL_TOKENS]


def write_tiny_qwen2(
    path: Path,
    *,
    shape: TinyShape | None = None,
    seed: int = 0,
    ends: bool = False,
    nan: bool = False,
    pre: str = "qwen2",
    normalization: str = "",
) -> Path:
    """Write the model and return its path.

    Its greedy answers go on for ever unless `ends`, for then special tokens are as likely as the others;
    `nan` spoils one weight; `pre` names llama.cpp's rule for finding words;
    `normalization` is what our exporter writes down of the original tokenizer.
    """
    import gguf
    import numpy as np

    shape = shape or TinyShape()
    tokens = vocabulary()
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_name(f"tiny-qwen2-{seed}")
    writer.add_block_count(shape.n_layers)
    writer.add_context_length(shape.context_length)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_feed_forward_length(shape.ffn_size)
    writer.add_head_count(shape.n_heads)
    writer.add_head_count_kv(shape.n_kv_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    kinds = [gguf.TokenType.NORMAL] * (256 + len(MERGES)) + [gguf.TokenType.CONTROL] * len(SPECIAL_TOKENS)
    writer.add_token_types(kinds)
    writer.add_token_merges(list(MERGES))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_pad_token_id(tokens.index("<|endoftext|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    if normalization:
        writer.add_string("edgemed.tokenizer.normalization", normalization)

    random = np.random.default_rng(seed)
    for name, size in tensor_shapes(shape, len(tokens)).items():
        if name.endswith("norm.weight"):
            values = np.ones(size, np.float32)
        else:
            values = random.standard_normal(size).astype(np.float32) * (4 / size[-1]) ** 0.5
        if name == "token_embd.weight" and not ends:
            values[-len(SPECIAL_TOKENS) :] *= 0.01  # tied to the output: their logits are never the largest
        if nan and name == "output_norm.weight":
            values[0] = np.nan
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensor_shapes(shape: TinyShape, vocab_size: int) -> dict[str, tuple[int, ...]]:
    """Name and shape (rows, columns) of each tensor of a Qwen2 model with tied embeddings."""
    hidden, ffn = shape.hidden_size, shape.ffn_size
    kv = hidden // shape.n_heads * shape.n_kv_heads
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocab_size, hidden), "output_norm.weight": (hidden,)}
    for layer in range(shape.n_layers):
        block = {
            "attn_norm.weight": (hidden,),
            "attn_q.weight": (hidden, hidden),
            "attn_q.bias": (hidden,),
            "attn_k.weight": (kv, hidden),
            "attn_k.bias": (kv,),
            "attn_v.weight": (kv, hidden),
            "attn_v.bias": (kv,),
            "attn_output.weight": (hidden, hidden),
            "ffn_norm.weight": (hidden,),
            "ffn_gate.weight": (ffn, hidden),
            "ffn_up.weight": (ffn, hidden),
            "ffn_down.weight": (hidden, ffn),
        }
        shapes |= {f"blk.{layer}.{name}": size for name, size in block.items()}
    return shapes
