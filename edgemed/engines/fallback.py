"""What becomes of an engine after a loss, and when it had better run otherwise: for the supervisor, which does it.

Joins the restart budget (how often), the ladder (on which rung) and the watches of each rung's pace. Every method is
called with the engine's lock held, but `look`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgemed.core.errors import EdgemedError, EngineFailed
from edgemed.engines.balance import Balance, WorkerOrders
from edgemed.engines.base import Cause, EngineConfig, EngineInfo, Pace
from edgemed.engines.ladder import Ladder, MachineState
from edgemed.engines.limits import Limits, RestartBudget
from edgemed.engines.losses import cause_of, uses_devices
from edgemed.engines.memory_breakdown import RAM
from edgemed.engines.step_times import Block
from edgemed.engines.watchdog import PaceWatch

_WORDS: dict[Cause, str] = {
    "memory": "Memory ran short.",
    "device": "A device that held a part of the model was lost.",
    "fault": "The engine failed.",
}


class Hung(EngineFailed):
    """The engine's process did nothing for too long while it had work."""


@dataclass(frozen=True, slots=True)
class Loss:
    """An engine's process that has ended, or was ended."""

    error: EdgemedError
    cause: Cause
    """What the process itself showed; the error's words may say more."""
    loaded: bool
    """It had called itself ready."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do after a loss."""

    pause_s: float | None
    """Before the next process; None when there shall be none."""
    moved: bool
    """The next one runs on a lower rung."""


class Fallback:
    """The ladder of one engine and what is known of its rungs."""

    def __init__(self, config: EngineConfig, limits: Limits, balance: Balance | None) -> None:
        self._limits = limits
        self._balance = balance or Balance(warm_up_s=0.0, adapts_threads=False)
        self.ladder = Ladder(config, self._balance.ladder, self._balance.rules)
        self._budget = RestartBudget(limits)
        self._paces: dict[int, PaceWatch] = {}
        self._looked_at = float("-inf")
        self._served = False

    @property
    def orders(self) -> WorkerOrders:
        """What the next process is told."""
        return WorkerOrders(
            warm_up_s=self._warm_up_s(),
            adapts_threads=self._balance.adapts_threads,
            hides_devices=self.ladder.rung > 0 and not uses_devices(self.ladder.config),
        )

    def _warm_up_s(self) -> float:
        """In full at the start and after a climb, when nobody waits; briefly after a fall; not for what has run."""
        full = self._balance.warm_up_s
        if self.ladder.has_run:
            return 0.0
        return min(full, self._balance.warm_up_after_fall_s) if self._served and self.ladder.fell else full

    @property
    def look_s(self) -> float | None:
        """How often memory has to be looked at; None where it changes nothing."""
        return self._balance.look_s if self._balance.ladder else None

    def note(self, block: Block, now: float) -> None:
        """Take in the times of decoding steps."""
        rung = self.ladder.rung
        if rung not in self._paces:  # the plan's figure is for its own rung alone
            planned = self._balance.planned_tokens_per_s if rung == 0 else None
            self._paces[rung] = PaceWatch(planned, self._balance.pace)
        self._paces[rung].note(block, now)

    def pace(self, now: float) -> Pace | None:
        """How fast the present rung is; None before it was measured."""
        watch = self._paces.get(self.ladder.rung)
        return watch.pace(now) if watch else None

    def lacks_devices(self, info: EngineInfo) -> bool:
        """Whether the engine runs without the devices of its rung: llama.cpp does without a GPU and says nothing."""
        alone = bool(info.memory) and set(info.memory) == {RAM}
        return alone and uses_devices(self.ladder.config) and self.ladder.can_drop_devices

    def took(self, info: EngineInfo, now: float) -> None:
        """The present rung runs."""
        self._served = True
        self.ladder.loaded({place: sum(parts) for place, parts in info.memory.items()}, now)

    def after_loss(self, loss: Loss, now: float) -> Verdict:
        """Down for memory, a device, or a rung that does not even load; else again, as often as the budget allows.

        An engine that uses up its budget on one rung gets another chance on the next.
        """
        pause_s: float | None = None
        moved = self._move_down(loss, now)
        if not moved:
            pause_s = self._budget.pause_after_loss(now)
            moved = pause_s is None and self._step_down("fault", loss.error, now)
        if moved:
            self._budget = RestartBudget(self._limits)
            pause_s = self._limits.first_pause_s
        return Verdict(pause_s, moved)

    def _move_down(self, loss: Loss, now: float) -> bool:
        told = cause_of(loss.error.what)
        cause = told if told != "fault" else loss.cause
        hung = isinstance(loss.error, Hung)
        if hung and uses_devices(self.ladder.config):
            cause = "device"  # a driver waits for ever for a GPU that is gone
        unloadable = not loss.loaded and not hung and isinstance(loss.error, EngineFailed)
        return (cause != "fault" or unloadable) and self._step_down(cause, loss.error, now)

    def _step_down(self, cause: Cause, error: EdgemedError, now: float) -> bool:
        return self.ladder.step_down(cause, f"{_WORDS[cause]} {error.what}", now)

    def squeezed(self, now: float, *, busy: bool) -> bool:
        """Move down before memory ends; True when that was done. Costs some 50 microseconds once a second."""
        if not self._balance.ladder or now - self._looked_at < self._balance.look_s:
            return False
        self._looked_at = now
        self.ladder.proven(now)
        why = self.ladder.squeezed(self._balance.machine(), now, busy=busy)
        return bool(why) and self.ladder.step_down("memory", f"{_WORDS['memory']} {why}", now)

    def rested(self) -> None:
        """Losses of before count no more."""
        self._budget = RestartBudget(self._limits)

    def answered(self) -> None:
        """An answer came to its end."""
        self._budget.note_answer()

    def slept_s(self) -> float:
        """Seconds that the machine slept since it was last asked."""
        return self._balance.slept_s()

    def woke(self, state: MachineState | None, now: float) -> bool:
        """After a sleep what was measured before says nothing. True when a device is gone and a lower rung is taken."""
        for watch in self._paces.values():
            watch.forget()
        self.ladder.woke(now)
        gone = self.ladder.missing(state) if state is not None else ()
        why = f"{_WORDS['device']} {', '.join(gone)} did not come back after the computer slept."
        return bool(gone) and self.ladder.step_down("device", why, now)

    def look(self) -> MachineState:
        """What the machine has, with its devices; may take seconds."""
        return replace(self._balance.machine(), free_by_device=self._balance.devices())
