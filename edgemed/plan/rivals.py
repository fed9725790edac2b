"""The ways to run one model with one context and so many slots on this machine, each worth a trial.

Among them always what the user would have without us: the CPU alone, as many layers on the GPU as fit, and what
llama.cpp's own fit would choose at its default margin. Beside them what exact accounting and the integer program find.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgemed.core.units import GIB
from edgemed.engines.base import EngineConfig, TensorPlace
from edgemed.engines.memory_breakdown import RAM
from edgemed.hardware.record import value_of
from edgemed.plan.engine_layout import layer_pattern
from edgemed.plan.memory import Estimate, estimate_memory, kv_type_fits
from edgemed.plan.situation import Case
from edgemed.plan.weight_placement import CPU
from edgemed.plan.wishes import last_within, most_layers, usable_cores, usual_threads

FIT_MARGIN_BYTES = 1 * GIB
"""What llama.cpp's fit leaves free on each GPU unless told otherwise (`--fit-target 1024`, common/arg.cpp)."""
FIT_UBATCH = 512
"""llama.cpp's own default, which its fit projects with."""
LARGER_UBATCH = 512
FIT = "llama.cpp's own fit"
_SMALL_PARAMETERS = 300e6
"""Below it, waiting for each other can cost threads more than they gain: 7.9 against 10.8 ms for a token of a 0.1B."""


@dataclass(frozen=True, slots=True)
class Rival:
    """One way to run the model."""

    name: str
    estimate: Estimate

    @property
    def config(self) -> EngineConfig:
        """How the engine loads it."""
        return self.estimate.config


def find_rivals(
    case: Case,
    shape: EngineConfig,
    *,
    alone: EngineConfig | None = None,
    planned: Sequence[EngineConfig] = (),
) -> list[Rival]:
    """Every way worth timing that fits, the plainest first; no configuration stands there twice.

    `shape` gives context, slots, KV cache and threads, `alone` the same for the processor without a GPU (default:
    `shape`); `planned` are configurations that a solver proposes. Empty when nothing fits.
    """
    found: list[Rival] = []
    for name, estimate in _ways(case, shape, alone or shape, planned):
        if case.fits(estimate) and all(estimate.config != rival.config for rival in found):
            found.append(Rival(name, estimate))
    return found


def _ways(
    case: Case, shape: EngineConfig, alone: EngineConfig, planned: Sequence[EngineConfig]
) -> Iterator[tuple[str, Estimate]]:
    alone = alone.model_copy(update={"n_gpu_layers": 0})
    larger = alone.model_copy(update={"n_ubatch": LARGER_UBATCH})
    names = ("CPU alone", "CPU alone, larger chunks of the prompt")
    yield from zip(names, estimate_memory(case.spec, [alone, larger], case.gpu), strict=True)
    if not case.gpu:
        return
    if most := most_layers(case, shape):
        yield "most layers on the GPU", most
    larger = shape.model_copy(update={"n_ubatch": LARGER_UBATCH})
    yield from _fewer_layers(case, shape, larger)
    if most := most_layers(case, larger):
        yield "most layers on the GPU, larger chunks of the prompt", most
    smaller_kv = shape.kv_type == "f16" and shape.flash_attention and kv_type_fits(case.spec, "q8_0")
    if smaller_kv and (most := most_layers(case, shape.model_copy(update={"kv_type": "q8_0"}))):
        yield "most layers on the GPU, KV cache in 8 bits", most
    if attention := _attention_first(case, shape):
        yield "attention on the GPU, feed-forward as far as it fits", attention
    if fit := fit_of_llama_cpp(case, shape):
        yield FIT, fit
    for estimate in estimate_memory(case.spec, planned, case.gpu):
        config = estimate.config
        yield f"the integer program, {config.kv_type} KV cache, chunks of {config.n_ubatch}", estimate


def _fewer_layers(case: Case, *shapes: EngineConfig) -> Iterator[tuple[str, Estimate]]:
    """As few layers on the GPU as main memory allows, and half of those between: for a GPU that is the slower one."""
    for shape in shapes:
        most = most_layers(case, shape)
        if most is None:
            continue
        last = most.config.n_gpu_layers
        counts = [shape.model_copy(update={"n_gpu_layers": count}) for count in range(last, 0, -1)]
        fewest = last_within(case, counts, lambda found: case.spare(found, RAM) >= 0)
        if fewest is None or fewest.config.n_gpu_layers == last:
            continue
        chunks = "" if shape.n_ubatch == shapes[0].n_ubatch else ", larger chunks of the prompt"
        yield f"fewest layers on the GPU{chunks}", fewest
        middle = (fewest.config.n_gpu_layers + last) // 2
        (half,) = estimate_memory(case.spec, [shape.model_copy(update={"n_gpu_layers": middle})], case.gpu)
        yield f"half of the layers on the GPU{chunks}", half


def fit_of_llama_cpp(case: Case, shape: EngineConfig) -> Estimate | None:
    """What `llama-server --fit` would do with this context and these slots: layers, as long as 1 GiB stays free.

    It projects with its own defaults: f16 keys and values, chunks of 512 tokens, one thread a core.
    """
    threads = int(value_of(case.profile.cpu.physical_cores) or shape.n_threads)
    theirs = shape.model_copy(update={"kv_type": "f16", "n_ubatch": FIT_UBATCH, "n_threads": threads})

    def within(estimate: Estimate) -> bool:
        offers = (case.offers[place] for place in case.gpus)
        # The user's own limit stands for the memory that the card has.
        free = {offer.place: min(offer.free_bytes, offer.limit_bytes + offer.reserve_bytes) for offer in offers}
        return all(estimate.bytes_in(place) <= n_bytes - FIT_MARGIN_BYTES for place, n_bytes in free.items())

    counts = range(case.spec.n_layers + 2)
    return last_within(case, [theirs.model_copy(update={"n_gpu_layers": count}) for count in counts], within)


def _attention_first(case: Case, shape: EngineConfig) -> Estimate | None:
    """Attention, KV cache and head of every layer on the GPU, and the feed-forward of as many layers as fit."""
    n_layers = case.spec.n_layers
    every = shape.model_copy(update={"n_gpu_layers": n_layers + 1})
    configs = [
        every.model_copy(update={"tensor_places": (feed_forward_place(range(left), CPU),)})
        for left in range(n_layers, 0, -1)
    ]
    return last_within(case, configs, case.fits_gpus)


def feed_forward_place(layers: Sequence[int], device: str) -> TensorPlace:
    """The feed-forward weights of these layers on one device."""
    return TensorPlace(pattern=rf"^blk\.({layer_pattern(layers)})\.ffn_(gate|up|down|gate_up)\.weight$", device=device)


def thread_counts(case: Case) -> tuple[int, ...]:
    """How many threads are worth timing: one core left free, every core, and what the profile found fastest."""
    counts = {usual_threads(case.profile), usable_cores(case.profile)}
    if case.spec.n_parameters < _SMALL_PARAMETERS:
        counts.add(1)
    speed = case.profile.speed
    if speed.available:
        counts.add(min(speed.n_threads, int(value_of(case.profile.cpu.usable_cores) or 1)))
    return tuple(sorted(counts))


def needed_by_place(estimate: Estimate) -> dict[str, int]:
    """Bytes by place, main memory first."""
    places = dict.fromkeys((RAM, *(need.place for need in estimate.needs)))
    return {place: estimate.bytes_in(place) for place in places}
