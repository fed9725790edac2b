"""Predicts how fast a model decodes and reads prompts, from the speeds that were measured on its machine.

    step   = token overhead + vocabulary + layers * layer overhead
             + bytes of each matrix / read speed of its device and format
             + attention of each layer over what stands in its KV cache + changes of device * crossing
    prompt = the same for each of its steps, with operations / compute in the place of bytes / read speed

The parts are also given one by one (`CostModel`), for those who look for the best place of each weight. Where weights
lie follows llama.cpp (weight_placement.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from edgemed.core.records import Basis, Figure, MaybeFigure, NotAvailable, Record
from edgemed.core.tensor_types import BY_NAME, Role
from edgemed.engines.base import EngineConfig, KvType
from edgemed.hardware.record import AttentionSpeed, DeviceSpeed, EngineSpeed, FormatSpeed, MaybeSpeed, value_of
from edgemed.hardware.work import (
    attention_operations,
    kv_bytes_read,
    matrices,
    operations,
    prompt_steps,
    rows_of,
)
from edgemed.models.spec import ModelSpec, TensorSpec
from edgemed.plan.weight_placement import CPU, device_of_place, layer_places, named_place

_DECODE_WITHIN, _PREFILL_WITHIN = 0.15, 0.25
"""Half the width of the interval on a quiet machine."""
_PAPER_WITHIN = 0.30
"""Where speeds come from a data sheet or are assumed."""
_ORDER: tuple[tuple[Role, ...], ...] = (
    ("attention_q", "attention_qkv"),
    ("attention_output",),
    ("ffn_gate", "ffn_gate_up"),
    ("ffn_down",),
)
"""Matrices of a layer in the order in which they work; of those that lie together always, one."""
_SHORT = 64
"""Tokens of the shorter prompt that was measured."""


class SpeedUnknown(Exception):
    """The profile does not tell what is needed; the message says what is missing."""


class SpeedPrediction(Record):
    """How fast one configuration should be."""

    tokens_per_s: MaybeFigure
    """While decoding, with `depth` tokens before."""
    ttft_s: MaybeFigure
    """Seconds until the prompt has been read and the first token chosen."""
    depth: int
    prompt_tokens: int
    note: str = ""
    """What was taken for something that was not measured."""


def predict_speed(
    spec: ModelSpec,
    config: EngineConfig,
    speed: MaybeSpeed,
    *,
    depth: int,
    prompt_tokens: int,
    free_bytes: Mapping[str, float] | None = None,
) -> SpeedPrediction:
    """Decoding speed at that depth and time to read that prompt, one request alone, each with its interval.

    `free_bytes` by device decides how layers are shared where the configuration does not. NotAvailable, with the
    reason, where the profile has no speeds for a device that is used. Takes about a millisecond.
    """
    try:
        if not isinstance(speed, EngineSpeed):
            raise SpeedUnknown(f"the profile has no speed of the engine: {speed.reason}")
        model = CostModel(speed, config.n_threads, config.n_threads_batch or config.n_threads)
        placed = Placed.of(spec, config, model, free_bytes or {})
        step, prompt = model.step_s(placed, depth), model.prompt_s(placed, prompt_tokens)
    except SpeedUnknown as unknown:
        missing = NotAvailable(reason=str(unknown))
        return SpeedPrediction(tokens_per_s=missing, ttft_s=missing, depth=depth, prompt_tokens=prompt_tokens)
    rate = _interval(1 / step, "tokens/s", model.spread(placed, _DECODE_WITHIN), f"predicted, {depth} tokens before")
    wait = _interval(prompt, "s", model.spread(placed, _PREFILL_WITHIN), f"predicted, prompt of {prompt_tokens} tokens")
    note = "; ".join(model.notes)
    return SpeedPrediction(tokens_per_s=rate, ttft_s=wait, depth=depth, prompt_tokens=prompt_tokens, note=note)


def _interval(value: float, unit: str, within: float, note: str) -> Figure:
    low, high = value * (1 - within), value * (1 + within)
    return Figure(value=value, unit=unit, basis="computed", low=low, high=high, note=note)


@dataclass(frozen=True, slots=True)
class Placed:
    """A model with a device for each matrix."""

    spec: ModelSpec
    config: EngineConfig
    weights: tuple[tuple[TensorSpec, str], ...]
    """Every matrix that is multiplied, and its device."""
    layers: tuple[str, ...]
    """The device of each layer's KV cache, attention and small operations."""
    head: str

    @staticmethod
    def of(spec: ModelSpec, config: EngineConfig, model: CostModel, free_bytes: Mapping[str, float]) -> Placed:
        """Where the engine puts everything. Raises SpeedUnknown for a device that was not measured."""
        if config.n_gpu_layers > 0:
            gpus = config.devices or model.gpus
            if not gpus:
                raise SpeedUnknown("layers are to lie on a GPU, and the profile has the speed of none")
        else:
            gpus = ()
        places, last = layer_places(spec, config, gpus, free_bytes)
        layers, head = tuple(map(device_of_place, places)), device_of_place(last)
        weights = tuple((tensor, _device_of(tensor, config, layers, head)) for tensor in matrices(spec))
        for name in {*layers, head, *(device for _, device in weights)}:
            model.device(name)
        return Placed(spec, config, weights, layers, head)

    @property
    def devices(self) -> frozenset[str]:
        """Every device that works."""
        return frozenset({*self.layers, self.head, *(device for _, device in self.weights)})

    def changes(self) -> list[tuple[str, str]]:
        """Device before and after, for every change within one step beyond the first, from the CPU's embedding.

        Within a layer attention comes first, then gate and up, then down.
        """
        order = [self.layers[0]] if self.layers else []
        for layer in range(self.spec.n_layers):
            own = {tensor.role: device for tensor, device in self.weights if tensor.layer == layer}
            order += [next((own[role] for role in roles if role in own), self.layers[layer]) for roles in _ORDER]
        order.append(self.head)
        return [(one, other) for one, other in pairwise(order) if one != other]


