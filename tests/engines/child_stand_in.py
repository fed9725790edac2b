"""A machine and engine processes without either: they run out of memory, lose a GPU and hang when a test says so.

The child speaks the real language over the real scheduler; only the model is missing. Its answers are letters.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from edgemed.core.errors import EngineFailed
from edgemed.core.units import GIB
from edgemed.engines import wire
from edgemed.engines.balance import Balance, WorkerOrders
from edgemed.engines.base import Cause, EngineConfig, EngineInfo, Sampling
from edgemed.engines.ladder import LadderRules, MachineState
from edgemed.engines.limits import Limits
from edgemed.engines.losses import uses_devices
from edgemed.engines.scheduler import Chunk, Scheduler
from edgemed.engines.supervisor import EngineProcess

QUICK = LadderRules(steady_s=0, patience_s=0.05, grace_s=0, quiet_s=0.05, proven_s=60, idle_s=0.01)
"""Rules that a test can wait for."""


def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Return when it holds; fails after the time."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        threading.Event().wait(0.002)


@dataclass
class Machine:
    """What the tests' computer has, and what became of the processes on it."""

    free_ram: int = 8 * GIB
    devices: dict[str, int | None] | None = field(default_factory=lambda: {"CUDA0": 8 * GIB})
    refuses: Callable[[EngineConfig], str] = lambda _: ""
    """Why a configuration cannot be loaded, or ""."""
    forgets_devices: bool = False
    """The library finds no GPU and loads into main memory without a word."""
    held: bool = False
    """No step ends, but `permits` of them."""
    permits: int = 0
    children: list[StandInChild] = field(default_factory=list)

    @property
    def child(self) -> StandInChild:
        """The newest."""
        return self.children[-1]

    def start(
        self,
        config: EngineConfig,
        orders: WorkerOrders,
        on_rows: Callable[[list[Any]], None],
        on_end: Callable[[], None],
    ) -> StandInChild:
        """What a supervisor calls in the place of ChildProcess."""
        child = StandInChild(self, config, on_rows, on_end)
        self.children.append(child)
        child.thread.start()
        return child

    def state(self) -> MachineState:
        return MachineState(self.free_ram, 16 * GIB)


