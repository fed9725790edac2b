"""Measures how fast the engine is on one device: weights by format, overheads, attention.

A decoding step takes: token overhead + layers * layer overhead + bytes of weights / read speed of their format +
attention over what was written before. Each part is measured where it stands out: overheads on models of next to no
weights and two depths, weights on models that leave the caches, attention deep in the context. Prompts go through the
same parts with operations in the place of bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgemed.core.records import Figure, MaybeFigure, NotAvailable
from edgemed.core.tensor_types import BY_NAME
from edgemed.engines.base import EngineConfig, KvType
from edgemed.engines.stopwatch import Loaded, Measurement, Timed
from edgemed.hardware.energy import EnergyMeter
from edgemed.hardware.record import AttentionSpeed, FormatSpeed, value_of
from edgemed.hardware.synthetic_model import SyntheticShape, synthetic_bytes
from edgemed.hardware.work import (
    attention_operations,
    is_head,
    kv_bytes_read,
    matrices,
    operations,
    prompt_steps,
    rows_of,
)
from edgemed.hardware.workshop import Run, Workshop
from edgemed.models.spec import ModelSpec

FORMATS = ("q8_0", "iq4_nl", "q6_k", "q4_k", "f16", "q5_k")
"""In the order in which they are worth knowing, should the time run out."""
DEPTH, _QUICK_DEPTH = 4096, 2048
_SHORT_DEPTH = 64
CHUNK, GPU_CHUNK = 128, 512
"""Tokens per step of a prompt: the engine's usual n_ubatch on a processor, and what keeps a card busy."""
_QUICK_SHAPE = SyntheticShape(1, 1536, 6144, 12, 2, 128, 512, tied=True)
_FULL_SHAPE = SyntheticShape(1, 2048, 8192, 16, 4, 128, 512, tied=True)
_SLIM_SHAPE = SyntheticShape(1, 768, 2048, 12, 4, 64, 512, tied=True)
THIN = SyntheticShape(1, 64, 64, 1, 1, 64, 512, tied=True)
"""Next to no weights: what is left is overhead."""
_GROUPED = SyntheticShape(1, 1024, 256, 8, 2, 128, 512, tied=True, architecture="llama")
"""Attention and little else; four query heads share keys and values, as in most models. The head is made so large that
each step drives keys and values out of the caches, as a real model's weights do; reading a prompt hardly touches it."""
_ATTENTION_LAYERS = 2
_WORDS = 32768
_UNGROUPED = replace(_GROUPED, n_kv_heads=8)


@dataclass(frozen=True, slots=True)
class Target:
    """One device as the engine is told to use it."""

    device: str
    """The engine's name."""
    on_gpu: bool
    n_threads: int = 1
    n_threads_batch: int = 1

    def config(self, path: Path, n_tokens: int, *, n_ubatch: int = CHUNK, kv_type: KvType = "f16") -> EngineConfig:
        """A model that lies on this device wholly, with a context for `n_tokens`."""
        return EngineConfig(
            model_path=path,
            context_length=n_tokens,
            n_threads=self.n_threads,
            n_threads_batch=self.n_threads_batch,
            n_gpu_layers=999 if self.on_gpu else 0,
            devices=(self.device,) if self.on_gpu else (),
            n_ubatch=n_ubatch,
            kv_type=kv_type,
        )

    @property
    def chunk(self) -> int:
        """Tokens per step while reading long prompts."""
        return GPU_CHUNK if self.on_gpu else CHUNK


@dataclass(frozen=True, slots=True)
class Overheads:
    """Seconds that no weight explains."""

    layer: MaybeFigure
    token: MaybeFigure
    thin_s: float = 0.0
    """A whole step of two thin layers."""

    def step_s(self, spec: ModelSpec) -> float:
        """Of one step of that model."""
        return (value_of(self.layer) or 0.0) * spec.n_layers + (value_of(self.token) or 0.0)


def sized(quick: bool, format_name: str, n_bytes: float) -> SyntheticShape:
    """A shape whose layers take about `n_bytes` in that format, and at least two layers."""
    return _of_bytes(_QUICK_SHAPE if quick else _FULL_SHAPE, format_name, n_bytes)


def _of_bytes(shape: SyntheticShape, format_name: str, n_bytes: float) -> SyntheticShape:
    per_layer = synthetic_bytes(replace(shape, n_layers=2), format_name) - synthetic_bytes(shape, format_name)
    return replace(shape, n_layers=max(2, round(n_bytes / per_layer)))


