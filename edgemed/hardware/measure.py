"""Measures how fast the installed engine is on this machine, on models made for the purpose.

Nothing is taken from data sheets: what a format costs depends on the engine's kernels, the compiler that built them,
the memory and the heat of the day. Each figure keeps the spread of its repetitions; where they differ by more than
`NOISY_SPREAD` in the middle of all figures, or other programs keep the cores busy, the whole record says `noisy`.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from edgemed.core.progress import Progress, SilentProgress, Task
from edgemed.core.records import Figure, MaybeFigure, NotAvailable
from edgemed.core.units import MIB, format_bytes
from edgemed.engines.base import KvType
from edgemed.engines.pinned import ENGINE_PACKAGE, ENGINE_VERSION
from edgemed.engines.stopwatch import Loaded, Measurement
from edgemed.hardware.cpu import read_cpu
from edgemed.hardware.device_speed import (
    FORMATS,
    Overheads,
    Target,
    Wish,
    measure_attention,
    measure_format,
    measure_overheads,
    measure_vocabulary,
    prefill_attention,
    sized,
)
from edgemed.hardware.energy import cpu_meter, gpu_meter
from edgemed.hardware.engine_devices import ask_engine
from edgemed.hardware.link import measure_link
from edgemed.hardware.memory import last_cache_bytes
from edgemed.hardware.power import read_load
from edgemed.hardware.record import (
    AttentionSpeed,
    CpuProfile,
    DeviceSpeed,
    EngineProfile,
    EngineSpeed,
    FormatSpeed,
    Link,
    MaybeEngine,
    MaybeSpeed,
    ThreadSpeed,
    value_of,
)
from edgemed.hardware.workshop import NoRoom, Run, Workshop, open_workshop

NOISY_SPREAD = 0.15
"""Repetitions of a quiet machine differ by a few percent."""
_QUICK_S, _FULL_S = 14.0, 130.0
"""For everything here; memory and disk are measured besides."""
_QUICK_CACHES, _FULL_CACHES = 3, 6
"""A model takes so many times the last cache."""
_MOST_MODEL_BYTES = 512 * MIB
_LEAST_MODEL_BYTES = 96 * MIB
_GPU_MODEL_BYTES = 256 * MIB
"""Leaves the caches of every consumer card (72 MiB in an RTX 4090)."""
_MOST_HEAD_BYTES = 192 * MIB
"""Of the model whose attention is measured: a larger vocabulary takes seconds to load."""
_SUSTAINED_S = 60.0
_ALIKE = 0.03
"""Of thread counts whose speeds differ by less, the smallest is taken: it leaves cores to others."""
_MOST_SWEPT = 8


def measure_speed(
    progress: Progress | None = None,
    *,
    quick: bool = False,
    sustained: bool = False,
    engine: MaybeEngine | None = None,
    load: MaybeFigure | None = None,
    at_most_s: float | None = None,
) -> MaybeSpeed:
    """How fast the engine is on each of its devices, or why that could not be measured.

    Quick takes about ten seconds, the longer form two minutes, `sustained` a minute more. What there was no time for is
    NotAvailable and says so. `engine` and `load` are what was read of them before, where it was. Models of
    some hundred MiB lie in a temporary folder meanwhile.
    """
    busy = load or read_load()  # before anything here raises it
    found = engine or ask_engine()
    if isinstance(found, NotAvailable):
        return NotAvailable(reason=found.reason)
    caches = _QUICK_CACHES if quick else _FULL_CACHES
    on_cpu = min(_MOST_MODEL_BYTES, max(caches * last_cache_bytes(), _LEAST_MODEL_BYTES))
    wanted = max(on_cpu, _GPU_MODEL_BYTES) if _gpus(found) else on_cpu
    limit = at_most_s or (_QUICK_S if quick else _FULL_S)
    try:
        with open_workshop(wanted, limit) as shop:
            session = _Session(shop, found, read_cpu(), progress or SilentProgress(), quick, on_cpu)
            return session.measure(busy, sustained=sustained)
    except (NoRoom, OSError) as error:
        return NotAvailable(reason=f"the engine's speed could not be measured: {error}")


_LATE = NotAvailable(reason="not measured: the time for measuring was over")


@dataclass(slots=True)
class _Findings:
    """What is known of one device so far."""

    target: Target
    overheads: Overheads
    attention: tuple[AttentionSpeed, ...]
    formats: list[FormatSpeed] = field(default_factory=list)
    energy: MaybeFigure = _LATE

    def speed(self, vocabulary: MaybeFigure) -> DeviceSpeed:
        """All of it."""
        f16 = self.attention[0]
        return DeviceSpeed(
            device=self.target.device,
            formats=tuple(self.formats),
            layer_overhead=self.overheads.layer,
            token_overhead=self.overheads.token,
            vocabulary_overhead=vocabulary,
            kv_read=f16.read,
            attention_compute=f16.prefill,
            attention=self.attention,
            energy=self.energy,
            sustained=NotAvailable(reason="not measured: edgemed profile --sustained"),
        )


@dataclass(slots=True)
class _Session:
    """One measurement from its beginning to its end."""

    shop: Workshop
    engine: EngineProfile
    cpu: CpuProfile
    progress: Progress
    quick: bool
    cpu_bytes: int = _MOST_MODEL_BYTES
    """Of a model that leaves the processor's caches."""
    _task: Task | None = field(default=None)

    def measure(self, load: MaybeFigure, *, sustained: bool) -> EngineSpeed:
        gpus = _gpus(self.engine)
        steps = 1 + (1 + len(gpus)) * (3 + len(FORMATS)) + len(gpus)
        with self.progress.task("Measuring the engine", steps) as task:
            self._task = task
            threads, decode, batch = self._threads()
            targets = [Target("CPU", False, decode, batch), *(Target(name, True, decode, batch) for name in gpus)]
            findings = [self._basics(target) for target in targets]
            for name in FORMATS:  # of every device the formats that matter most, should the time run out
                for found in findings:
                    self._format(found, name)
            devices = [found.speed(self._vocabulary(found)) for found in findings]
            links = [self._link(target) for target in targets[1:]]
        if sustained:
            devices = [
                device.model_copy(update={"sustained": self._sustained(target)})
                for device, target in zip(devices, targets, strict=True)
            ]
        note = noise_note(self.shop.spreads, load, int(value_of(self.cpu.usable_cores) or 1))
        return EngineSpeed(
            engine=self.engine.name,
            n_threads=decode,
            n_threads_batch=batch,
            threads=threads,
            devices=tuple(devices),
            links=tuple(links),
            load_average=load,
            noisy=bool(note),
            noise_note=note,
        )

    @contextmanager
    def _step(self, text: str) -> Iterator[bool]:
        """One step of the bar; False when there is no time left for it."""
        assert self._task is not None
        self._task.describe(text)
        yield self.shop.seconds_left() > 0
        self._task.advance(1)

    def _threads(self) -> tuple[tuple[ThreadSpeed, ...], int, int]:
        """Every usual number of threads, and which is best for decoding and for prompts."""
        counts = thread_counts(int(value_of(self.cpu.usable_cores) or 1), int(value_of(self.cpu.physical_cores) or 0))
        rounds = 2 if self.quick else 4
        shape = sized(self.quick, "q8_0", self._model_bytes())
        with self._step("threads"), self.shop.model(shape, "q8_0") as (path, _):

            def sweep(run: Run, _: Loaded) -> list[ThreadSpeed]:
                return [self._thread_speed(run, count, rounds) for count in counts]

            target = Target("CPU", False, max(counts), max(counts))
            found = self.shop.use(target.config(path, 256), sweep)
        if isinstance(found, NotAvailable):
            return (), max(1, int(value_of(self.cpu.physical_cores) or 1)), max(counts)
        best = best_count([(one.n_threads, value_of(one.decode) or 0) for one in found])
        batch = best_count([(one.n_threads, value_of(one.prefill) or 0) for one in found])
        return tuple(found), best, batch

    def _thread_speed(self, run: Run, count: int, rounds: int) -> ThreadSpeed:
        timed = run(
            Measurement(
                prompt_tokens=64,
                answer_tokens=6,
                n_threads=count,
                n_threads_batch=count,
                repetitions=rounds,
                at_most_s=4.0 / rounds,
            )
        )
        return ThreadSpeed(
            n_threads=count,
            decode=self.shop.speed([1 / seconds for seconds in timed.step_s], "tokens/s"),
            prefill=self.shop.speed([64 / seconds for seconds in timed.prompt_s], "tokens/s", "64 tokens"),
        )

    def _basics(self, target: Target) -> _Findings:
        """What every other measurement on this device has to take off."""
        with self._step(f"{target.device}: overheads"):
            wish = Wish(self.quick, self._model_bytes(on_gpu=target.on_gpu))
            overheads = measure_overheads(self.shop, target, wish)
        with self._step(f"{target.device}: attention"):
            return _Findings(target, overheads, self._attention(target))

    def _format(self, found: _Findings, name: str) -> None:
        """Add one format; the first is measured even when the time is over, because nothing can be told without one."""
        device = found.target.device
        with self._step(f"{device}: {name}") as in_time:
            if not in_time and name != FORMATS[0]:
                found.formats.append(_not_measured(name))
                return
            meter = gpu_meter(device) if found.target.on_gpu else cpu_meter()
            n_bytes = self._model_bytes(on_gpu=found.target.on_gpu)
            wish = Wish(self.quick, n_bytes, meter if name == FORMATS[0] else None)
            attention = prefill_attention(found.attention)
            result = measure_format(self.shop, found.target, name, found.overheads, attention, wish)
            found.formats.append(result.speed)
            if name == FORMATS[0]:
                found.energy = result.energy

    def _vocabulary(self, found: _Findings) -> MaybeFigure:
        with self._step(f"{found.target.device}: vocabulary") as in_time:
            if not in_time:
                return _LATE
            return measure_vocabulary(self.shop, found.target, found.overheads, found.formats)

    def _attention(self, target: Target) -> tuple[AttentionSpeed, ...]:
        types: tuple[KvType, ...] = ("f16",) if self.quick else ("f16", "q8_0")
        wish = Wish(self.quick, min(self._model_bytes(on_gpu=target.on_gpu), _MOST_HEAD_BYTES))
        return tuple(measure_attention(self.shop, target, kv_type, wish) for kv_type in types)

    def _link(self, target: Target) -> Link:
        with self._step(f"{target.device}: copies and changes of side"):
            return measure_link(self.shop, target)

    def _sustained(self, target: Target) -> MaybeFigure:
        """The last part's speed as a share of the first's, in a minute of decoding."""
        slices = 12
        shape = sized(self.quick, "q8_0", self._model_bytes(on_gpu=target.on_gpu))
        title = f"A minute of load on {target.device}"
        with self.shop.model(shape, "q8_0") as (path, _), self.progress.task(title, slices) as task:

            def load(run: Run, _: Loaded) -> list[float]:
                steps = []
                for _part in range(slices):
                    seconds = _SUSTAINED_S / slices
                    timed = run(Measurement(prompt_tokens=64, answer_tokens=32, repetitions=10_000, at_most_s=seconds))
                    steps.append(timed.step_median_s())
                    task.advance(1)
                return steps

            self.shop.ends_at += _SUSTAINED_S
            found = self.shop.use(target.config(path, 256), load)
        return found if isinstance(found, NotAvailable) else sustained_share(found)

    def _model_bytes(self, *, on_gpu: bool = False) -> float:
        return float(min(self.shop.most_bytes, _GPU_MODEL_BYTES if on_gpu else self.cpu_bytes))