class StandInChild:
    """One engine process, as a thread."""

    def __init__(
        self, machine: Machine, config: EngineConfig, on_rows: Callable[[list[Any]], None], on_end: Callable[[], None]
    ) -> None:
        self.machine, self.config = machine, config
        self.pid = 1000 + len(machine.children)
        self.began = time.monotonic()
        self._on_rows, self._on_end = on_rows, on_end
        self._inbox: SimpleQueue[bytes | None] = SimpleQueue()
        self._over = threading.Event()
        self._words, self._cause = "The engine's process ended with exit code 0.", "fault"
        self.thread = threading.Thread(target=self._run, daemon=True)

    # What a supervisor asks of it

    def in_its_thread(self) -> bool:
        return threading.current_thread() is self.thread

    def send(self, line: bytes) -> None:
        self._inbox.put(line)

    def close_input(self) -> None:
        self._over.set()
        self._inbox.put(None)

    def kill(self) -> None:
        self.close_input()

    def wait(self, timeout_s: float) -> bool:
        if not self.in_its_thread():
            self.thread.join(timeout_s)
        return not self.thread.is_alive()

    def epitaph(self) -> str:
        return self._words

    def cause(self) -> Cause:
        return self._cause  # type: ignore[return-value]

    # What a test orders

    def die(self, cause: Cause, words: str = "The engine's process was ended.") -> None:
        """End at once, in the middle of whatever it does."""
        self._words, self._cause = words, cause
        self.kill()

    def say(self, *rows: list[Any]) -> None:
        """Tell the supervisor something."""
        self._on_rows(json.loads(wire.encode_line(rows)))

    # Its life

    def _run(self) -> None:
        try:
            if words := self.machine.refuses(self.config):
                self.say(wire.failed_row(EngineFailed(words)))
                return
            self.say([wire.LOADING, 1.0])
            self.say([wire.READY, self._info().model_dump(mode="json")])
            self._serve()
        finally:
            self._on_end()

    def _info(self) -> EngineInfo:
        places: dict[str, tuple[int, int, int]] = {"RAM": (GIB, 0, 0)}
        if uses_devices(self.config) and not self.machine.forgets_devices:
            places["CUDA0"] = (GIB, 0, 0)
        return EngineInfo(
            engine="stand-in",
            architecture="none",
            model_name="none",
            context_length=self.config.context_length,
            n_slots=self.config.n_slots,
            vocab_size=256,
            chat_template="",
            memory=places,
        )

    def _serve(self) -> None:
        engine = _Letters(self)
        scheduler = Scheduler(engine, time.monotonic)
        while not self._over.is_set():
            while scheduler.idle or not self._inbox.empty():
                line = self._inbox.get()
                if line is None:
                    return
                self._obey(json.loads(line), scheduler)
            if begun := scheduler.admit():
                self.say(*([wire.BEGUN, request_id] for request_id in begun))
            events = scheduler.step()
            if not self._over.is_set():
                self._on_rows(json.loads(wire.encode_events(events)))

    def _obey(self, row: list[Any], scheduler: Scheduler) -> None:
        if row[0] == wire.SUBMIT:
            request, age_s = wire.decode_request(row)
            scheduler.submit(request, time.monotonic() - age_s)
        elif row[0] == wire.TOKENIZE:
            self.say([wire.TOKENS, row[1], [65] * 5])
        elif row[0] == wire.CANCEL:
            scheduler.cancel(row[1])
        elif row[0] == wire.PIN:
            scheduler.pin(row[1])
        elif row[0] == wire.FORGET:
            scheduler.forget_session(row[1])

    def pass_step(self) -> None:
        """Wait while steps are held."""
        machine = self.machine
        while machine.held and machine.permits <= 0 and not self._over.is_set() and self._inbox.empty():
            self._over.wait(0.002)
        machine.permits -= 1


class _Letters:
    """A StepEngine that writes letters."""

    closing = None
    n_batch = 64
    n_kept = 0

    def __init__(self, child: StandInChild) -> None:
        self._child = child
        self.n_slots = child.config.n_slots
        self.context_length = child.config.context_length

    adapters = frozenset[str]()

    def use_adapter(self, name: str) -> None: ...

    def acquire(self, slot: int, sampling: Sampling) -> None: ...
    def release(self, slot: int) -> None: ...

    def decode(self, chunks: Sequence[Chunk]) -> list[int]:
        self._child.pass_step()
        return [97 for chunk in chunks if chunk.wants_token]

    def piece(self, token: int) -> bytes:
        return bytes([token])


def rungs(model: Path) -> tuple[EngineConfig, ...]:
    """A plan and its ladder: on the GPU, on it with less, in main memory alone."""
    plan = EngineConfig(model_path=model, context_length=400, n_slots=2, n_gpu_layers=20, devices=("CUDA0",))
    less = plan.model_copy(update={"n_slots": 1, "context_length": 200})
    ram = EngineConfig(model_path=model, context_length=100)
    return plan, less, ram


@contextmanager
def engine_on(
    machine: Machine, model: Path, *, limits: Limits | None = None, progress: Any = None, **more: Any
) -> Iterator[EngineProcess]:
    """A started engine with the ladder above on that machine."""
    plan, *ladder = rungs(model)
    balance = Balance(
        **(
            {
                "ladder": tuple(ladder),
                "rules": QUICK,
                "machine": machine.state,
                "devices": lambda: machine.devices,
                "look_s": 0.01,
                "warm_up_s": 0.0,
            }
            | more
        )
    )
    engine = EngineProcess(plan, limits or Limits(first_pause_s=0.005, tick_s=0.01), balance, machine.start)
    try:
        engine.start(progress)
        yield engine
    finally:
        engine.close()
