"""Phi-3 and Phi-4-mini: query, key and value in one matrix, gate and up in another, partly turned heads."""

from __future__ import annotations

from edgemed.models.config import ModelConfig
from edgemed.models.gguf_values import Value, u32
from edgemed_converters.decoder import Decoder
from edgemed_converters.plan import ConvertedTensor
from edgemed_converters.rope import Rope


class Converter(Decoder):
    """Phi3ForCausalLM."""

    gguf_name = "phi3"

    def check(self) -> None:
        """The engine's graph has heads as wide as the hidden size allows, and no sliding window."""
        super().check()
        self.require_full_width()
        if self.config.values.get("sliding_window") is not None:
            self.note_sliding_window(self.config.integer("sliding_window"))

    def hyperparameters(self) -> dict[str, Value]:
        """A sliding window of 0 tells the engine that there is none."""
        return {**super().hyperparameters(), f"{self.gguf_name}.attention.sliding_window": u32(0)}

    @property
    def rotary_dim(self) -> int:
        """Only the first part of each head is turned in Phi-4-mini."""
        fields = self.config.table("rope_parameters")
        part = fields.get("partial_rotary_factor") or self.config.values.get("partial_rotary_factor") or 1.0
        return int(
            ModelConfig({"partial_rotary_factor": part}, self.config.path).number("partial_rotary_factor")
            * self.head_dim
        )

    def read_rope(self) -> Rope:
        """Early releases say "yarn" and mean the per-dimension factors."""
        rope = super().read_rope()
        if rope.kind == "yarn":
            return Rope(rope.config, "longrope", rope.theta, rope.fields)
        return rope

    def attention(self, *, qkv_bias: bool = False, output_bias: bool = False) -> list[ConvertedTensor]:  # noqa: ARG002
        """Query, key and value stacked: (n_heads + 2 * n_kv_heads) * head_dim rows."""
        rows = (self.n_heads + 2 * self.n_kv_heads) * self.head_dim
        return [
            self.tensor("attn_qkv.weight", "self_attn.qkv_proj.weight", rows, self.hidden_size),
            self.tensor(
                "attn_output.weight", "self_attn.o_proj.weight", self.hidden_size, self.n_heads * self.head_dim
            ),
        ]

    def feed_forward(self, *, bias: bool = False) -> list[ConvertedTensor]:  # noqa: ARG002
        """Gate and up stacked, as the engine has them too."""
        return [
            self.tensor("ffn_up.weight", "mlp.gate_up_proj.weight", 2 * self.ffn_size, self.hidden_size),
            self.tensor("ffn_down.weight", "mlp.down_proj.weight", self.hidden_size, self.ffn_size),
        ]
