"""Mistral: the engine's Llama graph, which has no sliding window."""

from __future__ import annotations

from edgemed_converters.decoder import Decoder


class Converter(Decoder):
    """MistralForCausalLM."""

    gguf_name = "llama"
    interleaved = True

    def check(self) -> None:
        """Also notes the sliding window of the first release."""
        super().check()
        if self.config.values.get("sliding_window") is not None:
            self.note_sliding_window(self.config.integer("sliding_window"))
