"""The placement problem of one model, from its tensors and plain tables of costs.

Dense decoders: every weight of a unit is read once for each token. Layers whose units cost the same are one class; a
mix of formats between layers makes several.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from edgemed.core.records import Record
from edgemed.core.tensor_types import BY_NAME, Role
from edgemed.engines.memory_breakdown import RAM
from edgemed.models.spec import ModelSpec, TensorSpec
from edgemed.plan.placement import (
    LAYER_UNITS,
    Choice,
    Crossing,
    DeviceLimit,
    LayerClass,
    PlacementProblem,
    Unit,
)

SecondsPerByte = Callable[[str, str], float | None] | Mapping[tuple[str, str], float]
"""Of weights by (device, format), for one token; None, or no entry, where the device does not run the format."""

_FFN_NAME = re.compile(r"blk\.\d+\.ffn_(gate|up|down)\.")
_ROLE_UNITS: dict[Role, Unit] = {
    "ffn_gate": "gate_up",
    "ffn_up": "gate_up",
    "ffn_gate_up": "gate_up",
    "ffn_down": "down",
    "head": "head",
}
_SMALL: frozenset[Role] = frozenset({"norm", "bias", "rope"})
"""Stored as they are, whatever the format, and read in no time worth counting."""


@dataclass(frozen=True, slots=True)
class PlacementCosts:
    """What the machine's part of the problem is made of."""

    devices: tuple[DeviceLimit, ...]
    """RAM among them; overheads without weights and KV cache, and without the embedding."""
    seconds_per_byte: SecondsPerByte
    kv_bytes: Mapping[str, int] | int = 0
    """KV cache of one layer, all slots together."""
    kv_s: Mapping[str, float] = field(default_factory=dict)
    """Seconds that one layer's attention takes to read its KV cache for one token, by device."""
    unit_s: Mapping[str, float] = field(default_factory=dict)
    """Seconds that any unit takes on top, by device: its kernels' start."""
    crossings: tuple[Crossing, ...] = ()
    repacked: frozenset[str] = frozenset()
    """Formats that the CPU keeps in another order: of a tied embedding it then holds two copies."""

    def read_s(self, device: str, format_name: str, n_bytes: int) -> float | None:
        """Seconds to read weights once; None where the device does not run the format."""
        if callable(self.seconds_per_byte):
            each = self.seconds_per_byte(device, format_name)
        else:
            each = self.seconds_per_byte.get((device, format_name))
        return None if each is None else each * n_bytes

    def kv_bytes_on(self, device: str) -> int:
        """Bytes of one layer's KV cache there."""
        return self.kv_bytes if isinstance(self.kv_bytes, int) else self.kv_bytes[device]


class Candidate(Record):
    """One format that a unit may get."""

    layer: int | None
    """None for the head."""
    unit: Unit
    format: str
    n_bytes: int
    """Of all its tensors, small ones included."""
    error: float
    """What quality loses by it; adds up over units."""


@dataclass(frozen=True, slots=True)
class _Form:
    """One unit in one format: bytes by the type they are read in, and those of small tensors."""

    format: str
    read_bytes: tuple[tuple[str, int], ...]
    small_bytes: int = 0
    error: float = 0.0

    @property
    def n_bytes(self) -> int:
        return sum(n_bytes for _, n_bytes in self.read_bytes) + self.small_bytes


def placement_problem(
    spec: ModelSpec,
    costs: PlacementCosts,
    candidates: Sequence[Candidate] = (),
    error_budget: float | None = None,
) -> PlacementProblem:
    """The problem of placing `spec`'s units.

    A unit with `candidates` gets one of their formats, any other keeps its own. Raises ValueError for a model without
    a unit's tensors.
    """
    tensors = _by_unit(spec)
    forms = _forms(tensors, candidates)
    classes: dict[tuple[Choice, ...], list[int]] = {}
    for layer in range(spec.n_layers):
        choices: list[Choice] = []
        for unit in LAYER_UNITS:
            choices += _choices(unit, forms[layer, unit], costs)
        classes.setdefault(tuple(choices), []).append(layer)
    head = forms.get((None, "head")) or [_tied_form(spec)]
    return PlacementProblem(
        classes=tuple(
            LayerClass(name=_class_name(layers), layers=tuple(layers), choices=choices)
            for choices, layers in classes.items()
        ),
        head=tuple(_head_choices(head, costs, tied=spec.tied_embeddings)),
        devices=tuple(_with_fixed(spec, costs.devices)),
        crossings=costs.crossings,
        final_bytes=sum(t.n_bytes for t in spec.tensors if t.layer is None and t.role in ("norm", "bias")),
        error_budget=error_budget,
    )


def format_candidates(
    spec: ModelSpec, formats: Sequence[str], error: Callable[[int | None, Unit, str], float]
) -> list[Candidate]:
    """Every unit in every format whose blocks fit its rows, with the bytes that its tensors would take.

    The head of a tied embedding keeps its format: the embedding in RAM is the same tensor.
    """
    found = []
    for (layer, unit), tensors in _by_unit(spec).items():
        for name in formats:
            if any(t.role not in _SMALL and t.shape[-1] % BY_NAME[name].block_size for t in tensors):
                continue
            n_bytes = sum(t.n_bytes if t.role in _SMALL else _bytes_as(t, name) for t in tensors)
            found.append(
                Candidate(layer=layer, unit=unit, format=name, n_bytes=n_bytes, error=error(layer, unit, name))
            )
    return found