def measure_overheads(shop: Workshop, target: Target, wish: Wish) -> Overheads:
    """From thin layers, and from layers of two usual sizes. Takes about two seconds.

    Between operations threads wait for each other. Where there is next to nothing to do they fall asleep each time, and
    a layer costs more than it does between real matrices (790 against 510 us with two threads on two cores, seen). So
    thin layers tell what a step costs beside its layers, and two usual sizes what a layer costs beside its weights.
    """
    shallow = _steps(shop, target, replace(THIN, n_layers=2))
    if isinstance(shallow, NotAvailable):
        return Overheads(shallow, shallow)
    deep = _steps(shop, target, replace(THIN, n_layers=26))
    if isinstance(deep, NotAvailable):
        return Overheads(deep, shop.seconds(shallow, "with 2 thin layers"), min(shallow))
    base = min(shallow)
    thin = shop.seconds([max(0.0, step - base) / 24 for step in deep], "from models of 2 and 26 thin layers")
    token = shop.seconds([max(0.0, step - 2 * thin.value) for step in shallow], "2 thin layers taken off")
    usual = _usual_layer_s(shop, target, wish, token.value)
    if usual is None or usual >= thin.value:
        return Overheads(thin, token, base)
    note = "from layers of two usual sizes; high is that of thin ones"
    layer = Figure(value=usual, unit="s", basis="measured", low=usual, high=thin.value, note=note)
    return Overheads(layer, token, base)


def _usual_layer_s(shop: Workshop, target: Target, wish: Wish, token_s: float) -> float | None:
    """Seconds of a layer of no bytes, by the line through layers of two sizes; None where it cannot be drawn."""
    points = []
    for shape in (_SLIM_SHAPE, _QUICK_SHAPE if wish.quick else _FULL_SHAPE):
        sized_shape = _of_bytes(shape, "q8_0", min(wish.n_bytes, shop.most_bytes))
        steps = _steps(shop, target, sized_shape)
        if isinstance(steps, NotAvailable):
            return None
        seconds = shop.seconds(steps).value - token_s
        n_bytes = synthetic_bytes(sized_shape, "q8_0") / sized_shape.n_layers
        points.append((n_bytes, seconds / sized_shape.n_layers))
    (few, short), (many, long) = points
    return max(0.0, short - few * (long - short) / (many - few)) if long > short else None


def measure_vocabulary(
    shop: Workshop, target: Target, overheads: Overheads, formats: Sequence[FormatSpeed]
) -> MaybeFigure:
    """Seconds that each word of the vocabulary takes beside the bytes of its row in the head."""
    shape = replace(THIN, n_layers=2, vocab_size=_WORDS)
    wordy = _steps(shop, target, shape)
    if isinstance(wordy, NotAvailable):
        return wordy
    read = next((value_of(one.read) for one in formats if one.format == "q8_0"), None)
    row_s = BY_NAME["q8_0"].row_bytes(THIN.hidden_size) / read if read else 0.0
    more = _WORDS - THIN.vocab_size
    seconds = [max(0.0, (step - overheads.thin_s) / more - row_s) for step in wordy]
    return shop.seconds(seconds, f"from a vocabulary of {_WORDS} words, its rows' bytes taken off")


def _steps(shop: Workshop, target: Target, shape: SyntheticShape) -> list[float] | NotAvailable:
    with shop.model(shape, "q8_0") as (path, _):
        found = shop.time(target.config(path, 256), [Measurement(prompt_tokens=1, answer_tokens=16, repetitions=5)])
    return found if isinstance(found, NotAvailable) else list(found[0].step_s)


@dataclass(frozen=True, slots=True)
class Wish:
    """How something is to be measured."""

    quick: bool
    n_bytes: float
    """Of a model that leaves the device's caches."""
    meter: EnergyMeter | NotAvailable | None = None
    """Counts the joules of decoding, where wanted."""


