"""Rotary position embedding: from a configuration, old style or new, to GGUF metadata and tables.

Sources: transformers' modeling_rope_utils.py (the meaning of each field), llama.cpp's llama-context.cpp (what it
makes of the metadata).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgemed.core.errors import ModelRefused
from edgemed.models.config import ModelConfig
from edgemed.models.gguf_values import Value, f32, text, u32
from edgemed_converters.plan import ComputedTensor

KINDS = ("default", "linear", "yarn", "llama3", "longrope", "dynamic")


@dataclass(frozen=True, slots=True)
class Rope:
    """How positions turn the heads of a model."""

    config: ModelConfig
    kind: str
    theta: float
    fields: Mapping[str, Any]
    """The scaling's own parameters."""

    def number(self, key: str, default: float | None = None) -> float:
        """One positive parameter of the scaling."""
        return ModelConfig({key: self.fields.get(key, default)}, self.config.path).number(key)

    def numbers(self, key: str, count: int) -> list[float]:
        """A list of `count` positive parameters."""
        values = self.fields.get(key)
        if not isinstance(values, list) or len(values) != count:
            raise self.config.fault(f"rope {key}", values and f"{len(values)} values", f"a list of {count} numbers")
        return [ModelConfig({key: value}, self.config.path).number(key) for value in values]

    @property
    def original_context(self) -> int:
        """Positions the model was first trained on."""
        own = self.config.values.get("original_max_position_embeddings")
        inner = self.fields.get("original_max_position_embeddings")
        chosen = own or inner or self.config.integer("max_position_embeddings")
        return ModelConfig(
            {"original": int(chosen) if isinstance(chosen, float) else chosen}, self.config.path
        ).integer("original")


def read_rope(config: ModelConfig, layer_type: str = "", default_theta: float = 10_000.0) -> Rope:
    """The rotary parameters of a configuration; `layer_type` picks one of several (Gemma 3).

    Newer files keep everything in `rope_parameters`, per layer type where there are several; older ones have
    `rope_theta` and `rope_scaling`. Raises ModelRefused for a scaling that is not known.
    """
    fields = dict(config.table("rope_parameters") or config.table("rope_scaling"))
    if layer_type and isinstance(fields.get(layer_type), dict):
        fields = dict(fields[layer_type])
    kind = str(fields.get("rope_type") or fields.get("type") or "default").lower()
    kind = "longrope" if kind == "su" else kind
    if kind not in KINDS:
        raise ModelRefused(
            f"{config.path}: the rotary scaling {kind[:40]!r} is not known. Known: {', '.join(KINDS)}.",
            next_step="export a model with one of these scalings",
        )
    stated = (fields.get("rope_theta"), config.values.get("rope_theta"), default_theta)
    theta = next(value for value in stated if value is not None)
    return Rope(config, kind, ModelConfig({"rope_theta": theta}, config.path).number("rope_theta"), fields)


def rope_metadata(rope: Rope, architecture: str) -> dict[str, Value]:
    """GGUF keys for the rotary base and its scaling."""
    key = f"{architecture}.rope"
    metadata = {f"{key}.freq_base": f32(rope.theta)}
    if rope.kind == "linear":
        metadata |= {f"{key}.scaling.type": text("linear"), f"{key}.scaling.factor": f32(rope.number("factor"))}
    elif rope.kind == "yarn":
        metadata |= _yarn(rope, key)
    elif rope.kind == "longrope":
        metadata |= {
            f"{key}.scaling.type": text("longrope"),
            f"{key}.scaling.original_context_length": u32(rope.original_context),
            f"{key}.scaling.attn_factor": f32(_longrope_attention(rope)),
        }
    return metadata


def rope_tables(rope: Rope, rotary_dim: int) -> tuple[ComputedTensor, ...]:
    """Tables of factors by which frequencies are divided, one per pair of dimensions."""
    if rope.kind == "llama3":
        return (ComputedTensor("rope_freqs.weight", _llama3_factors(rope, rotary_dim)),)
    if rope.kind == "longrope":
        names = (("rope_factors_long.weight", "long_factor"), ("rope_factors_short.weight", "short_factor"))
        return tuple(
            ComputedTensor(name, np.array(rope.numbers(field, rotary_dim // 2), np.float32)) for name, field in names
        )
    return ()


def _yarn(rope: Rope, key: str) -> dict[str, Value]:
    fixed = {"mscale": None, "mscale_all_dim": None, "truncate": True, "beta_fast": 32, "beta_slow": 1}
    for field, value in fixed.items():  # the engine's graphs of these architectures fix them
        if rope.fields.get(field) not in (None, value):
            raise ModelRefused(
                f"{rope.config.path}: YaRN with {field} = {rope.fields[field]!r} cannot be run by the engine.",
                next_step="export a model with plain YaRN scaling",
            )
    factor = rope.number("factor")
    metadata = {
        f"{key}.scaling.type": text("yarn"),
        f"{key}.scaling.factor": f32(factor),
        f"{key}.scaling.original_context_length": u32(rope.original_context),
    }
    if rope.fields.get("attention_factor") is not None:
        # llama.cpp always multiplies by 0.1 ln(factor) + 1; this key multiplies once more.
        own = 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
        metadata[f"{key}.scaling.attn_factor"] = f32(rope.number("attention_factor") / own)
    return metadata


def _longrope_attention(rope: Rope) -> float:
    if rope.fields.get("attention_factor") is not None:
        return rope.number("attention_factor")
    original = rope.original_context
    factor = rope.number("factor", rope.config.integer("max_position_embeddings") / original)
    return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0


def _llama3_factors(rope: Rope, rotary_dim: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Llama 3.1's scaling: long wavelengths divided by `factor`, short ones kept, a ramp between; (rotary_dim / 2,)."""
    factor, low, high = rope.number("factor"), rope.number("low_freq_factor"), rope.number("high_freq_factor")
    if high <= low:
        raise rope.config.fault("high_freq_factor", high, f"more than low_freq_factor, {low}")
    wavelength = 2 * math.pi * rope.theta ** (np.arange(0, rotary_dim, 2, dtype=np.float64) / rotary_dim)
    ramp = np.clip((rope.original_context / wavelength - low) / (high - low), 0.0, 1.0)
    return (1 / ((1 - ramp) / factor + ramp)).astype(np.float32)
