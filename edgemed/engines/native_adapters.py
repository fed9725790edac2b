"""LoRA adapters in llama.cpp (0.3.36): loaded once beside a model, then switched between two steps.

The library's rules: an adapter is loaded before any context is opened, because contexts size their graphs by it; it is
freed with its model; what is set holds for the whole context, so all sequences of a step share it. Setting what is set
already costs nothing. Another one makes the next step reserve its buffers again.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from typing import Any

from edgemed.core.errors import EngineFailed, ModelRefused
from edgemed.engines.base import AdapterFile
from edgemed.models.adapter import check_adapter, check_fits
from edgemed.models.gguf import GgufHeader


class NativeAdapters:
    """The adapters of one loaded model. Give it the context, when there is one, before the first switch."""

    def __init__(self, api: Any, model: Any, files: Sequence[AdapterFile], base: GgufHeader | None) -> None:
        """Loads all; `base` is the model's header. Raises ModelRefused for one that is damaged or does not fit."""
        self._api = api
        self._context: Any = None
        self._current = ""
        self._loaded: Mapping[str, tuple[Any, float]] = {
            file.name: (_load(api, model, file, base), file.scale) for file in files
        }

    @property
    def names(self) -> frozenset[str]:
        """What requests may name, besides "" for the model alone."""
        return frozenset(self._loaded)

    def use_context(self, context: Any) -> None:
        """The context whose steps adapters are switched for."""
        self._context = context

    def switch(self, name: str) -> None:
        """The steps that follow use this adapter; "" none. Raises EngineFailed for an unknown one."""
        if name == self._current:
            return
        if name and name not in self._loaded:
            raise EngineFailed(f"The engine has no adapter {name[:64]!r}.")
        lora, scale = self._loaded[name] if name else (None, 1.0)
        if (code := set_adapter(self._api, self._context, lora, scale)) != 0:
            raise EngineFailed(f"llama.cpp did not take the adapter {name!r} (code {code}).")
        self._current = name


def set_adapter(api: Any, context: Any, lora: Any, scale: float) -> int:
    """Set one adapter on a context, or none (`lora` None); the library's code, 0 for done."""
    n = 0 if lora is None else 1
    pointers = (ctypes.POINTER(ctypes.c_void_p) * 1)(*([] if lora is None else [lora]))
    scales = (ctypes.c_float * 1)(scale)
    code: int = api.llama_set_adapters_lora(context, pointers, n, scales)
    return code


def _load(api: Any, model: Any, file: AdapterFile, base: GgufHeader | None) -> Any:
    checked = check_adapter(file.path)
    if base is not None:
        check_fits(checked, base)
    lora = api.llama_adapter_lora_init(model, os.fsencode(file.path))
    if not lora:
        raise ModelRefused(
            f"llama.cpp could not load the adapter {file.name} ({file.path.name}).",
            next_step="export it again for this model: edgemed export BASE --adapter FOLDER --adapter-mode separate",
        )
    return lora