def measure_attention(shop: Workshop, target: Target, kv_type: KvType, wish: Wish) -> AttentionSpeed:
    """What attention over earlier tokens costs. Takes one to ten seconds: those tokens have to be read first.

    Two shapes tell bytes from operations: in one every query head has keys and values of its own, in the other four
    share them, so that the same operations read a quarter of the bytes.
    """
    depth = _QUICK_DEPTH if wish.quick else DEPTH
    words = round(wish.n_bytes / BY_NAME["q8_0"].row_bytes(_GROUPED.hidden_size))
    shared, alone = (
        _attention_seconds(shop, target, replace(shape, n_layers=_ATTENTION_LAYERS, vocab_size=words), kv_type, depth)
        for shape in (_GROUPED, _UNGROUPED)
    )
    if isinstance(shared, NotAvailable):
        return AttentionSpeed(kv_type=kv_type, read=shared, decode=shared, prefill=shared)
    more = attention_operations(shared.spec, 64, depth) - attention_operations(shared.spec, 64, _SHORT_DEPTH)
    prefill = shop.speed([more / seconds for seconds in shared.prompts], "op/s", f"64 tokens at a depth of {depth}")
    read, beside = _kv_read(shop, shared, alone, kv_type, depth)
    work = 4.0 * shared.spec.n_heads * shared.spec.head_dim * depth
    note = f"4 query heads share keys and values, depth {depth}; reading them taken off"
    decode = shop.speed([work / max(step - beside, step / 10) for step in shared.steps], "op/s", note)
    return AttentionSpeed(kv_type=kv_type, read=read, decode=decode, prefill=prefill)


@dataclass(frozen=True, slots=True)
class _AttentionSeconds:
    """Seconds of one layer's attention, by repetition."""

    spec: ModelSpec
    steps: list[float]
    """One decoding step."""
    prompts: list[float]
    """64 tokens of a prompt."""


def _attention_seconds(
    shop: Workshop, target: Target, shape: SyntheticShape, kv_type: KvType, depth: int
) -> _AttentionSeconds | NotAvailable:
    """How much longer a step and 64 tokens of a prompt take with `depth` tokens before them than with a few."""
    seconds = 2.0 if depth > _QUICK_DEPTH else 0.8
    wanted = [
        Measurement(prompt_tokens=64, answer_tokens=6, depth=before, repetitions=4, at_most_s=seconds)
        for before in (_SHORT_DEPTH, depth)
    ]
    with shop.model(shape, "q8_0") as (path, spec):
        config = target.config(path, depth + 256, n_ubatch=target.chunk, kv_type=kv_type)
        found = shop.time(config, wanted)
    if isinstance(found, NotAvailable):
        return found
    near, far = found
    share = depth / (depth - _SHORT_DEPTH)
    steps = _above(far.step_s, min(near.step_s), share / spec.n_layers)
    prompts = _above(far.prompt_s, min(near.prompt_s), 1 / spec.n_layers)
    if not steps or not prompts:
        return NotAvailable(reason="deep in the context nothing took longer: the measurement was disturbed")
    return _AttentionSeconds(spec, steps, prompts)


def _above(seconds: Sequence[float], fixed: float, share: float = 1.0) -> list[float]:
    """What is left of each duration; those that were shorter than what is taken off were disturbed and do not count."""
    return [(one - fixed) * share for one in seconds if one > fixed]


def _kv_read(
    shop: Workshop, shared: _AttentionSeconds, alone: _AttentionSeconds | NotAvailable, kv_type: KvType, depth: int
) -> tuple[MaybeFigure, float]:
    """Bytes of keys and values per second, and the seconds that reading takes of a step whose heads share them."""
    if isinstance(alone, NotAvailable):
        return alone, 0.0
    few, many = (kv_bytes_read(one.spec, kv_type, depth) for one in (shared, alone))
    base = min(shared.steps)
    rest = _above(alone.steps, base)
    if not rest:
        return NotAvailable(reason="heads that share keys and values are no faster: reading them is free here"), 0.0
    read = shop.speed([(many - few) / seconds for seconds in rest], "B/s", f"depth {depth}, beside the operations")
    return read, min(few / read.value, base / 2)


@dataclass(frozen=True, slots=True)
class FormatResult:
    """One format on one device, and what else its model told."""

    speed: FormatSpeed
    energy: MaybeFigure


