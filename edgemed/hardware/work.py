"""What one step of a dense decoder has to do: which weights multiply how many rows, and what attention computes.

The measurement divides by these numbers and the prediction multiplies by them, so they stand in one place. The facts
are llama.cpp's: the embedding is looked up, not multiplied; the head, and the feed-forward of the last layer, see only
the tokens whose logits are wanted (`inp_out_ids`, llama-graph.cpp).
"""

from __future__ import annotations

from collections.abc import Iterator

from edgemed.core.tensor_types import BY_NAME
from edgemed.models.spec import ModelSpec, TensorSpec

_VECTORS = frozenset({"norm", "bias", "rope"})
_FEED_FORWARD = frozenset({"ffn_gate", "ffn_up", "ffn_gate_up", "ffn_down"})


def n_weights(tensor: TensorSpec) -> int:
    """Weights of one tensor."""
    product = 1
    for extent in tensor.shape:
        product *= extent
    return product


def matrices(spec: ModelSpec) -> list[TensorSpec]:
    """The tensors that are multiplied in a step; vectors are not worth counting. A tied embedding is the head."""
    return [
        tensor
        for tensor in spec.tensors
        if tensor.role not in _VECTORS
        and len(tensor.shape) > 1
        and (tensor.role != "embedding" or spec.tied_embeddings)
    ]


def is_head(tensor: TensorSpec) -> bool:
    """Whether it turns hidden states into logits; an embedding is one where it is tied."""
    return tensor.role in ("head", "embedding")


def rows_of(tensor: TensorSpec, spec: ModelSpec, n_tokens: int, n_outputs: int) -> int:
    """Rows that this matrix multiplies in a step of `n_tokens`, of which `n_outputs` want logits."""
    in_last_layer = tensor.layer == spec.n_layers - 1 and tensor.role in _FEED_FORWARD
    return n_outputs if is_head(tensor) or in_last_layer else n_tokens


def operations(tensor: TensorSpec, rows: int) -> float:
    """Multiplications and additions of one matrix with so many rows."""
    return 2.0 * n_weights(tensor) * rows


def attention_operations(spec: ModelSpec, n_tokens: int, depth: int) -> float:
    """Multiplications and additions of attention in one layer: `n_tokens` rows, each seeing itself and all before."""
    pairs = n_tokens * depth + n_tokens * (n_tokens + 1) / 2
    return 4.0 * spec.n_heads * spec.head_dim * pairs


def kv_bytes_read(spec: ModelSpec, kv_type: str, depth: int) -> float:
    """Bytes of keys and values that one decoding step reads in one layer at that depth."""
    return 2.0 * depth * BY_NAME[kv_type].row_bytes(spec.n_kv_heads * spec.head_dim)


def prompt_steps(n_tokens: int, n_ubatch: int) -> Iterator[tuple[int, int, int]]:
    """Tokens, tokens before them, and wanted logits of each step that reads a prompt."""
    done = 0
    while done < n_tokens:
        size = min(n_ubatch, n_tokens - done)
        yield size, done, int(done + size == n_tokens)
        done += size