def _gpus(engine: EngineProfile) -> list[str]:
    """The engine's names of the devices beside the CPU that can hold layers."""
    return [device.name for device in engine.devices if device.kind in ("gpu", "integrated-gpu")]


def sustained_share(steps: Sequence[float]) -> MaybeFigure:
    """Late speed over first speed, from the median step of twelve parts of the load."""
    late = [steps[0] / step for step in steps[-3:]]
    return Figure(
        value=statistics.median(late),
        unit="",
        basis="measured",
        low=min(late),
        high=max(late),
        note=f"decoding, the last quarter of {_SUSTAINED_S:.0f} s against the first {_SUSTAINED_S / len(steps):.0f} s",
    )


def thread_counts(usable: int, physical: int) -> list[int]:
    """Numbers of threads worth trying: every one on small machines, else a spread with the cores among them."""
    every = range(1, usable + 1)
    if usable <= _MOST_SWEPT:
        return list(every)
    even = {max(1, round(usable * part / (_MOST_SWEPT - 2))) for part in range(1, _MOST_SWEPT - 1)}
    return sorted(even | {1, usable} | ({physical} & set(every)))


def best_count(speeds: Sequence[tuple[int, float]]) -> int:
    """The smallest number of threads that is as good as the fastest."""
    fastest = max(speed for _, speed in speeds)
    return min(count for count, speed in speeds if speed >= (1 - _ALIKE) * fastest)


