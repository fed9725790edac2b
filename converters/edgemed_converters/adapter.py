"""A PEFT adapter for the engine: which matrices of the base's GGUF it changes, and how its rows have to stand.

Where a base's rows change places on the way (q and k of Llama's), those of B do as well: P W + s P B A = P (W + s B A).
The engine knows one alpha for all: s = alpha / rank. Modules with another s have the rest multiplied into B.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from edgemed.core.errors import ModelRefused
from edgemed.models.adapter import MAX_RANK
from edgemed.models.lora_folder import LoraFolder, LoraModule
from edgemed_converters.plan import ConversionPlan, ConvertedTensor

_ADAPTED = frozenset(
    (
        "attention_q",
        "attention_k",
        "attention_v",
        "attention_qkv",
        "attention_output",
        "ffn_gate",
        "ffn_up",
        "ffn_gate_up",
        "ffn_down",
    )
)


@dataclass(frozen=True, slots=True)
class AdaptedTensor:
    """One matrix of the base's GGUF and the module that changes it."""

    base: ConvertedTensor
    module: LoraModule
    factor: float
    """What B is multiplied with, so that the engine's scale is the module's."""


@dataclass(frozen=True, slots=True)
class AdapterPlan:
    """Everything to be written for the engine."""

    architecture: str
    alpha: float
    tensors: tuple[AdaptedTensor, ...]


def plan_adapter(adapter: LoraFolder, conversion: ConversionPlan) -> AdapterPlan:
    """The adapter on the base of `conversion`, in the base's order.

    Raises ModelRefused, with the numbers, when the base lacks a module or has it in another size, and when a module is
    none of the attention's and feed-forward's projections.
    """
    bases = {tensor.source: tensor for tensor in conversion.tensors}
    faults = [fault for module in adapter.modules for fault in _faults(module, bases.get(module.source))]
    if faults:
        more = f"; and {len(faults) - 4} more" if len(faults) > 4 else ""
        named = f" (its configuration names {adapter.base_name[:100]!r})" if adapter.base_name else ""
        raise ModelRefused(
            f"{adapter.folder} was made for another base{named}: {'; '.join(faults[:4])}{more}.",
            next_step="give the checkpoint that it was trained on",
        )
    alphas = Counter(_alpha(module) for module in adapter.modules)
    alpha = alphas.most_common(1)[0][0]
    modules = {module.source: module for module in adapter.modules}
    tensors = (
        AdaptedTensor(base, modules[source], _alpha(modules[source]) / alpha)
        for source, base in bases.items()
        if source in modules
    )
    return AdapterPlan(conversion.architecture, alpha, tuple(tensors))


def _alpha(module: LoraModule) -> float:
    """What the engine's alpha / rank has to be made of; rounded, so that equal ones stay equal."""
    return float(f"{module.scale * module.rank:.12g}")


def _faults(module: LoraModule, base: ConvertedTensor | None) -> list[str]:
    if base is None:
        return [f"the base has no {module.name[:100]}"]
    if base.role not in _ADAPTED:
        return [f"{module.name[:100]} is no projection of attention or feed-forward"]
    if base.shape != module.shape:
        shapes = [" x ".join(map(str, shape)) for shape in (module.shape, base.shape)]
        return [f"{module.name[:100]} is {shapes[0]} in the adapter and {shapes[1]} in the base"]
    if module.rank > MAX_RANK:
        return [f"{module.name[:100]} has rank {module.rank}; at most {MAX_RANK}"]
    return []
