"""Llama 1 to 3.x: rotary neighbours, optional biases."""

from __future__ import annotations

from edgemed_converters.decoder import Decoder
from edgemed_converters.plan import ConvertedTensor


class Converter(Decoder):
    """LlamaForCausalLM, also of Llama shape under other names (TinyLlama, SmolLM, DeepSeek-R1-Distill-Llama)."""

    gguf_name = "llama"
    interleaved = True

    def layer(self) -> list[ConvertedTensor]:
        """With biases where the configuration has them."""
        bias = self.config.flag("attention_bias", False)
        return [
            self.norm("attn_norm.weight", "input_layernorm.weight", self.hidden_size),
            *self.attention(qkv_bias=bias, output_bias=bias),
            self.norm("ffn_norm.weight", "post_attention_layernorm.weight", self.hidden_size),
            *self.feed_forward(bias=self.config.flag("mlp_bias", False)),
        ]
