"""Gemma 3, text: four norms per layer stored less one, local and global layers with their own rotary base."""

from __future__ import annotations

import math

from edgemed.models.config import ModelConfig
from edgemed.models.gguf_values import Value, f32, flag_array, u32
from edgemed_converters.decoder import Decoder
from edgemed_converters.plan import Change, ConvertedTensor
from edgemed_converters.rope import Rope, read_rope

_PATTERN = 6
"""Every sixth layer is global where the configuration does not list the layers."""

_LAYERS_OF_27B = 62
"""llama.cpp knows the 27B by this number and scales its attention by hidden_size / heads instead of head_dim."""


class Converter(Decoder):
    """Gemma3ForCausalLM."""

    gguf_name = "gemma3"
    activation = "gelu_pytorch_tanh"
    activation_key = "hidden_activation"
    ties_by_default = True
    default_theta = 1_000_000.0

    def check(self) -> None:
        """The engine fixes the attention scale and has no soft cap on attention."""
        super().check()
        config = self.config
        expected = self.hidden_size // self.n_heads if self.n_layers == _LAYERS_OF_27B else self.head_dim
        scale = config.number("query_pre_attn_scalar", 256)
        if not math.isclose(scale, expected):
            raise config.fault("query_pre_attn_scalar", scale, f"{expected}, as the engine fixes it")
        if config.values.get("attn_logit_softcapping") is not None:
            raise config.fault("attn_logit_softcapping", config.values["attn_logit_softcapping"], "absent")
        if config.flag("attention_bias", False) or config.flag("use_bidirectional_attention", False):
            raise config.fault("attention_bias or use_bidirectional_attention", True, "false")

    def hyperparameters(self) -> dict[str, Value]:
        """Sliding window, which layers have it, and the local layers' rotary base."""
        key = self.gguf_name
        metadata = super().hyperparameters()
        sliding = self._sliding_layers()
        if any(sliding):
            metadata[f"{key}.attention.sliding_window"] = u32(self.config.integer("sliding_window", 4096))
            metadata[f"{key}.attention.sliding_window_pattern"] = flag_array(sliding)
            metadata[f"{key}.rope.freq_base_swa"] = f32(self._local_theta())
        if self.config.values.get("final_logit_softcapping") is not None:
            metadata[f"{key}.final_logit_softcapping"] = f32(self.config.number("final_logit_softcapping"))
        return metadata

    def read_rope(self) -> Rope:
        """The global layers' rotary parameters."""
        return read_rope(self.config, "full_attention", self.default_theta)

    def layer(self) -> list[ConvertedTensor]:
        """Norms before and after both halves of a layer."""
        size = self.hidden_size
        return [
            self.norm("attn_norm.weight", "input_layernorm.weight", size),
            *self.attention(),
            self.norm("attn_q_norm.weight", "self_attn.q_norm.weight", self.head_dim),
            self.norm("attn_k_norm.weight", "self_attn.k_norm.weight", self.head_dim),
            self.norm("post_attention_norm.weight", "post_attention_layernorm.weight", size),
            self.norm("ffn_norm.weight", "pre_feedforward_layernorm.weight", size),
            *self.feed_forward(),
            self.norm("post_ffw_norm.weight", "post_feedforward_layernorm.weight", size),
        ]

    def norm(self, name: str, source: str, size: int) -> ConvertedTensor:
        """Gemma multiplies by 1 + weight; the engine by the weight."""
        return self.tensor(name, source, size, change=Change.ADD_ONE)

    def _local_theta(self) -> float:
        """Rotary base of the layers with a window; older configurations have a key of its own for it."""
        local = self.config.table("rope_parameters").get("sliding_attention")
        if isinstance(local, dict) and local.get("rope_theta") is not None:
            return ModelConfig(local, self.config.path).number("rope_theta")
        return self.config.number("rope_local_base_freq", 10_000.0)

    def _sliding_layers(self) -> list[bool]:
        kinds = self.config.values.get("layer_types")
        if kinds is None:
            pattern = self.config.integer("sliding_window_pattern", _PATTERN)
            return [(number + 1) % pattern != 0 for number in range(self.n_layers)]
        known = {"sliding_attention": True, "full_attention": False}
        if not isinstance(kinds, list) or len(kinds) != self.n_layers or not all(kind in known for kind in kinds):
            raise self.config.fault("layer_types", kinds, f"{self.n_layers} of {', '.join(known)}")
        return [known[kind] for kind in kinds]