def measure_format(
    shop: Workshop, target: Target, name: str, overheads: Overheads, attention: float, wish: Wish
) -> FormatResult:
    """Weights of one format. `attention` is operations per second while reading prompts; 0 where it is not known."""
    shape = sized(wish.quick, name, min(wish.n_bytes, shop.most_bytes))
    # Quick reads one step's worth: as many operations each as 512 tokens in such steps.
    long = min(512, target.chunk) if wish.quick else 512
    few = 1 if wish.quick else 3
    decode = Measurement(prompt_tokens=1, answer_tokens=6, repetitions=4 * few, at_most_s=0.4 * few)
    prompts = [
        Measurement(prompt_tokens=64, repetitions=2 * few, at_most_s=0.4 * few),
        Measurement(prompt_tokens=long, repetitions=few, at_most_s=0.6 * few),
    ]
    with shop.model(shape, name) as (path, spec):
        config = target.config(path, 1024, n_ubatch=target.chunk)
        found = shop.time(config, [decode, *prompts])
        energy = _energy(shop, config, wish.meter) if wish.meter else NotAvailable(reason="not measured")
    if isinstance(found, NotAvailable):
        speed = FormatSpeed(format=name, read=found, compute_64=found, compute_512=found, chunk=target.chunk)
        return FormatResult(speed, found)
    fit = _Fit(shop, spec, overheads, attention, target.chunk)
    read = fit.read(found[0])
    speed = FormatSpeed(
        format=name,
        read=read,
        compute_64=fit.compute(found[1], 64, value_of(read)),
        compute_512=fit.compute(found[2], long, value_of(read)),
        chunk=target.chunk,
    )
    return FormatResult(speed, energy)


@dataclass(frozen=True, slots=True)
class _Fit:
    """Takes from measured seconds what the weights do not explain."""

    shop: Workshop
    spec: ModelSpec
    overheads: Overheads
    attention: float
    chunk: int

    def read(self, timed: Timed) -> MaybeFigure:
        """Bytes of weights per second in decoding steps."""
        fixed = self.overheads.step_s(self.spec)
        n_bytes = sum(tensor.n_bytes for tensor in matrices(self.spec))
        rest = _above(timed.step_s, fixed)
        if not rest:
            return NotAvailable(reason="the overheads took longer than the step: the measurement was disturbed")
        return self.shop.speed([n_bytes / seconds for seconds in rest], "B/s", f"{n_bytes / 1e6:.0f} MB of weights")

    def compute(self, timed: Timed, n_tokens: int, read: float | None) -> MaybeFigure:
        """Operations per second of matrices that multiply a whole step's rows."""
        fixed, work = 0.0, 0.0
        for size, before, outputs in prompt_steps(n_tokens, self.chunk):
            fixed += self.overheads.step_s(self.spec)
            if self.attention:
                fixed += self.spec.n_layers * attention_operations(self.spec, size, before) / self.attention
            for tensor in matrices(self.spec):
                rows = rows_of(tensor, self.spec, size, outputs)
                if rows == 1 and read:
                    fixed += tensor.n_bytes / read
                elif rows > 1 and not is_head(tensor):
                    work += operations(tensor, rows)
        rest = _above(timed.prompt_s, fixed)
        if not rest:
            return NotAvailable(reason="the overheads took longer than the prompt: the measurement was disturbed")
        note = f"{n_tokens} tokens in steps of {min(n_tokens, self.chunk)}"
        return self.shop.speed([work / seconds for seconds in rest], "op/s", note)


def _energy(shop: Workshop, config: EngineConfig, meter: EnergyMeter | NotAvailable) -> MaybeFigure:
    """Joules per token while decoding; counters move once a millisecond, so a second is decoded."""
    if isinstance(meter, NotAvailable):
        return meter

    def decode(run: Run, _: Loaded) -> list[float]:
        run(Measurement(prompt_tokens=1, answer_tokens=4, repetitions=1))  # what loading started has ended
        spent = []
        for _half in range(2):
            before = meter.read()
            timed = run(Measurement(prompt_tokens=1, answer_tokens=63, repetitions=8, at_most_s=0.5))
            spent.append((meter.read() - before) / (64 * len(timed.step_s)))
        return spent

    spent = shop.use(config, decode)
    if isinstance(spent, NotAvailable):
        return spent
    if not all(joules > 0 for joules in spent):  # nor is what is not a number
        return NotAvailable(reason=f"the counter ({meter.source}) did not rise")
    return Figure(value=min(spent), unit="J", basis="measured", low=min(spent), high=max(spent), note=meter.source)


def prefill_attention(attention: Sequence[AttentionSpeed]) -> float:
    """Operations per second of f16 attention while reading prompts; 0 where it is not known."""
    return next((value_of(one.prefill) or 0.0 for one in attention if one.kv_type == "f16"), 0.0)
