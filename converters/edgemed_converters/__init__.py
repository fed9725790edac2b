"""Checkpoint to GGUF, one file per architecture; only the one that is asked for is imported."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from edgemed.core.errors import ModelRefused
from edgemed.models.checkpoint import Checkpoint
from edgemed_converters.decoder import Decoder

ARCHITECTURES: Mapping[str, str] = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Gemma3ForCausalLM": "gemma3",
    "Phi3ForCausalLM": "phi3",
}
"""Model class in `config.json` to the file of this package that converts it."""


def converter_for(checkpoint: Checkpoint) -> Decoder:
    """The converter of a checkpoint's architecture. Raises ModelRefused for an unknown one, with the known."""
    config = checkpoint.config
    module = next((ARCHITECTURES[name] for name in config.classes if name in ARCHITECTURES), None)
    if module is None:
        named = ", ".join(config.classes) or config.model_type or "none named"
        raise ModelRefused(
            f"{config.path}: the architecture {named[:120]!r} is not known. Known: {', '.join(ARCHITECTURES)}.",
            next_step="export a model of one of these architectures",
        )
    converter: type[Decoder] = import_module(f"edgemed_converters.{module}").Converter
    return converter(config)
