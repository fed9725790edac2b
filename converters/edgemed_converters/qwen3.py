"""Qwen3: norms on each head's query and key, no biases."""

from __future__ import annotations

from edgemed_converters.decoder import Decoder
from edgemed_converters.plan import ConvertedTensor


class Converter(Decoder):
    """Qwen3ForCausalLM."""

    gguf_name = "qwen3"

    def check(self) -> None:
        """Biases and sliding windows are options of the configuration that the engine's graph lacks."""
        super().check()
        if self.config.flag("attention_bias", False):
            raise self.config.fault("attention_bias", True, "false: the engine's graph has no such bias")
        if self.config.flag("use_sliding_window", False):
            self.note_sliding_window(self.config.integer("sliding_window", self.context_length))

    def attention(self, *, qkv_bias: bool = False, output_bias: bool = False) -> list[ConvertedTensor]:
        """With a norm of size head_dim for query and key."""
        return [
            *super().attention(qkv_bias=qkv_bias, output_bias=output_bias),
            self.norm("attn_q_norm.weight", "self_attn.q_norm.weight", self.head_dim),
            self.norm("attn_k_norm.weight", "self_attn.k_norm.weight", self.head_dim),
        ]