def unit_of(tensor: TensorSpec) -> Unit | None:
    """The unit a tensor belongs to; None for what has its fixed place outside the layers.

    Of a layer, what is no part of gate, up or down lies where the attention does: norms, and biases of attention.
    """
    if tensor.layer is None:
        return "head" if tensor.role == "head" else None
    if match := _FFN_NAME.match(tensor.name):
        return "down" if match[1] == "down" else "gate_up"
    return _ROLE_UNITS.get(tensor.role, "attention")


def _by_unit(spec: ModelSpec) -> dict[tuple[int | None, Unit], list[TensorSpec]]:
    found: dict[tuple[int | None, Unit], list[TensorSpec]] = {}
    for tensor in spec.tensors:
        if unit := unit_of(tensor):
            found.setdefault((tensor.layer, unit), []).append(tensor)
    missing = [f"{unit} of layer {n}" for n in range(spec.n_layers) for unit in LAYER_UNITS if (n, unit) not in found]
    if not spec.tied_embeddings and (None, "head") not in found:
        missing.append("the head")
    if missing:
        raise ValueError(f"{spec.architecture} has no tensors for {', '.join(missing[:5])}")
    return found


def _forms(
    tensors: Mapping[tuple[int | None, Unit], Sequence[TensorSpec]], candidates: Iterable[Candidate]
) -> dict[tuple[int | None, Unit], list[_Form]]:
    """The formats of each unit: its candidates', else its own."""
    offered: dict[tuple[int | None, Unit], list[_Form]] = {}
    small = {key: sum(t.n_bytes for t in unit if t.role in _SMALL) for key, unit in tensors.items()}
    for candidate in candidates:
        key = candidate.layer, candidate.unit
        if key not in tensors:
            raise ValueError(f"there is no {candidate.unit} of layer {candidate.layer} to give a format to")
        read = ((candidate.format, candidate.n_bytes - small[key]),)
        offered.setdefault(key, []).append(_Form(candidate.format, read, small[key], candidate.error))
    return {key: offered.get(key) or [_own_form(unit)] for key, unit in tensors.items()}


def _own_form(tensors: Sequence[TensorSpec]) -> _Form:
    read: dict[str, int] = {}
    for tensor in tensors:
        if tensor.role not in _SMALL:
            read[tensor.type] = read.get(tensor.type, 0) + tensor.n_bytes
    small = sum(tensor.n_bytes for tensor in tensors if tensor.role in _SMALL)
    return _Form("+".join(sorted(read)), tuple(sorted(read.items())), small)


def _tied_form(spec: ModelSpec) -> _Form:
    return _own_form([tensor for tensor in spec.tensors if tensor.role == "embedding"])


def _choices(unit: Unit, forms: Iterable[_Form], costs: PlacementCosts) -> Iterable[Choice]:
    for form in forms:
        for limit in costs.devices:
            parts = [costs.read_s(limit.device, name, n_bytes) for name, n_bytes in form.read_bytes]
            known = [part for part in parts if part is not None]
            if len(known) < len(parts):
                continue
            seconds = math.fsum(known) + costs.unit_s.get(limit.device, 0.0)
            n_bytes = form.n_bytes
            if unit == "attention":
                seconds += costs.kv_s.get(limit.device, 0.0)
                n_bytes += costs.kv_bytes_on(limit.device)
            yield Choice(
                unit=unit,
                device=limit.device,
                format=form.format,
                seconds=seconds,
                n_bytes=n_bytes,
                error=form.error,
            )


def _head_choices(forms: Iterable[_Form], costs: PlacementCosts, *, tied: bool) -> Iterable[Choice]:
    """A tied embedding lies in RAM whatever the head does; the head on a GPU, or repacked, is a copy of it."""
    for choice in _choices("head", forms, costs):
        copied = choice.device != RAM or choice.format in costs.repacked
        yield choice.model_copy(update={"ram_bytes": choice.n_bytes}) if tied and copied else choice


def _with_fixed(spec: ModelSpec, devices: Iterable[DeviceLimit]) -> Iterable[DeviceLimit]:
    """The limits with what lies on a device in any case: untied embeddings in RAM, rotary tables on all."""
    outside = [tensor for tensor in spec.tensors if tensor.layer is None]
    everywhere = sum(tensor.n_bytes for tensor in outside if tensor.role == "rope")
    in_ram = sum(t.n_bytes for t in outside if t.role == "other")
    in_ram += 0 if spec.tied_embeddings else sum(t.n_bytes for t in outside if t.role == "embedding")
    for limit in devices:
        fixed = everywhere + (in_ram if limit.device == RAM else 0)
        yield limit.model_copy(update={"overhead_bytes": limit.overhead_bytes + fixed})


def _bytes_as(tensor: TensorSpec, format_name: str) -> int:
    return math.prod(tensor.shape[:-1]) * BY_NAME[format_name].row_bytes(tensor.shape[-1])


def _class_name(layers: Sequence[int]) -> str:
    return f"layer {layers[0]}" if len(layers) == 1 else f"{len(layers)} layers from {layers[0]}"
