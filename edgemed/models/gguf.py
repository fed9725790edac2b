"""Is a GGUF safe to hand to the engine, and what model is in it?

llama.cpp ends the whole process (GGML_ASSERT) on some headers that are well formed: no layers or more than 512, no
heads, an unknown rotary scaling, a token that occurs twice. Those are refused here with a sentence instead.
"""

from __future__ import annotations

import re
from pathlib import Path

from edgemed.core.errors import ModelRefused
from edgemed.core.tensor_types import Role
from edgemed.models.gguf_header import GgufArray, GgufHeader, GgufTensor, read_gguf
from edgemed.models.spec import ModelSpec, TensorSpec

__all__ = ["GgufArray", "GgufHeader", "GgufTensor", "check_gguf", "read_gguf", "spec_from_gguf"]

MAX_LAYERS = 512
MAX_EXPERTS = 1024
MAX_EXTENT = 2**24
"""More heads, layers' widths or tokens than this are in no model; products of them must not overflow 64 bits."""

_SCALINGS = ("none", "linear", "yarn", "longrope")
_BLOCK = re.compile(r"blk\.(\d{1,5})\.(.+)")
_ROLES: dict[str, Role] = {
    "token_embd.weight": "embedding",
    "output.weight": "head",
    "attn_q.weight": "attention_q",
    "attn_k.weight": "attention_k",
    "attn_v.weight": "attention_v",
    "attn_qkv.weight": "attention_qkv",
    "attn_output.weight": "attention_output",
    "ffn_gate.weight": "ffn_gate",
    "ffn_up.weight": "ffn_up",
    "ffn_down.weight": "ffn_down",
    "rope_freqs.weight": "rope",
    "rope_factors_long.weight": "rope",
    "rope_factors_short.weight": "rope",
}


def check_gguf(path: Path) -> GgufHeader:
    """The header of a GGUF that may be given to the engine; called before every load.

    Raises ModelRefused for what `read_gguf` refuses, and for hyperparameters that would end the engine's process.
    """
    header = read_gguf(path)
    if not header.architecture:
        raise _refused(header, "it names no architecture")
    faults = [*_size_faults(header), *_attention_faults(header), *_expert_faults(header), *_vocabulary_faults(header)]
    if faults:
        raise _refused(header, "; ".join(faults[:4]))
    return header


def spec_from_gguf(header: GgufHeader) -> ModelSpec:
    """The ModelSpec of a checked GGUF. Raises ModelRefused when a size is missing."""
    hidden_size = _required(header, "embedding_length")
    n_heads = _required(header, "attention.head_count")
    names = {tensor.name for tensor in header.tensors}
    return ModelSpec(
        architecture=header.architecture,
        n_layers=_required(header, "block_count"),
        hidden_size=hidden_size,
        n_heads=n_heads,
        n_kv_heads=header.integer("attention.head_count_kv") or n_heads,
        head_dim=header.integer("attention.key_length") or hidden_size // n_heads,
        ffn_size=_required(header, "feed_forward_length"),
        vocab_size=_vocab_size(header),
        context_length=_required(header, "context_length"),
        tied_embeddings="output.weight" not in names,
        tensors=tuple(_tensor_spec(tensor) for tensor in header.tensors),
    )


def _required(header: GgufHeader, key: str) -> int:
    value = header.integer(key)
    if value is None or not 1 <= value <= 2**31 - 1:
        raise _refused(header, f"{header.architecture}.{key} is {value}")
    return value


def _vocab_size(header: GgufHeader) -> int:
    embedding = next((tensor for tensor in header.tensors if tensor.name == "token_embd.weight"), None)
    if embedding is not None and len(embedding.shape) == 2:
        return embedding.shape[0]
    return header.items("tokenizer.ggml.tokens") or _required(header, "vocab_size")


def _size_faults(header: GgufHeader) -> list[str]:
    faults = []
    layers = header.integer("block_count")
    if layers is None or not 1 <= layers <= MAX_LAYERS:
        faults.append(f"its number of layers (block_count) is {layers}; 1 to {MAX_LAYERS} are known")
    for key in ("embedding_length", "context_length"):
        value = header.integer(key)
        if value is None or not 1 <= value <= 2**31 - 1:
            faults.append(f"{key} is {value}")
    hidden = header.integer("embedding_length") or 0
    if hidden > MAX_EXTENT:
        faults.append(f"embedding_length is {hidden}")
    if layers and not faults:
        faults += _layer_faults(header, layers)
    return faults