def _device_of(tensor: TensorSpec, config: EngineConfig, layers: Sequence[str], head: str) -> str:
    if place := named_place(tensor, config):
        return device_of_place(place)
    return head if tensor.layer is None else layers[tensor.layer]


class CostModel:
    """Seconds of everything a step consists of, on the machine of one profile."""

    def __init__(self, speed: EngineSpeed, n_threads: int | None = None, n_threads_batch: int | None = None) -> None:
        self._devices = {device.device: device for device in speed.devices}
        self._crossings = {link.device: value_of(link.crossing) or 0.0 for link in speed.links}
        self._decode_pace = _pace(speed, n_threads or speed.n_threads, decode=True)
        self._batch_pace = _pace(speed, n_threads_batch or n_threads or speed.n_threads_batch, decode=False)
        self._speed = speed
        self._noted: dict[str, None] = {}

    @property
    def gpus(self) -> tuple[str, ...]:
        """Measured devices beside the CPU, in the engine's order."""
        return tuple(name for name in self._devices if name != CPU)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was taken for something that was not measured, so far."""
        return tuple(self._noted)

    def device(self, name: str) -> DeviceSpeed:
        """The speeds of one device. Raises SpeedUnknown."""
        try:
            return self._devices[name]
        except KeyError:
            raise SpeedUnknown(f"the profile has no speed of {name}; it has {', '.join(self._devices)}") from None

    def read_s(self, device: str, format_name: str, n_bytes: float) -> float:
        """Seconds in which weights are read once, for one token. Raises SpeedUnknown."""
        found = self._format(device, format_name, "read")
        return n_bytes / _known(found.read) * self._factor(device, decode=True)

    def matrix_s(self, device: str, tensor: TensorSpec, rows: int) -> float:
        """Seconds in which one matrix multiplies so many rows. Raises SpeedUnknown.

        Between one row, 64 and a whole chunk by straight lines; beyond a chunk in proportion.
        """
        if rows <= 0:
            return 0.0
        one = self.read_s(device, tensor.type, tensor.n_bytes)
        if rows == 1:
            return one
        pace = self._factor(device, decode=False)
        chunk = self._format(device, tensor.type, "compute_512").chunk
        short = operations(tensor, _SHORT) / self._compute(device, tensor.type, "compute_64") * pace
        long = operations(tensor, chunk) / self._compute(device, tensor.type, "compute_512") * pace
        if rows <= _SHORT:
            return one + (short - one) * (rows - 1) / (_SHORT - 1)
        if rows <= chunk:
            return short + (long - short) * (rows - _SHORT) / (chunk - _SHORT)
        return long * rows / chunk

    def decode_attention_s(self, device: str, spec: ModelSpec, kv_type: KvType, depth: int) -> float:
        """Seconds of one layer's attention for one token, reading and computing; 0 where the profile does not know."""
        found = self._attention(device, kv_type)
        read, compute = value_of(found.read), value_of(found.decode)
        # The cache's own type where it was measured; else f16's seconds for as many values.
        reading = kv_bytes_read(spec, found.kv_type, depth) / read if read else 0.0
        computing = 4.0 * spec.n_heads * spec.head_dim * depth / compute if compute else 0.0
        return (reading + computing) * self._factor(device, decode=True)

    def prompt_attention_s(self, device: str, spec: ModelSpec, kv_type: KvType, n_tokens: int, depth: int) -> float:
        """Seconds of one layer's attention for a step of a prompt; 0 where the profile does not know."""
        compute = value_of(self._attention(device, kv_type).prefill)
        work = attention_operations(spec, n_tokens, depth)
        return work / compute * self._factor(device, decode=False) if compute else 0.0

    def layer_s(self, device: str) -> float:
        """Seconds that a layer takes beside its weights; 0 where the profile does not know."""
        return value_of(self.device(device).layer_overhead) or 0.0

    def token_s(self, devices: Sequence[str] | frozenset[str], vocab_size: int) -> float:
        """Seconds that a step takes beside its layers."""
        found = [self.device(name) for name in devices]
        words = max(value_of(one.vocabulary_overhead) or 0.0 for one in found)
        return max(value_of(one.token_overhead) or 0.0 for one in found) + words * vocab_size

    def crossing_s(self, one: str, other: str) -> float:
        """Seconds for one change of device within a step; 0 where the profile does not know."""
        return max(self._crossings.get(one, 0.0), self._crossings.get(other, 0.0))

    def fixed_s(self, placed: Placed) -> float:
        """Seconds of a step that neither weights nor attention explain."""
        crossings = sum(self.crossing_s(one, other) for one, other in placed.changes())
        layers = sum(self.layer_s(device) for device in placed.layers)
        return self.token_s(placed.devices, placed.spec.vocab_size) + layers + crossings

    def step_s(self, placed: Placed, depth: int) -> float:
        """Seconds to decode one token with `depth` before it. Raises SpeedUnknown."""
        kv_type, spec = placed.config.kv_type, placed.spec
        weights = sum(self.matrix_s(device, tensor, 1) for tensor, device in placed.weights)
        attention = sum(self.decode_attention_s(device, spec, kv_type, depth) for device in placed.layers)
        return self.fixed_s(placed) + weights + attention

    def prompt_s(self, placed: Placed, n_tokens: int, depth: int = 0) -> float:
        """Seconds to read a prompt of so many tokens with `depth` before it. Raises SpeedUnknown."""
        spec, kv_type, total = placed.spec, placed.config.kv_type, 0.0
        for size, before, outputs in prompt_steps(n_tokens, placed.config.n_ubatch):
            total += self.fixed_s(placed)
            for tensor, device in placed.weights:
                total += self.matrix_s(device, tensor, rows_of(tensor, spec, size, outputs))
            for device in placed.layers:
                total += self.prompt_attention_s(device, spec, kv_type, size, depth + before)
        return total

    def spread(self, placed: Placed, within: float) -> float:
        """Half the interval's width as a share: `within`, or more where figures are noisy or from a data sheet."""
        widest = within
        weight = sum(tensor.n_bytes for tensor, _ in placed.weights) or 1
        seen = 0.0
        for tensor, device in placed.weights:
            figure = self._format(device, tensor.type, "read").read
            if isinstance(figure, Figure):
                seen += tensor.n_bytes / weight * _half_spread(figure)
                widest = max(widest, _PAPER_WITHIN if figure.basis in _PAPER else 0.0)
        return min(0.9, max(widest, seen))

    def _format(self, device: str, name: str, part: str) -> FormatSpeed:
        """The format's speeds there, or those of the measured one whose bits are nearest."""
        known = [one for one in self.device(device).formats if isinstance(getattr(one, part), Figure)]
        if not known:
            raise SpeedUnknown(f"the profile has no speed of {device} for any format of weights")
        best = min(known, key=lambda one: (one.format != name, abs(_bits(one.format) - _bits(name))))
        if best.format != name:
            self._noted[f"{name} is not measured on {device}: taken as {best.format}"] = None
        return best

    def _compute(self, device: str, name: str, part: str) -> float:
        return _known(getattr(self._format(device, name, part), part))

    def _attention(self, device: str, kv_type: KvType) -> AttentionSpeed:
        """Attention with keys and values of that type, or of f16."""
        measured = self.device(device)
        for one in measured.attention:
            if one.kv_type == kv_type and isinstance(one.read, Figure):
                return one
        if kv_type != "f16":
            self._noted[f"attention with {kv_type} keys and values is not measured on {device}: taken as f16"] = None
        for one in measured.attention:
            if one.kv_type == "f16":
                return one
        unknown = NotAvailable(reason="not measured")
        return AttentionSpeed(kv_type="f16", read=measured.kv_read, decode=unknown, prefill=measured.attention_compute)

    def _factor(self, device: str, *, decode: bool) -> float:
        """How much longer it takes than with the number of threads that was measured."""
        if device != CPU:
            return 1.0
        return self._decode_pace if decode else self._batch_pace


_PAPER: frozenset[Basis] = frozenset({"datasheet", "assumed", "computed"})


def _pace(speed: EngineSpeed, n_threads: int, *, decode: bool) -> float:
    """Time with `n_threads` over the time with the measured best, by the sweep's nearest count; 1 where unknown."""
    points = {one.n_threads: value_of(one.decode if decode else one.prefill) for one in speed.threads}
    known = {count: value for count, value in points.items() if value}
    best = speed.n_threads if decode else speed.n_threads_batch
    if best not in known or n_threads == best:
        return 1.0
    nearest = min(known, key=lambda count: (abs(count - n_threads), count))
    return known[best] / known[nearest]


def _known(figure: MaybeFigure) -> float:
    value = value_of(figure)
    if not value:
        raise SpeedUnknown("the profile has a speed of 0")
    return value


def _half_spread(figure: Figure) -> float:
    if figure.low is None or figure.high is None or figure.value <= 0:
        return 0.0
    return (figure.high - figure.low) / (2 * figure.value)


def _bits(name: str) -> float:
    """Bits for each weight of a format."""
    kind = BY_NAME.get(name)
    return 8 * kind.block_bytes / kind.block_size if kind else 16.0