def noise_note(spreads: Sequence[float], load: MaybeFigure, cores: int) -> str:
    """Why the figures are not to be trusted; empty for a quiet machine."""
    notes = []
    middle = statistics.median(spreads) if spreads else 0.0
    if middle > NOISY_SPREAD:
        notes.append(f"repetitions of half the figures differ by more than {middle:.0%} (quiet: {NOISY_SPREAD:.0%})")
    busy = value_of(load)
    if busy is not None and busy > cores / 2:
        notes.append(f"other programs kept the machine busy (load {busy:g} on {cores} cores)")
    return "; ".join(notes)


def _not_measured(name: str) -> FormatSpeed:
    return FormatSpeed(format=name, read=_LATE, compute_64=_LATE, compute_512=_LATE)


def speed_warnings(speed: MaybeSpeed, engine: MaybeEngine, cpu: CpuProfile) -> tuple[str, ...]:
    """What the engine's build leaves unused, with the command that mends it."""
    if not isinstance(engine, EngineProfile):
        return ()
    faults = list(_missing_instructions(engine.features, cpu.isa))
    if isinstance(speed, EngineSpeed) and not speed.noisy:
        faults += _slow_formats(speed)
    return tuple(f"{fault} To mend it: {rebuild_command()}" for fault in faults)