def _layer_faults(header: GgufHeader, layers: int) -> list[str]:
    found = {int(match[1]) for tensor in header.tensors if (match := _BLOCK.fullmatch(tensor.name))}
    if not found:
        return []
    if max(found) >= layers:
        return [f"it has a tensor of layer {max(found)}, but {layers} layers"]
    missing = next((layer for layer in range(layers) if layer not in found), None)
    return [] if missing is None else [f"it says {layers} layers, and holds no tensor of layer {missing}"]


def _attention_faults(header: GgufHeader) -> list[str]:
    faults = []
    heads = header.integer("attention.head_count")
    if heads is None:
        return [] if header.integer("ssm.state_size") else ["its number of heads is missing"]
    if not 1 <= heads <= MAX_EXTENT:
        faults.append(f"its number of heads is {heads}")
        return faults
    kv_heads = header.integer("attention.head_count_kv", heads)
    if kv_heads is None or not 1 <= kv_heads <= heads or heads % kv_heads:
        faults.append(f"it has {kv_heads} key-value heads for {heads} heads")
    for key in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
        value = header.integer(key, 1)
        if value is None or not 1 <= value <= MAX_EXTENT:
            faults.append(f"{key} is {value}")
    scaling = header.metadata.get(f"{header.architecture}.rope.scaling.type", "none")
    if scaling not in _SCALINGS:
        faults.append(f"its rotary scaling is {str(scaling)[:40]!r}; known: {', '.join(_SCALINGS)}")
    return faults


def _expert_faults(header: GgufHeader) -> list[str]:
    faults = []
    experts, used = header.integer("expert_count", 0), header.integer("expert_used_count", 0)
    if experts is None or used is None or not 0 <= used <= experts <= MAX_EXPERTS or (experts > 0) != (used > 0):
        faults.append(f"it uses {used} of {experts} experts")
    parts = header.metadata.get("split.count", 1)
    if parts not in (0, 1):
        faults.append(f"it is one of {str(parts)[:20]} parts, and the others would be read unchecked")
    return faults


def _vocabulary_faults(header: GgufHeader) -> list[str]:
    kind = header.metadata.get("tokenizer.ggml.model")
    if kind is None:
        return []  # the engine refuses it in words; asked for a token of no vocabulary, it ends the process
    tokens = [] if kind in ("no_vocab", "none") else header.read_array("tokenizer.ggml.tokens")
    if not tokens or not all(isinstance(token, str) for token in tokens):
        return ["it has no vocabulary"]
    faults = []
    if len(set(tokens)) != len(tokens):
        faults.append("a token occurs twice in its vocabulary")
    embedding = next((tensor for tensor in header.tensors if tensor.name == "token_embd.weight"), None)
    if embedding is not None and embedding.shape[0] != len(tokens):
        faults.append(f"it has {len(tokens)} tokens for {embedding.shape[0]} rows of the embedding")
    for name in ("scores", "token_type"):
        count = header.items(f"tokenizer.ggml.{name}")
        if count and count < len(tokens):
            faults.append(f"it has {count} {name} for {len(tokens)} tokens")
    return faults


def _tensor_spec(tensor: GgufTensor) -> TensorSpec:
    match = _BLOCK.fullmatch(tensor.name)
    return TensorSpec(
        name=tensor.name,
        shape=tensor.shape,
        type=tensor.type.name,
        role=_role(match[2] if match else tensor.name),
        layer=int(match[1]) if match else None,
        n_bytes=tensor.n_bytes,
    )


def _role(name: str) -> Role:
    if name in _ROLES:
        return _ROLES[name]
    if name.endswith(".bias"):
        return "bias"
    return "norm" if name.endswith("norm.weight") else "other"


def _refused(header: GgufHeader, why: str) -> ModelRefused:
    return ModelRefused(f"{header.path} cannot be loaded safely: {why}.", next_step="copy or export the model again")
