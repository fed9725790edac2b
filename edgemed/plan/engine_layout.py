"""A layout in llama.cpp's own terms: GPU layers, shares of devices, and the weights that lie apart from their layer.

llama.cpp counts GPU layers from the end: the head is the first of them, then the last layers. They go to the devices in
order, by shares; whole numbers of layers as shares give exactly those (llama-model.cpp, load_tensors: the position of a
layer, divided by their number, against the running sum of shares, divided by theirs). The KV cache of a layer lies with
its layer; single weights are moved by patterns of their names.
"""

from __future__ import annotations

from collections.abc import Iterable

from edgemed.engines.base import EngineConfig, TensorPlace
from edgemed.engines.memory_breakdown import RAM
from edgemed.models.spec import ModelSpec
from edgemed.plan.placement import LayerPlaces, LayerUnit, Layout
from edgemed.plan.weight_placement import CPU, device_of_place

_NAMES: dict[tuple[LayerUnit, ...], str] = {
    ("gate_up", "down"): "(gate|up|down)",
    ("gate_up",): "(gate|up)",
    ("down",): "down",
}


def to_engine_config(layout: Layout, spec: ModelSpec, base: EngineConfig) -> EngineConfig:
    """`base` with the layout: `n_gpu_layers`, `devices`, `device_shares` and `tensor_places`.

    Formats are not part of it: the file has them. Raises ValueError for a layout of another number of layers.
    """
    if len(layout.layers) != spec.n_layers:
        raise ValueError(f"a layout of {len(layout.layers)} layers for a model of {spec.n_layers}")
    ranges = layout.ranges
    shares = [float(count) for _, count in ranges]
    if shares:
        shares[-1] += 1  # the head's place, which the final norm keeps where the head is moved away
    homes = [device for device, _ in ranges]
    used = {placed.device for places in layout.layers for _, placed in places.units} - {RAM}
    others = sorted(used - set(homes))
    devices = (*homes, *others)
    return base.model_copy(
        update={
            "n_gpu_layers": int(sum(shares)),
            "devices": devices,
            "device_shares": (*shares, *(0.0 for _ in others)) if len(devices) > 1 and homes else (),
            "tensor_places": tuple(_places(layout, spec)),
        }
    )


def _places(layout: Layout, spec: ModelSpec) -> Iterable[TensorPlace]:
    """One pattern for each device and kind of weight that lies there and not with its layer."""
    moved: dict[tuple[str, tuple[LayerUnit, ...]], list[int]] = {}
    for number, places in enumerate(layout.layers):
        for device in {placed.device for _, placed in places.units}:
            if units := _moved_units(places, device):
                moved.setdefault((device, units), []).append(number)
    for (device, units), layers in sorted(moved.items()):
        numbers = layer_pattern(layers)
        numbers = f"({numbers})" if "|" in numbers else numbers
        yield TensorPlace(pattern=rf"^blk\.{numbers}\.ffn_{_NAMES[units]}\.", device=device_of_place(device))
    if layout.head.device == RAM and layout.ranges:
        name = "token_embd" if spec.tied_embeddings else "output"
        yield TensorPlace(pattern=rf"^{name}\.weight$", device=CPU)


def _moved_units(places: LayerPlaces, device: str) -> tuple[LayerUnit, ...]:
    """The units of a layer that lie on `device` although the layer's home is another."""
    if places.attention.device == device:
        return ()
    return tuple(unit for unit, placed in places.units if placed.device == device)


def layer_pattern(numbers: Iterable[int]) -> str:
    """A regular expression that matches exactly these numbers, shorter than naming each: "[5-9]|1[0-7]"."""
    lengths: dict[int, set[str]] = {}
    for text in map(str, numbers):
        lengths.setdefault(len(text), set()).add(text)
    return "|".join(part for _, texts in sorted(lengths.items()) for part in _alternatives(texts))


def _alternatives(texts: set[str]) -> list[str]:
    """For numbers of equally many digits: those that share their last digits become one alternative."""
    if "" in texts:
        return [""]
    last: dict[str, set[str]] = {}
    for text in texts:
        last.setdefault(text[:-1], set()).add(text[-1])
    alike: dict[tuple[str, ...], set[str]] = {}
    for prefix, digits in last.items():
        alike.setdefault(tuple(sorted(digits)), set()).add(prefix)
    found = [prefix + _digits(digits) for digits, prefixes in alike.items() for prefix in _alternatives(prefixes)]
    return sorted(found)


def _digits(digits: tuple[str, ...]) -> str:
    """One digit of several: "7", "[0-3]", "[0-357]"."""
    if len(digits) == 1:
        return digits[0]
    runs: list[list[int]] = []
    for digit in map(int, digits):
        if runs and digit == runs[-1][-1] + 1:
            runs[-1].append(digit)
        else:
            runs.append([digit])
    parts = (f"{run[0]}-{run[-1]}" if len(run) > 2 else "".join(map(str, run)) for run in runs)
    return f"[{''.join(parts)}]"
