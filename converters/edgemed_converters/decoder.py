"""What all supported architectures share: a decoder of pre-normed attention and gated feed-forward layers.

An architecture's own file says how it differs, in the steps `check`, `hyperparameters`, `layer` and `rope_plan`.
"""

from __future__ import annotations

from typing import ClassVar

from edgemed.core.errors import ModelRefused
from edgemed.models.checkpoint import Checkpoint, role_of
from edgemed.models.config import ModelConfig
from edgemed.models.gguf_values import Value, f32, u32
from edgemed.models.safetensors import StoredTensor
from edgemed_converters.plan import Change, ComputedTensor, ConversionPlan, ConvertedTensor
from edgemed_converters.rope import Rope, read_rope, rope_metadata, rope_tables

_IGNORED = ("rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached")
"""Buffers that old checkpoints carry and that follow from the configuration."""


class Decoder:
    """Plans the conversion of one checkpoint. Made by `edgemed_converters.converter_for`."""

    gguf_name: ClassVar[str]
    activation: ClassVar[str] = "silu"
    activation_key: ClassVar[str] = "hidden_act"
    ties_by_default: ClassVar[bool] = False
    default_theta: ClassVar[float] = 10_000.0
    interleaved: ClassVar[bool] = False
    """The engine turns neighbouring dimensions in this architecture: q and k rows are reordered."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.n_layers = config.integer("num_hidden_layers", high=512)
        self.hidden_size = config.integer("hidden_size")
        self.n_heads = config.integer("num_attention_heads")
        self.n_kv_heads = config.integer("num_key_value_heads", self.n_heads)
        self.head_dim = config.integer("head_dim", max(1, self.hidden_size // self.n_heads))
        self.ffn_size = config.integer("intermediate_size")
        self.vocab_size = config.integer("vocab_size")
        self.context_length = config.integer("max_position_embeddings")
        self.tied = config.flag("tie_word_embeddings", self.ties_by_default)
        self.exact_tokens = self.context_length
        self.notes: list[str] = []

    def plan(self, checkpoint: Checkpoint) -> ConversionPlan:
        """Every tensor and every key of the GGUF, but the tokenizer's.

        Raises ModelRefused when the configuration asks for something unknown, or when a tensor is missing, left over,
        or of another shape than the configuration says; all of them are named.
        """
        self.check()
        rope = self.read_rope()
        tensors = (*self.outer(), *(t for number in range(self.n_layers) for t in self.numbered_layer(number)))
        _match(tensors, checkpoint, self.ignored())
        return ConversionPlan(
            self.gguf_name,
            {**self.hyperparameters(), **rope_metadata(rope, self.gguf_name)},
            tensors,
            self.computed(rope),
            self.exact_tokens,
            tuple(self.notes),
        )

    def check(self) -> None:
        """Raise ModelRefused when the engine's kernels cannot run this configuration as it is."""
        config = self.config
        activation = config.text(self.activation_key, self.activation)
        if activation != self.activation:
            raise config.fault(self.activation_key, activation, repr(self.activation))
        if self.n_heads % self.n_kv_heads:
            raise config.fault("num_key_value_heads", self.n_kv_heads, f"a divisor of {self.n_heads} heads")
        if self.head_dim % 2:
            raise config.fault("head_dim", self.head_dim, "an even number")

    def hyperparameters(self) -> dict[str, Value]:
        """The architecture's own keys."""
        key = self.gguf_name
        return {
            f"{key}.block_count": u32(self.n_layers),
            f"{key}.context_length": u32(self.context_length),
            f"{key}.embedding_length": u32(self.hidden_size),
            f"{key}.feed_forward_length": u32(self.ffn_size),
            f"{key}.attention.head_count": u32(self.n_heads),
            f"{key}.attention.head_count_kv": u32(self.n_kv_heads),
            f"{key}.attention.key_length": u32(self.head_dim),
            f"{key}.attention.value_length": u32(self.head_dim),
            f"{key}.attention.layer_norm_rms_epsilon": f32(self.config.number("rms_norm_eps", 1e-6)),
            f"{key}.rope.dimension_count": u32(self.rotary_dim),
            f"{key}.vocab_size": u32(self.vocab_size),
        }

    @property
    def rotary_dim(self) -> int:
        """Dimensions of a head that positions turn."""
        return self.head_dim

    def read_rope(self) -> Rope:
        """The rotary parameters, with a note where the engine's reach is shorter than the model's."""
        rope = read_rope(self.config, default_theta=self.default_theta)
        if rope.kind == "dynamic":
            self.notes.append(f"dynamic rotary scaling is not applied: exact up to {self.context_length} tokens")
        if rope.kind == "longrope":
            self.notes.append(
                "the engine picks the long rotary factors by the context it is opened with: "
                f"above {rope.original_context} tokens"
            )
        return rope

    def computed(self, rope: Rope) -> tuple[ComputedTensor, ...]:
        """Tensors that follow from the configuration."""
        return rope_tables(rope, self.rotary_dim)

    def outer(self) -> tuple[ConvertedTensor, ...]:
        """The tensors outside the layers."""
        table = (self.vocab_size, self.hidden_size)
        tensors = [
            self.tensor("token_embd.weight", "model.embed_tokens.weight", *table),
            self.norm("output_norm.weight", "model.norm.weight", self.hidden_size),
        ]
        if not self.tied:
            tensors.append(self.tensor("output.weight", "lm_head.weight", *table))
        return tuple(tensors)

    def numbered_layer(self, number: int) -> tuple[ConvertedTensor, ...]:
        """The tensors of one layer, under their full names."""
        return tuple(
            ConvertedTensor(
                f"blk.{number}.{part.name}",
                f"model.layers.{number}.{part.source}",
                part.shape,
                part.role,
                number,
                part.change,
                part.n_heads,
            )
            for part in self.layer()
        )

    def layer(self) -> list[ConvertedTensor]:
        """The tensors of any one layer, names without its number."""
        return [
            self.norm("attn_norm.weight", "input_layernorm.weight", self.hidden_size),
            *self.attention(),
            self.norm("ffn_norm.weight", "post_attention_layernorm.weight", self.hidden_size),
            *self.feed_forward(),
        ]

    def attention(self, *, qkv_bias: bool = False, output_bias: bool = False) -> list[ConvertedTensor]:
        """Projections to query, key, value and back; shapes (out, in)."""
        q_size, kv_size = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        change = Change.INTERLEAVE_HEADS if self.interleaved else Change.NONE
        tensors = []
        for letter, rows, heads in (("q", q_size, self.n_heads), ("k", kv_size, self.n_kv_heads), ("v", kv_size, 0)):
            name, source = f"attn_{letter}", f"self_attn.{letter}_proj"
            how, count = (change, heads) if letter != "v" and self.interleaved else (Change.NONE, 0)
            tensors.append(
                self.tensor(f"{name}.weight", f"{source}.weight", rows, self.hidden_size, change=how, n_heads=count)
            )
            if qkv_bias:
                tensors.append(self.tensor(f"{name}.bias", f"{source}.bias", rows, change=how, n_heads=count))
        tensors.append(self.tensor("attn_output.weight", "self_attn.o_proj.weight", self.hidden_size, q_size))
        if output_bias:
            tensors.append(self.tensor("attn_output.bias", "self_attn.o_proj.bias", self.hidden_size))
        return tensors

    def feed_forward(self, *, bias: bool = False) -> list[ConvertedTensor]:
        """Gate, up and down; shapes (out, in)."""
        sizes = {"gate": (self.ffn_size, self.hidden_size), "up": (self.ffn_size, self.hidden_size)}
        sizes["down"] = (self.hidden_size, self.ffn_size)
        tensors = []
        for part, (rows, columns) in sizes.items():
            tensors.append(self.tensor(f"ffn_{part}.weight", f"mlp.{part}_proj.weight", rows, columns))
            if bias:
                tensors.append(self.tensor(f"ffn_{part}.bias", f"mlp.{part}_proj.bias", rows))
        return tensors

    def norm(self, name: str, source: str, size: int) -> ConvertedTensor:
        """A norm's scale."""
        return self.tensor(name, source, size)

    def tensor(
        self, name: str, source: str, *shape: int, change: Change = Change.NONE, n_heads: int = 0
    ) -> ConvertedTensor:
        """One tensor outside any layer, or a layer's before it has its number."""
        return ConvertedTensor(name, source, shape, role_of(source), None, change, n_heads)

    def ignored(self) -> tuple[str, ...]:
        """Endings of checkpoint tensors that are not converted."""
        return (*_IGNORED, "lm_head.weight") if self.tied else _IGNORED

    def require_full_width(self) -> None:
        """Raise ModelRefused unless heads cover the hidden size, as the engine's graphs of some architectures do."""
        if self.n_heads * self.head_dim != self.hidden_size:
            raise self.config.fault(
                "head_dim", self.head_dim, f"hidden_size / heads = {self.hidden_size / self.n_heads:g}"
            )

    def note_sliding_window(self, window: int | None) -> None:
        """Remember that the engine attends to everything where the original saw a window."""
        if window is not None and window < self.context_length:
            self.exact_tokens = window
            self.notes.append(
                f"sliding-window attention is not applied by the engine here: exact up to {window} tokens of "
                f"{self.context_length}"
            )


def _match(tensors: tuple[ConvertedTensor, ...], checkpoint: Checkpoint, ignored: tuple[str, ...]) -> None:
    """Every planned tensor is there in the planned shape, and nothing is left over."""
    wanted = {tensor.source: tensor for tensor in tensors}
    faults = [f"{name} is missing" for name in wanted if name not in checkpoint.tensors]
    for name, stored in checkpoint.tensors.items():
        if name in wanted:
            faults.extend(_tensor_faults(wanted[name], stored))
        elif not name.endswith(ignored):
            faults.append(f"{name} is not known in this architecture")
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise ModelRefused(
            f"{checkpoint.folder} does not match its config.json: {'; '.join(faults[:5])}{more}.",
            next_step="copy the checkpoint again, or mend its config.json",
        )


def _tensor_faults(wanted: ConvertedTensor, stored: StoredTensor) -> list[str]:
    faults = []
    if stored.shape != wanted.shape:
        faults.append(f"{stored.name} has shape {list(stored.shape)}, the configuration says {list(wanted.shape)}")
    if stored.dtype not in ("F32", "F16", "BF16"):
        faults.append(f"{stored.name} is stored as {stored.dtype}, which is no 16- or 32-bit weight")
    return faults