_KERNELS = (("avx2", "AVX2"), ("fma", "FMA"), ("f16c", "F16C"), ("asimddp", "DOTPROD"))
"""The kernel's word for an extension, and the engine's own word for having been built with it."""


def _missing_instructions(features: str, isa: Sequence[str]) -> Iterator[str]:
    words = features.replace(" ", "")
    if "CPU:" not in words:  # a build whose CPU part is loaded later says nothing of it
        return
    missing = [name for flag, name in _KERNELS if flag in isa and f"{name}=1" not in words]
    if missing:
        names = ", ".join(missing)
        yield f"The engine was built without {names}, which this processor has: it may be several times slower."


def _slow_formats(speed: EngineSpeed) -> Iterator[str]:
    """Four bits a weight that take longer than eight do: kernels that are not there."""
    for device in speed.devices:
        reads = {one.format: value_of(one.read) for one in device.formats}
        eight = reads.get("q8_0")
        for name in ("iq4_nl", "q4_k"):
            four = reads.get(name)
            if eight and four and four / 4.5 < eight / 8.5:
                yield (
                    f"{name} decodes slower than q8_0 on {device.device} ({format_bytes(four)}/s of half the bytes "
                    f"against {format_bytes(eight)}/s): the engine was built without fast kernels for it."
                )


def rebuild_command() -> str:
    """The command line that builds the engine anew for this very processor."""
    options = f"--force-reinstall --no-deps --no-cache-dir --no-binary {ENGINE_PACKAGE}"
    return f"{sys.executable} -m pip install {options} {ENGINE_PACKAGE}=={ENGINE_VERSION}"
