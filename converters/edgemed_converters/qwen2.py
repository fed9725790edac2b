"""Qwen2 and Qwen2.5, also DeepSeek-R1-Distill-Qwen: biases on query, key and value."""

from __future__ import annotations

from edgemed_converters.decoder import Decoder
from edgemed_converters.plan import ConvertedTensor


class Converter(Decoder):
    """Qwen2ForCausalLM."""

    gguf_name = "qwen2"

    def check(self) -> None:
        """The engine's graph has heads as wide as the hidden size allows, and no sliding window."""
        super().check()
        self.require_full_width()
        if self.config.flag("use_sliding_window", False):
            self.note_sliding_window(self.config.integer("sliding_window", self.context_length))

    def attention(self, *, qkv_bias: bool = True, output_bias: bool = False) -> list[ConvertedTensor]:
        """Query, key and value always have a bias."""
        return super().attention(qkv_bias=qkv_bias, output_bias=output_bias)
