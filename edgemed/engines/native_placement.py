"""Tells llama.cpp which device each weight goes to, through the structures of its C interface."""

from __future__ import annotations

import ctypes
from typing import Any

from edgemed.engines.base import EngineConfig
from edgemed.engines.native_library import DeviceList


class _Override(ctypes.Structure):
    """llama_model_tensor_buft_override, llama.h."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p))


def place_weights(api: Any, config: EngineConfig, parameters: Any) -> None:
    """Fill in devices, shares and overrides of `llama_model_params`, and tie what they point to to its life.

    Raises EngineFailed for a device that the engine does not have.
    """
    devices = DeviceList(api)
    kept: list[Any] = []
    if config.devices:
        pointers = [devices.pointer(name) for name in config.devices]
        array = (ctypes.c_void_p * (len(pointers) + 1))(*pointers, None)
        parameters.devices = ctypes.cast(array, ctypes.c_void_p)
        kept.append(array)
    if config.device_shares:
        shares = (ctypes.c_float * max(int(api.llama_max_devices()), len(config.device_shares)))(*config.device_shares)
        parameters.tensor_split = ctypes.cast(shares, ctypes.POINTER(ctypes.c_float))
        kept.append(shares)
    if config.tensor_places:
        rows = [_Override(place.pattern.encode(), devices.buffer_type(place.device)) for place in config.tensor_places]
        overrides = (_Override * (len(rows) + 1))(*rows)  # ends with a row of null pointers
        parameters.tensor_buft_overrides = ctypes.cast(overrides, ctypes.c_void_p)
        kept.append((overrides, rows))
    parameters.kept_alive = kept
