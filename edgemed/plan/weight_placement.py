"""Where llama.cpp puts each weight of a model, by its own rule (`llama_model::load_tensors`).

Of n_gpu_layers the head is the first, then come the last layers; several GPUs share them in turn. The embedding stays
in main memory, and `tensor_places` go before everything.
"""

from __future__ import annotations

import ctypes
import platform
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgemed.core.tensor_types import Role
from edgemed.engines.base import EngineConfig
from edgemed.engines.memory_breakdown import RAM
from edgemed.models.spec import ModelSpec, TensorSpec

CPU = "CPU"
"""The engine's name of the device whose memory is the main memory."""
_REPACKED = frozenset({"q4_0", "q4_k", "iq4_nl", "mxfp4", "q2_k"})
_REPACKED_ON_ARM = _REPACKED | {"q5_k", "q6_k", "q8_0"}
"""Types whose kernels want another order of bytes (ggml-cpu/repack.cpp); the embedding then stays a second time."""
_WIDE: frozenset[Role] = frozenset(("ffn_gate", "ffn_up", "ffn_gate_up"))


@dataclass(frozen=True, slots=True)
class WeightPlacement:
    """Where everything lies."""

    layers: tuple[str, ...]
    """By layer: where it runs and its part of the KV cache lies."""
    head: str
    """Where the head multiplies."""
    tensors: tuple[tuple[TensorSpec, str], ...]
    """In the file's order; a tied embedding that lies somewhere a second time stands twice."""

    def places(self) -> tuple[str, ...]:
        """Every place that holds something; main memory first."""
        return tuple(dict.fromkeys((RAM, *self.layers, self.head, *(place for _, place in self.tensors))))

    def weight_bytes(self, place: str) -> int:
        """Bytes of the weights in one place."""
        return sum(tensor.n_bytes for tensor, where in self.tensors if where == place)

    def holds(self, place: str, roles: frozenset[Role]) -> bool:
        """Whether weights of these roles lie there."""
        return any(where == place and one.role in roles for one, where in self.tensors)

    def feed_forward(self, place: str, layers: range) -> tuple[set[int], set[int]]:
        """Those of `layers` whose feed-forward is widened (gate, up) there, and those where it is narrowed (down)."""
        here = [one for one, where in self.tensors if where == place and one.layer in layers]
        wide = {one.layer for one in here if one.layer is not None and one.role in _WIDE}
        return wide, {one.layer for one in here if one.layer is not None and one.role == "ffn_down"}


def place_weights(spec: ModelSpec, config: EngineConfig, gpus: Sequence[str] = ()) -> WeightPlacement:
    """Where llama.cpp puts each tensor: by layer, the head with the last ones; named places go before that."""
    layers, last = layer_places(spec, config, gpus)
    head = last
    tensors = []
    for tensor in spec.tensors:
        usual = RAM if tensor.role == "embedding" else last if tensor.layer is None else layers[tensor.layer]
        place = named_place(tensor, config) or usual
        tensors.append((tensor, place))
        head = place if tensor.role == "head" else head
        if tensor.role == "embedding" and spec.tied_embeddings:
            # Rows are looked up in main memory; the head multiplies where it is, in the order its kernels want.
            again = head = named_place(tensor, config) or last
            if again != place or (again == RAM and is_repacked(tensor)):
                tensors.append((tensor, again))
    return WeightPlacement(layers, head, tuple(tensors))


def layer_places(
    spec: ModelSpec, config: EngineConfig, gpus: Sequence[str] = (), free_bytes: Mapping[str, float] | None = None
) -> tuple[tuple[str, ...], str]:
    """The place of each layer, and the head's. The last layers go to the GPUs, each taking its share of them in turn.

    Without shares they take as much as `free_bytes` says; where that is not known either, each as many as the next.
    """
    devices = config.devices or tuple(gpus)
    offloaded = min(config.n_gpu_layers, spec.n_layers + 1) if devices else 0
    first = spec.n_layers + 1 - offloaded
    free = free_bytes or {}
    shares = config.device_shares[: len(devices)] or [free.get(name, 1.0) for name in devices]
    shares = (*shares, *(0.0,) * (len(devices) - len(shares)))
    # float32 as in llama.cpp: at a boundary the rounding decides
    sums = [_f32(sum(shares[: n + 1])) for n in range(len(devices))]
    bounds = [_f32(part / sums[-1]) for part in sums]
    found = [RAM] * first
    for number in range(offloaded):
        found.append(devices[min(bisect_right(bounds, _f32(number / offloaded)), len(devices) - 1)])
    return tuple(found[:-1]), found[-1]


def device_of_place(place: str) -> str:
    """The device that works on what lies in a place."""
    return CPU if place == RAM else place


def _f32(value: float) -> float:
    return ctypes.c_float(value).value


def named_place(tensor: TensorSpec, config: EngineConfig) -> str:
    """Where `tensor_places` puts it; "" where none of them names it."""
    for place in config.tensor_places:
        if re.search(place.pattern, tensor.name):
            return RAM if place.device == CPU else place.device
    return ""


def is_repacked(tensor: TensorSpec) -> bool:
    """Whether this processor's kernels want its bytes in another order."""
    repacked = _REPACKED_ON_ARM if platform.machine().lower() in ("aarch64", "arm64") else _REPACKED
    return len(tensor.shape) == 2 and tensor.type in repacked
