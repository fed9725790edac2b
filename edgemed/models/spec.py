"""What a model is made of, whatever file it comes from."""

from __future__ import annotations

from typing import Literal

from edgemed.core.records import Record
from edgemed.core.tensor_types import Role


class TensorSpec(Record):
    """One tensor of a model file."""

    name: str
    shape: tuple[int, ...]
    """Rows first: (out, in) of a projection, (vocabulary, hidden) of the embedding."""
    type: str
    """Storage format, such as "bf16" or "q8_0" (edgemed.core.tensor_types)."""
    role: Role
    layer: int | None
    """Number of the layer it belongs to, from 0; None outside the layers."""
    n_bytes: int


class ModelSpec(Record):
    """Shape of one model: what planning and conversion need, and nothing of its content."""

    schema_version: Literal[1] = 1
    architecture: str
    """llama, mistral, qwen2, qwen3, gemma3, phi3, or another name that a GGUF gives itself."""
    n_layers: int
    hidden_size: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn_size: int
    vocab_size: int
    context_length: int
    tied_embeddings: bool
    """The head is the embedding, stored once."""
    tensors: tuple[TensorSpec, ...]

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors as stored."""
        return sum(tensor.n_bytes for tensor in self.tensors)

    @property
    def n_parameters(self) -> int:
        """Number of weights, those of the rotary tables not counted."""
        return sum(_size(tensor.shape) for tensor in self.tensors if tensor.role != "rope")


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for extent in shape:
        size *= extent
    return size
