"""What the server says of itself: /health, /api/status and /v1/models."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import JSONResponse

from edgemed import __version__
from edgemed.core.records import Record
from edgemed.engines.base import Cause, Engine, EngineHealth
from edgemed.medical.language import DEFAULT_LANGUAGE, language_data, languages
from edgemed.serve.door import SIGNED_IN
from edgemed.serve.errors import ApiError
from edgemed.serve.options import ServeOptions
from edgemed.serve.response_cache import ResponseCache

_NO_STORE = {"cache-control": "no-store"}
_POWER_EVERY_S = 30.0


class Condition(Record):
    """How the engine does, compared with its plan."""

    state: Literal["normal", "slow", "reduced"]
    """reduced: on a lower rung of the plan's ladder; slow: writes much more slowly than it should, on whichever rung.
    One that is both is called reduced."""
    rung: int
    """0 is the plan itself; each further one needs less."""
    slow: bool
    slower_by: float | None
    """How many times longer answers take than expected; None where nothing was measured or expected."""
    cause: Cause | None
    """Of a lower rung; the page says it in its own language."""
    words: str
    """For the one who asks; "" when all is normal."""


class Power(Record):
    """Where this computer's power comes from."""

    source: Literal["mains", "battery", "unknown"]
    """unknown: no power supply is reported, as on many mains-only machines."""
    percent: float | None
    """Of the battery's charge; None without one."""


class Health(Record):
    """GET /health: recent progress, not mere life. HTTP 200 when "ok", else 503."""

    status: str
    """ok, starting, restarting, stalled, failed or closed."""
    running: int
    waiting: int
    worker_restarts: int
    seconds_since_progress: float | None
    """None while there is nothing to do."""
    detail: str = ""
    state: Literal["normal", "slow", "reduced"]
    rung: int
    reason: str
    """Why it is on a lower rung, with the numbers; "" on the plan's own."""
    words: str
    """The state for the one who asks, as the page shows it; "" when normal."""
    slower_by: float | None
    threads: int | None
    """That decode now; None before the first answer."""
    tokens_per_s: float | None
    """Of all streams together, median of the last seconds of decoding."""
    tokens_per_s_per_stream: float | None
    expected_tokens_per_s: float | None
    """The plan's figure for one stream, else what the engine's own first minute showed."""
    context_length: int | None
    """Of each slot, on this rung; None before the engine has loaded."""
    n_slots: int | None
    warm_up_tokens: int | None
    """Length of the prompt that was read before the engine called itself ready."""


class LanguageStatus(Record):
    """A language that questions may be asked in."""

    code: str
    name: str
    danger_checked: bool
    """False when its danger signs were never tested; the page says so."""


class CacheStatus(Record):
    """The saved answers."""

    memory_entries: int
    disk: bool
    """Whether they outlive the server, sealed in a file."""
    warning: str


class Status(Record):
    """GET /api/status: what the page needs to know."""

    model: str
    engine: str
    version: str
    offline: bool
    demo: bool
    notice: str
    demo_notice: str
    context_length: int
    n_slots: int
    languages: tuple[LanguageStatus, ...]
    cache: CacheStatus
    condition: Condition
    power: Power
    up_s: int
    """Since the server started, in seconds."""
    network_warning: str
    """Not empty when patients' words cross the network in the clear."""
    signed_in: bool
    """Whether this page came in by signing in: it may offer to sign out (POST /api/logout)."""


class Serving(Record):
    """What `edgemed serve --json` says once it is ready."""

    url: str
    urls: tuple[str, ...]
    """Every address to open it at; `url` is the likeliest for a phone."""
    network: bool
    """Other machines can reach it."""
    network_warning: str
    certificate_sha256: str
    """Of the certificate that was made here; "" without one."""
    access_token_file: Path | None
    """None where no token is asked for."""
    model: str
    model_path: Path
    demo: bool
    offline: bool
    context_length: int
    n_slots: int
    pid: int


