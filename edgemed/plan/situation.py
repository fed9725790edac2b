"""One model, one machine, one wish: what a plan has to decide about, and what each place offers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgemed.core.errors import UsageError
from edgemed.core.units import MIB
from edgemed.engines.base import AdapterFile
from edgemed.engines.memory_breakdown import RAM
from edgemed.hardware.identity import hardware_now
from edgemed.hardware.record import HardwareProfile, value_of
from edgemed.models.spec import ModelSpec
from edgemed.plan.memory import Estimate
from edgemed.plan.record import Workload

LEAST_REQUEST = 128
"""Tokens; a medical question's instructions alone take most of them."""
_RAM_RESERVE_SHARE = 0.05
_RAM_RESERVE_BYTES = 256 * MIB
"""Left to the system, a browser tab and the page cache: a box that swaps is slower than a smaller plan."""
_GPU_RESERVE_BYTES = 128 * MIB
"""The driver's own growth; the engine's figure of free memory is already without its context."""


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What the user asked for; None leaves it to the plan."""

    context_length: int | None = None
    n_slots: int | None = None
    max_ram_bytes: int | None = None
    max_vram_bytes: int | None = None
    workload: Workload = field(default_factory=Workload)
    adapters: tuple[AdapterFile, ...] = ()
    """Held beside the model."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What one place has."""

    place: str
    free_bytes: int
    reserve_bytes: int
    limit_bytes: int
    note: str
    shares_ram: bool = False
    """A part of main memory: what lies here counts there as well."""


@dataclass(frozen=True, slots=True)
class Case:
    """One model, one machine, one wish."""

    model_path: Path
    spec: ModelSpec
    profile: HardwareProfile
    request: PlanRequest
    offers: Mapping[str, Offer]

    @property
    def gpus(self) -> tuple[str, ...]:
        """The GPUs that offer memory, in the engine's order."""
        return tuple(place for place in self.offers if place != RAM)

    @property
    def gpu(self) -> str:
        """The first GPU that offers memory; "" without one."""
        return next(iter(self.gpus), "")

    def fits(self, estimate: Estimate) -> bool:
        """Whether every place holds its part."""
        places = {need.place for need in estimate.needs}
        return all(place in self.offers and self.spare(estimate, place) >= 0 for place in places)

    def fits_gpus(self, estimate: Estimate) -> bool:
        """Whether every GPU holds its part."""
        return all(self.spare(estimate, place) >= 0 for place in self.gpus)

    def spare(self, estimate: Estimate, place: str) -> int:
        """Bytes that one place still offers beside it; negative when it is short."""
        shared = [offer.place for offer in self.offers.values() if offer.shares_ram] if place == RAM else []
        return self.offers[place].limit_bytes - sum(estimate.bytes_in(name) for name in (place, *shared))


def offers(profile: HardwareProfile, request: PlanRequest) -> dict[str, Offer]:
    """What each place has for us: main memory, and every GPU with its own memory that the engine names."""
    offers = {}
    free, total = value_of(profile.memory.free), value_of(profile.memory.total)
    if free is not None:
        reserve = max(_RAM_RESERVE_BYTES, int(_RAM_RESERVE_SHARE * (total or free)))
        offers[RAM] = _offer(RAM, int(free), reserve, request.max_ram_bytes, "")
    for device in profile.engine_devices():
        memory = value_of(device.memory_free)
        if device.holds_layers and memory is not None and request.max_vram_bytes != 0:
            shared = "; a part of main memory" if device.shares_ram else ""
            note = f"{device.description}; free as the engine sees it{shared}"
            found = _offer(device.name, int(memory), _GPU_RESERVE_BYTES, request.max_vram_bytes, note)
            offers[device.name] = replace(found, shares_ram=device.shares_ram)
    return offers


def _offer(place: str, free: int, reserve: int, most: int | None, note: str) -> Offer:
    limit = max(0, free - reserve)
    return Offer(place, free, reserve, limit if most is None else min(limit, most), note)


def check_request(spec: ModelSpec, profile: HardwareProfile, request: PlanRequest) -> None:
    """Raise UsageError for a wish that no machine could grant this model."""
    if request.context_length is not None:
        if request.context_length < min(LEAST_REQUEST, spec.context_length):
            raise UsageError(
                f"A context of {request.context_length} tokens holds no question with its instructions and answer.",
                next_step=f"--context {min(2048, spec.context_length)}; at least {LEAST_REQUEST}",
            )
        if request.context_length > spec.context_length:
            raise UsageError(
                f"The model was made for a context of {spec.context_length} tokens, not {request.context_length}.",
                next_step=f"--context {spec.context_length}, or less",
            )
    if request.n_slots is not None and not 1 <= request.n_slots <= 64:
        raise UsageError(f"{request.n_slots} slots cannot be had.", next_step="use 1 to 64 slots")
    if request.max_vram_bytes and not any(device.holds_layers for device in profile.engine_devices()):
        raise UsageError(
            "A limit of GPU memory was given, but the engine has no GPU on this machine.",
            next_step="leave out --max-vram; `edgemed profile` says what keeps a GPU from being used",
        )


def check_trial(profile: HardwareProfile) -> None:
    """Raise UsageError for a trial on a machine that is not the profile's."""
    if profile.hardware_id() != hardware_now():
        raise UsageError(
            f"The profile is of another machine ({profile.system}): nothing can be timed for it here.",
            next_step="plan on paper with --no-trial, or leave out --profile",
        )
