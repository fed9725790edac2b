"""A LoRA adapter as PEFT saves it: adapter_config.json and adapter_model.safetensors, without peft and torch.

    h = W0 x + s B A x        s = alpha / r, or alpha / sqrt(r) with use_rslora (equations 3 and 4)

A (r, in) and B (out, r); ranks and alphas may differ by module (rank_pattern, alpha_pattern). Everything else that
PEFT's LoRA can do, and that neither a merge nor the engine would repeat, is refused by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemed.core.errors import ModelRefused
from edgemed.models.checkpoint import TYPE_OF_DTYPE
from edgemed.models.config import ModelConfig, read_json
from edgemed.models.safetensors import StoredTensor, read_safetensors

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

_PREFIX = "base_model.model."
_HALF = re.compile(r"(.+)\.lora_([AB])(?:\.[A-Za-z0-9_-]{1,64})?\.weight")
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "modules_to_save": ([],),
    "use_dora": (False,),
    "use_qalora": (False,),
    "use_bdlora": (False,),
    "lora_bias": (False,),
    "layer_replication": ([],),
    "trainable_token_indices": ([], {}),
    "target_parameters": ([],),
    "alora_invocation_tokens": ([],),
    "kasa_config": ({},),
    "arrow_config": ({},),
    "monteclora_config": ({},),
    "velora_config": ({},),
}
"""Settings that change what an adapter computes, with the values (besides null) that change nothing."""
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Beginnings of initialisations that take something away from the base's own weights."""
_MAX_PATTERN = 200


@dataclass(frozen=True, slots=True)
class LoraModule:
    """One adapted matrix: W0 + scale * B A."""

    name: str
    """Of the module in the base, such as "model.layers.0.self_attn.q_proj"."""
    a: StoredTensor
    """(rank, in)"""
    b: StoredTensor
    """(out, rank)"""
    rank: int
    scale: float
    """s of the formula."""

    @property
    def source(self) -> str:
        """The base's tensor that it changes."""
        return f"{self.name}.weight"

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in), as the base's tensor must have."""
        return self.b.shape[0], self.a.shape[1]


@dataclass(frozen=True, slots=True)
class LoraFolder:
    """One opened folder; weights are read when asked for."""

    folder: Path
    modules: tuple[LoraModule, ...]
    base_name: str
    """What its configuration calls the base; "" where it does not."""


def open_lora(folder: Path) -> LoraFolder:
    """The adapter in `folder`.

    Raises ModelRefused, naming what it is, for a folder that holds none, damaged files, pickled weights, tensors that
    do not fit together or the configuration, and for kinds of adapters that cannot be carried over exactly.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise ModelRefused(
            f"{folder} is no adapter: it has no {CONFIG_FILE}.",
            next_step="name a folder that peft's save_pretrained made",
        )
    config = ModelConfig(read_json(folder / CONFIG_FILE), folder / CONFIG_FILE)
    faults = _setting_faults(config)
    if not (folder / WEIGHTS_FILE).is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        faults.append(
            "its weights are pickled (adapter_model.bin), and unpickling can run any code; save it again as safetensors"
            if pickled
            else f"it has no {WEIGHTS_FILE}"
        )
    if faults:
        raise _refused(folder, faults)
    modules, faults = _modules(config, read_safetensors(folder / WEIGHTS_FILE))
    if faults:
        raise _refused(folder, faults)
    return LoraFolder(folder, modules, config.text("base_model_name_or_path", ""))


def _setting_faults(config: ModelConfig) -> list[str]:
    values = config.values
    faults = []
    if (kind := values.get("peft_type")) != "LORA":
        faults.append(f"its peft_type is {str(kind)[:40]!r}; LORA is supported")
    for key, neutral in _NEUTRAL.items():
        value = values.get(key)
        if value is not None and value not in neutral:
            faults.append(f"{key} is {str(value)[:60]}, which cannot be carried over")
    start = values.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        faults.append(
            f"init_lora_weights is {start[:40]!r}: it stands on changed weights of the base; convert it first "
            "(peft: save_pretrained with path_initial_model_for_weight_conversion)"
        )
    return faults


def _modules(config: ModelConfig, tensors: Mapping[str, StoredTensor]) -> tuple[tuple[LoraModule, ...], list[str]]:
    halves: dict[str, dict[str, StoredTensor]] = {}
    faults = []
    for name, tensor in tensors.items():
        match = _HALF.fullmatch(name.removeprefix(_PREFIX))
        if match is None:
            faults.append(f"{name[:100]!r} is no half of a LoRA module")
        elif match[2] in halves.setdefault(match[1], {}):
            faults.append(f"{match[1][:100]} has two of one half: one adapter is wanted")
        else:
            halves[match[1]][match[2]] = tensor
    found = []
    for name in sorted(halves):
        if len(halves[name]) < 2:
            faults.append(f"{name[:100]} has only one half")
            continue
        module = _module(config, name, halves[name]["A"], halves[name]["B"], faults)
        if module is not None:
            found.append(module)
    if not halves and not faults:
        faults.append("it holds no LoRA module")
    return tuple(found), faults


def _module(config: ModelConfig, name: str, a: StoredTensor, b: StoredTensor, faults: list[str]) -> LoraModule | None:
    rank = int(_of_module(config, "rank_pattern", name, config.integer("r")))
    alpha = _of_module(config, "alpha_pattern", name, config.number("lora_alpha"))
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != rank or b.shape[1] != rank:
        faults.append(
            f"{name[:100]}: A is {list(a.shape)} and B is {list(b.shape)}, the configuration says rank {rank}"
        )
        return None
    if wrong := {half.dtype for half in (a, b)} - TYPE_OF_DTYPE.keys():
        faults.append(f"{name[:100]} is stored as {', '.join(sorted(wrong))}; {', '.join(TYPE_OF_DTYPE)} are read")
        return None
    scale = alpha / math.sqrt(rank) if config.flag("use_rslora", False) else alpha / rank
    return LoraModule(name, a, b, rank, scale)


def _of_module(config: ModelConfig, key: str, name: str, default: float) -> float:
    """The value of the first pattern that a module's name ends with, as PEFT finds it; `default` without one."""
    for pattern, value in config.table(key).items():
        try:
            fits = len(pattern) <= _MAX_PATTERN and re.fullmatch(rf"(.*\.)?({pattern})", name)
        except re.error as error:
            raise config.fault(key, pattern, "regular expressions") from error
        if fits:
            return ModelConfig({key: value}, config.path).number(key)
    return default


def _refused(folder: Path, faults: list[str]) -> ModelRefused:
    more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
    return ModelRefused(
        f"{folder} cannot be used: {'; '.join(faults[:5])}{more}.",
        next_step="train or save the adapter as plain LoRA on the attention and feed-forward projections",
    )
