"""Which configuration of the engine runs: down when memory or a device is lost, back up when both are there again.

Rung 0 is the plan's own configuration, the others were planned beforehand, each needing less than the one before.

    down    at once when the engine died of it; from low memory between two answers, or at the latest after `patience_s`
    up      after `quiet_s` without a change, when no question is there and the resources are
    no flapping
            a rung that is lost again within `proven_s` of the climb doubles `quiet_s`, up to an hour; the engine
            then returns to the rung it came from, which had worked

Pure: the clock and the state of the machine are given to every call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgemed.core.units import MIB, format_bytes
from edgemed.engines.base import Cause, EngineConfig
from edgemed.engines.losses import uses_devices
from edgemed.engines.memory_breakdown import RAM


@dataclass(frozen=True, slots=True)
class LadderRules:
    """How long is quiet, and how little is too little."""

    reserve_share: float = 0.025
    least_reserve_bytes: int = 128 * MIB
    """Main memory that must stay free for the system: half of what a plan leaves to it."""
    patience_s: float = 10.0
    """Below the reserve, answers may end for so long; below half of it there is no time for them."""
    steady_s: float = 3.0
    """Memory that was low for less is forgiven: a program that starts takes and gives back."""
    grace_s: float = 20.0
    """After a change, until the system has given back what the last process held."""
    quiet_s: float = 120.0
    longest_quiet_s: float = 3600.0
    proven_s: float = 600.0
    """A rung that has run for so long after a climb may be climbed to as quickly as ever."""
    idle_s: float = 5.0
    """Without a question, before a climb: the next one would have to wait for it."""
    margin: float = 1.5
    """Reserves that must be free beside a better rung, so that the climb is not undone at once."""


@dataclass(frozen=True, slots=True)
class MachineState:
    """What the machine has now; None where nobody can say."""

    free_ram: int | None
    total_ram: int | None
    free_by_device: Mapping[str, int | None] | None = None
    """Free bytes of every device that is there, by the engine's names, None for one that does not say; looked up
    before a climb alone."""


class Ladder:
    """The rungs, and the one that runs. Calls come from one thread, or under one lock."""

    def __init__(
        self, plan: EngineConfig, ladder: Sequence[EngineConfig] = (), rules: LadderRules | None = None
    ) -> None:
        self._rungs = (plan, *ladder)
        self._rules = rules or LadderRules()
        self.rung = 0
        self.cause: Cause | None = None
        self.reason = ""
        self._changed_at = float("-inf")
        self._quiet_s = self._rules.quiet_s
        self._came_from: int | None = None
        """The rung before the last climb; None when it is proven, or was a step down."""
        self._low_since: float | None = None
        self._ready_at = float("-inf")
        self._ran: set[int] = set()
        self._needs: dict[int, Mapping[str, int]] = {}
        """Bytes by place that each rung took when it ran."""

    @property
    def config(self) -> EngineConfig:
        """The configuration that runs."""
        return self._rungs[self.rung]

    @property
    def has_lower(self) -> bool:
        """Whether there is anything to step down to."""
        return self.rung + 1 < len(self._rungs)

    @property
    def quiet_s(self) -> float:
        """How long the next climb waits after a change."""
        return self._quiet_s

    def reserve_bytes(self, total_ram: int | None) -> int:
        """Main memory that has to stay free."""
        return max(self._rules.least_reserve_bytes, int(self._rules.reserve_share * (total_ram or 0)))

    @property
    def has_run(self) -> bool:
        """Whether the present rung has run before, and was not climbed to since."""
        return self.rung in self._ran and self._came_from is None

    @property
    def fell(self) -> bool:
        """Whether the last change was a step down."""
        return self.rung > 0 and self._came_from is None

    @property
    def can_drop_devices(self) -> bool:
        """Whether a lower rung runs in main memory alone."""
        return self._below("device") is not None

    def loaded(self, needs: Mapping[str, int], now: float) -> None:
        """The present rung runs, and took so many bytes by place; empty where it cannot be said."""
        self._ready_at = now
        self._ran.add(self.rung)
        if needs:
            self._needs[self.rung] = needs

    def step_down(self, cause: Cause, reason: str, now: float) -> bool:
        """Move to the rung that can do without what was lost; False when there is none."""
        target = self._below(cause)
        if target is None:
            return False
        if self._came_from is not None and now - self._changed_at < self._rules.proven_s:
            self._quiet_s = min(2 * self._quiet_s, self._rules.longest_quiet_s)
        self.rung, self.cause, self.reason = target, cause, reason
        self._came_from, self._low_since, self._changed_at = None, None, now
        return True

    def _below(self, cause: Cause) -> int | None:
        if self._came_from is not None:
            return self._came_from
        lower = range(self.rung + 1, len(self._rungs))
        if cause == "device":
            return next((index for index in lower if not uses_devices(self._rungs[index])), None)
        return next(iter(lower), None)

    def squeezed(self, state: MachineState, now: float, *, busy: bool) -> str:
        """Why memory calls for a step down now, with the numbers; "" when it does not. Ask once a second."""
        rules, free = self._rules, state.free_ram
        reserve = self.reserve_bytes(state.total_ram)
        if free is None or free >= reserve or now - self._ready_at < rules.grace_s or not self.has_lower:
            self._low_since = None
            return ""
        self._low_since = now if self._low_since is None else self._low_since
        low_s = now - self._low_since
        urgent = free < reserve / 2 or low_s >= rules.patience_s
        if low_s < rules.steady_s or (busy and not urgent):
            return ""
        return f"{format_bytes(free)} of memory were free; {format_bytes(reserve)} are kept for the system."

    def climb_due(self, now: float, idle_s: float) -> bool:
        """Whether it is time to look for a better rung; looking may cost a second or two."""
        rested = now - self._changed_at >= self._quiet_s
        return self.rung > 0 and rested and idle_s >= self._rules.idle_s

    def climb(self, state: MachineState, now: float) -> bool:
        """Move to the best rung whose resources are there; False, and another quiet time, when there is none."""
        target = next((rung for rung in range(self.rung) if self._would_fit(rung, state)), None)
        if target is None:
            self._changed_at = now
            return False
        self._came_from, self.rung, self._changed_at, self._low_since = self.rung, target, now, None
        if target == 0:
            self.cause, self.reason = None, ""
        return True

    def woke(self, now: float) -> None:
        """The machine slept: what was missing may be there again, so the next climb waits for nothing but silence."""
        self._changed_at = min(self._changed_at, now - self._quiet_s)

    def missing(self, state: MachineState) -> tuple[str, ...]:
        """Devices that hold a part of the present rung and are gone."""
        if state.free_by_device is None or not uses_devices(self.config):
            return ()
        held = [name for name in self._needs.get(self.rung, {}) if name != RAM]
        return tuple(name for name in held or self.config.devices if name not in state.free_by_device)

    @property
    def knows_devices(self) -> bool:
        """Whether any rung uses one."""
        return any(uses_devices(rung) for rung in self._rungs)

    def proven(self, now: float) -> None:
        """Forget the last climb when it has held for long enough."""
        if self._came_from is not None and now - self._changed_at >= self._rules.proven_s:
            self._came_from = None
            self._quiet_s = self._rules.quiet_s

    def _would_fit(self, rung: int, state: MachineState) -> bool:
        """A rung that never ran is tried when memory is not short: what it takes is not known."""
        mine, wanted = self._needs.get(self.rung, {}), self._needs.get(rung, {})
        if state.free_ram is not None:
            more = max(0, wanted.get(RAM, 0) - mine.get(RAM, 0))
            if state.free_ram - more < self._rules.margin * self.reserve_bytes(state.total_ram):
                return False
        devices = state.free_by_device
        if devices is None or not uses_devices(self._rungs[rung]):
            return True
        there = bool(devices) and all(name in devices for name in self._rungs[rung].devices)
        on_devices = [(name, n_bytes) for name, n_bytes in wanted.items() if name != RAM]
        return there and all(_room(devices, name, mine) >= n_bytes for name, n_bytes in on_devices)


def _room(devices: Mapping[str, int | None], name: str, mine: Mapping[str, int]) -> float:
    """Bytes that a device would have for another rung; endless where it does not say, none where it is gone."""
    if name not in devices:
        return -1.0
    free = devices[name]
    return float("inf") if free is None else free + mine.get(name, 0)
