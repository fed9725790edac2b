"""The figures of equation 7 on this machine: adapters beside one base, or merged models, timed with the base itself.

A merged model has the base's shapes and formats, so the base without an adapter is as fast and as large. Timed are a
question without and with an adapter, a change of adapters, and the load; the rest are files' sizes and the plan's
memory, of the place that is fullest. A few seconds for a small model, a minute for a 7B.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from edgemed.core.errors import EngineFailed
from edgemed.core.progress import Progress
from edgemed.engines.stopwatch import Measurement, Stopwatch, StopwatchFailed
from edgemed.plan.deployment import Mix, ModeFigures, choose_mode
from edgemed.plan.mode_history import stored_weights
from edgemed.plan.record import Budget, Plan
from edgemed.plan.trial import STEPS

ADAPTERS = "adapters on one base"
ALL_LOADED = "merged models, all loaded"
ONE_LOADED = "merged models, one loaded at a time"
_CHANGES = 15
_REPETITIONS = 3


@dataclass(frozen=True, slots=True)
class ModeTimes:
    """Seconds, each the best of its repetitions: what other programs did meanwhile is no property of a mode."""

    plain_question: float
    adapter_question: float
    change: float
    """What the first step after a change of adapters takes more than another."""
    load: float


def plan_with_mode(plan: Plan, switch_share: float, progress: Progress) -> Plan:
    """The plan of a model with adapters, and the mode chosen for them by the clinic's weights or the default.

    Raises EngineFailed when the engine cannot be timed.
    """
    mix = Mix(n_specialities=len(plan.engine_config.adapters), switch_share=switch_share)
    times = time_modes(plan, progress)
    choice = choose_mode(figures_of(plan, times), mix, stored_weights())
    return plan.model_copy(update={"deployment": choice})


def time_modes(plan: Plan, progress: Progress) -> ModeTimes:
    """Timed with the plan's own configuration. Raises EngineFailed."""
    config, workload = plan.engine_config, plan.workload
    names = [file.name for file in config.adapters]
    steps = min(STEPS, workload.answer_tokens)
    question = {"prompt_tokens": workload.prompt_tokens, "answer_tokens": steps, "repetitions": _REPETITIONS}

    def seconds(watch: Stopwatch, adapter: str) -> float:
        timed = watch.measure(Measurement.model_validate({**question, "adapter": adapter}))
        return min(timed.prompt_s) + workload.answer_tokens * min(timed.step_s)

    def first_step(watch: Stopwatch, leaves: str | None) -> float:
        step = Measurement(prompt_tokens=1, repetitions=_CHANGES, adapter=names[0], leaves=leaves)
        return min(watch.measure(step).prompt_s)

    try:
        with progress.task("Timing adapters", 1) as task, Stopwatch(config) as watch:
            watch.measure(Measurement(prompt_tokens=16, answer_tokens=2, repetitions=1))
            change = first_step(watch, names[-1] if len(names) > 1 else "") - first_step(watch, None)
            plain, adapted = seconds(watch, ""), seconds(watch, names[0])
            task.advance(1)
            return ModeTimes(plain, adapted, max(0.0, change), watch.loaded.seconds)
    except StopwatchFailed as error:
        raise EngineFailed(f"The adapters could not be timed: {error}.", next_step="plan with --no-trial") from error


def figures_of(plan: Plan, times: ModeTimes) -> tuple[ModeFigures, ...]:
    """The modes there are for a plan with adapters."""
    files = plan.engine_config.adapters
    n, fullest = len(files), _fullest(plan.budgets)
    added = sum(need.n_bytes for need in plan.memory if need.part == "adapters" and need.place == fullest.place)
    merged_memory = fullest.needed_bytes - added
    beside = sum(file.path.stat().st_size for file in files)
    here = plan.model.n_bytes + beside
    limits = {
        "memory_limit_bytes": fullest.limit_bytes,
        "disk_limit_bytes": shutil.disk_usage(plan.model.path.parent).free + here,
    }
    merged = {"mode": "merged", "question_s": times.plain_question, "disk_bytes": n * plan.model.n_bytes}
    ways: Sequence[dict[str, object]] = (
        {
            "name": ADAPTERS,
            "mode": "adapter",
            "question_s": times.adapter_question,
            "change_s": times.change,
            "memory_bytes": fullest.needed_bytes,
            "disk_bytes": here,
            "load_s": times.load,
        },
        {
            **merged,
            "name": ALL_LOADED,
            "change_s": 0.0,
            "memory_bytes": n * merged_memory,
            "load_s": n * times.load,
        },
        {
            **merged,
            "name": ONE_LOADED,
            "change_s": times.load if n > 1 else 0.0,
            "memory_bytes": merged_memory,
            "load_s": times.load,
        },
    )
    return tuple(ModeFigures.model_validate({**way, **limits}) for way in (ways if n > 1 else (ways[0], ways[2])))


def _fullest(budgets: Sequence[Budget]) -> Budget:
    return max(budgets, key=lambda one: one.needed_bytes / one.limit_bytes if one.limit_bytes else 0.0)