class PowerReading:
    """The power source, asked of the system at most every 30 s: each open page asks for the status every 10 s."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, read: Callable[[], Power] | None = None) -> None:
        self._clock = clock
        self._read = read or power_now
        self._found: tuple[float, Power] | None = None

    def now(self) -> Power:
        """The latest reading; called on any thread."""
        time_s = self._clock()
        found = self._found
        if found is None or time_s - found[0] >= _POWER_EVERY_S:
            found = self._found = (time_s, self._read())
        return found[1]


def power_now() -> Power:
    """What the system says of its power supply; some milliseconds."""
    from edgemed.core.records import Figure
    from edgemed.hardware.power import read_power
    from edgemed.hardware.record import TextFact

    source, charge = read_power()
    words = source.value if isinstance(source, TextFact) else ""
    return Power(
        source="battery" if words == "battery" else "mains" if words == "mains" else "unknown",
        percent=charge.value if isinstance(charge, Figure) else None,
    )


class StatusRoutes:
    """The three routes, over one engine."""

    def __init__(self, engine: Engine, options: ServeOptions, cache: ResponseCache) -> None:
        self._engine = engine
        self._options = options
        self._cache = cache
        self._started = int(time.time())
        self._began = time.monotonic()
        self._power = PowerReading()
        self._languages = language_statuses(options.languages)

    def _now(self, signed_in: bool) -> Status:
        info, options, cache = self._engine.info, self._options, self._cache.stats()
        return Status(
            model=options.model_name,
            engine=info.engine,
            version=__version__,
            offline=options.offline,
            demo=bool(options.demo_notice),
            notice=options.notice,
            demo_notice=options.demo_notice,
            context_length=info.context_length,
            n_slots=info.n_slots,
            languages=self._languages,
            cache=CacheStatus(memory_entries=cache.memory_entries, disk=cache.disk, warning=cache.warning),
            condition=condition_of(self._engine.health()),
            power=self._power.now(),
            up_s=int(time.monotonic() - self._began),
            network_warning=options.network_warning,
            signed_in=signed_in,
        )

    async def health(self, _request: Request) -> JSONResponse:
        """GET /health."""
        health = health_of(self._engine, self._options.stall_s)
        return JSONResponse(health.model_dump(), 200 if health.status == "ok" else 503, headers=_NO_STORE)

    async def status(self, request: Request) -> JSONResponse:
        """GET /api/status."""
        now = await asyncio.to_thread(self._now, bool(request.scope.get(SIGNED_IN)))
        return JSONResponse(now.model_dump(), headers=_NO_STORE)

    async def models(self, _request: Request) -> JSONResponse:
        """GET /v1/models: the one that is served, and its adapters."""
        return JSONResponse({"object": "list", "data": [self._model(name) for name in self._options.served]})

    async def model(self, request: Request) -> JSONResponse:
        """GET /v1/models/NAME."""
        name = request.path_params["name"]
        if name not in self._options.served:
            names = ", ".join(map(repr, self._options.served))
            raise ApiError(404, f"Only {names} can be asked here.", code="model_not_found", param="model")
        return JSONResponse(self._model(name))

    def _model(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self._started,
            "owned_by": "edgemed",
        }


def language_statuses(folder: Path | None) -> tuple[LanguageStatus, ...]:
    """Every language, English first. Raises UsageError for a malformed file, with the line or field at fault."""
    codes = sorted(languages(folder), key=lambda code: (code != DEFAULT_LANGUAGE, code))
    found = [language_data(code, folder) for code in codes]
    return tuple(
        LanguageStatus(code=data.language, name=data.name, danger_checked=data.danger_checked) for data in found
    )


def health_of(engine: Engine, stall_s: float) -> Health:
    """The engine's health, with "stalled" for one that runs without progress for `stall_s`."""
    now = engine.health()
    info = engine.info if now.state == "ready" else None
    silent = now.seconds_since_progress
    stalled = silent is not None and silent > stall_s
    status: str = now.state
    if now.state == "ready":
        status = "stalled" if stalled else "ok"
    condition, pace = condition_of(now), now.pace
    return Health(
        status=status,
        running=now.running,
        waiting=now.waiting,
        worker_restarts=now.restarts,
        seconds_since_progress=silent,
        detail=now.detail,
        state=condition.state,
        rung=now.rung,
        reason=now.reason,
        words=condition.words,
        slower_by=condition.slower_by,
        threads=pace.n_threads if pace else None,
        tokens_per_s=pace.tokens_per_s if pace else None,
        tokens_per_s_per_stream=pace.tokens_per_s_per_stream if pace else None,
        expected_tokens_per_s=pace.expected_tokens_per_s if pace else None,
        context_length=info.context_length if info else None,
        n_slots=info.n_slots if info else None,
        warm_up_tokens=info.warm_up_tokens if info else None,
    )


def condition_of(health: EngineHealth) -> Condition:
    """The engine's state as the page shows it."""
    pace = health.pace
    slow = pace is not None and pace.slow
    slower_by = 1 / pace.ratio if pace is not None and pace.ratio else None
    words = []
    if health.rung:
        words.append(_REDUCED[health.cause or "fault"])
    if slow:
        words.append(_slow_words(slower_by, named=bool(health.rung)))
    state: Literal["normal", "slow", "reduced"] = "reduced" if health.rung else "slow" if slow else "normal"
    cause = (health.cause or "fault") if health.rung else None
    return Condition(state=state, rung=health.rung, slow=slow, slower_by=slower_by, cause=cause, words=" ".join(words))


_BACK = "Long questions may be refused. It returns to normal by itself."
_REDUCED: dict[Cause, str] = {
    "memory": f"Reduced mode: this computer is low on memory. Close other programs if you can. {_BACK}",
    "device": f"Reduced mode: the graphics card cannot be used now. Answers may take longer. {_BACK}",
    "fault": f"Reduced mode: the program that writes the answers had failed and now does with less. {_BACK}",
}


def _slow_words(slower_by: float | None, *, named: bool) -> str:
    times = f"about {max(2, round(slower_by))} times longer" if slower_by else "much longer"
    if named:
        return f"Answers take {times} than they should."
    return f"Slow mode: this computer is busy or low on memory; answers take {times}."
