"""Makes a plan: the largest usual configuration that fits, run in the way that was fastest here; or the gap in numbers.

Two questions, one after the other. What can be had: context, slots and KV cache, by memory alone (wishes.py). How it is
run: which device holds what, chunks and threads, by timing each way on this machine (rivals.py, trial.py); without a
trial, by what the machine's profile predicts, else the most layers on the GPU.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgemed.core.errors import PlanInfeasible, UsageError
from edgemed.core.progress import Progress, SilentProgress
from edgemed.core.records import MaybeFigure, NotAvailable
from edgemed.core.units import format_bytes
from edgemed.engines.base import AdapterFile, EngineConfig
from edgemed.engines.memory_breakdown import RAM
from edgemed.hardware.record import EngineDevice, EngineProfile, HardwareProfile
from edgemed.models.adapter import check_adapter, check_fits
from edgemed.models.gguf import check_gguf, spec_from_gguf
from edgemed.models.spec import ModelSpec
from edgemed.plan.explain import infeasible, recipe_of, server_command
from edgemed.plan.memory import Estimate, layers_on_gpu
from edgemed.plan.predicted import best_predicted, predicted_rate, predicted_seconds, predicted_ttft_ms, worth_timing
from edgemed.plan.readback import compare_memory
from edgemed.plan.record import OFFERS_LESS, Budget, Candidate, ModelIdentity, Placement, Plan, Workload
from edgemed.plan.rivals import find_rivals, needed_by_place, thread_counts
from edgemed.plan.situation import Case, Offer, PlanRequest, check_request, check_trial, offers
from edgemed.plan.solved import solved_configs
from edgemed.plan.trial import NOISE, Outcome, fastest, run_trial
from edgemed.plan.wishes import choose, fallbacks, is_reduced

__all__ = ["PlanRequest", "check_adapters", "identify", "make_plan", "read_spec"]

_NOT_TIMED = NotAvailable(reason="not timed: a trial needs the model and this machine")


@dataclass(frozen=True, slots=True)
class _Looked:
    """One way to run it, as far as it is known."""

    name: str
    estimate: Estimate
    why: str
    """Why it lost, should it lose."""
    outcome: Outcome | None = None

    @property
    def config(self) -> EngineConfig:
        """How the engine loads it, with the threads that a trial found."""
        return self.outcome.config if self.outcome else self.estimate.config


def make_plan(
    model_path: Path,
    profile: HardwareProfile,
    request: PlanRequest | None = None,
    progress: Progress | None = None,
    *,
    trial: bool = False,
) -> Plan:
    """How the GGUF model at `model_path` runs on the machine of `profile`; with `trial`, as timed here and now.

    A trial takes a few seconds for a small model and some minutes for a 7B. Raises ModelRefused for a damaged file,
    UsageError for a wish that cannot be granted, and PlanInfeasible with the gap in bytes and the cheapest ways out.
    """
    watcher: Progress = progress or SilentProgress()
    request = request or PlanRequest()
    model_path = model_path.absolute()  # a saved plan is used from other folders
    spec = read_spec(model_path)
    check_adapters(model_path, request.adapters)
    check_request(spec, profile, request)
    if trial:
        check_trial(profile)
    case = Case(model_path, spec, profile, request, offers(profile, request))
    if RAM not in case.offers:
        raise PlanInfeasible("The profile does not say how much memory is free.", next_step="edgemed profile")
    with watcher.task("Projecting memory", 1) as task:
        estimates, chosen = choose(case)
        if chosen is None:
            limits = {place: offer.limit_bytes for place, offer in case.offers.items()}
            raise infeasible(spec, model_path, estimates, limits, by_user=limits[RAM] == request.max_ram_bytes)
        shape = estimates[chosen].config
        workload = request.workload.within(shape.context_length)
        planned = list(solved_configs(case, shape, workload))
        rivals = find_rivals(case, shape, alone=_on_the_processor(case, estimates), planned=planned)
        task.advance(1)
    looked = [_Looked(_words(found.config), found, _why_not(case, found)) for found in estimates]
    predicted = {rival.name: predicted_seconds(case, rival.config, workload) for rival in rivals}
    first = len(looked)
    if trial:
        timed, left = worth_timing(rivals, predicted)
        outcomes = run_trial(timed, workload, thread_counts(case), watcher)
        winner = fastest(outcomes, workload)
        looked += [
            _Looked(found.rival.name, found.rival.estimate, _why_slower(found, outcomes, winner, workload), found)
            for found in outcomes
        ]
        looked += [_Looked(rival.name, rival.estimate, "predicted to be much slower; not timed") for rival in left]
        if winner is not None:
            return _plan(case, looked, first + winner, workload)
        if outcomes:
            watcher.note(f"The plan is not timed, because no way to run the model could be: {outcomes[0].fault}.")
        return _plan(case, looked, chosen, workload)
    looked += [_Looked(rival.name, rival.estimate, "predicted to be slower; not timed") for rival in rivals]
    best = best_predicted(rivals, predicted)
    return _plan(case, looked, chosen if best is None else first + best, workload)


def _on_the_processor(case: Case, estimates: Sequence[Estimate]) -> EngineConfig | None:
    """The best that main memory alone can have; None where it cannot hold the model."""
    found = (estimate for estimate in estimates if estimate.config.n_gpu_layers == 0 and case.fits(estimate))
    return next((estimate.config for estimate in found), None)


def _words(config: EngineConfig) -> str:
    return f"{config.n_slots} x {config.context_length} tokens, {config.kv_type} KV cache"


def _why_not(case: Case, estimate: Estimate) -> str:
    """Why this wish was passed over."""
    for place in case.offers:
        if (spare := case.spare(estimate, place)) < 0:
            return f"{place} is short by {format_bytes(-spare)}"
    return OFFERS_LESS


def _why_slower(found: Outcome, outcomes: Sequence[Outcome], winner: int | None, workload: Workload) -> str:
    if found.fault:
        return f"could not be timed: {found.fault}"
    best = outcomes[winner].seconds(workload) if winner is not None else 0.0
    seconds = found.seconds(workload)
    if seconds <= best * (1 + NOISE):
        return "as fast within the noise, and less plain"
    return f"{100 * (seconds / best - 1):.0f} % slower: {seconds:.2f} s against {best:.2f} s for a question"


def read_spec(model_path: Path) -> ModelSpec:
    """The model's shape, from its header, checked before the engine sees the file. Raises UsageError, ModelRefused."""
    if model_path.is_dir():
        raise UsageError(
            f"{model_path} is a folder; the engine runs GGUF files.",
            next_step=f"edgemed export {model_path} --target gguf",
        )
    return spec_from_gguf(check_gguf(model_path))


def check_adapters(model_path: Path, adapters: Sequence[AdapterFile]) -> None:
    """Raise ModelRefused, with the numbers and the next step, unless every adapter was made for this model."""
    if adapters:
        base = check_gguf(model_path)
        for file in adapters:
            check_fits(check_adapter(file.path), base)


def identify(model_path: Path, spec: ModelSpec) -> ModelIdentity:
    """Which file this is, by place, size and time."""
    stat = model_path.stat()
    return ModelIdentity(
        path=model_path.absolute(),
        n_bytes=stat.st_size,
        modified_ns=stat.st_mtime_ns,
        architecture=spec.architecture,
        spec_digest=spec.digest(),
    )


def _plan(case: Case, looked: Sequence[_Looked], chosen: int, workload: Workload) -> Plan:
    profile, spec, winner = case.profile, case.spec, looked[chosen]
    config, outcome = winner.config, winner.outcome
    return Plan(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        model=identify(case.model_path, spec),
        profile_digest=profile.digest(),
        hardware_id=profile.hardware_id(),
        recipe=recipe_of(spec),
        engine=profile.engine.name if isinstance(profile.engine, EngineProfile) else "llama.cpp (not installed here)",
        engine_config=config,
        placements=_placements(spec, config, profile.engine_devices()),
        memory=winner.estimate.needs,
        memory_note=winner.estimate.note,
        read_back=compare_memory(winner.estimate.needs, outcome.memory) if outcome else None,
        budgets=tuple(_budget(offer, winner.estimate) for offer in case.offers.values()),
        workload=workload,
        ttft_ms=outcome.ttft_ms() if outcome else predicted_ttft_ms(case, config, workload),
        tokens_per_s=outcome.tokens_per_s() if outcome else predicted_rate(case, config, workload),
        tried=outcome is not None,
        candidates=tuple(_candidate(case, found, index == chosen, workload) for index, found in enumerate(looked)),
        ladder=fallbacks(case, config),
        reduced=is_reduced(spec, config, case.request),
        notes=profile.warnings,
        engine_command=server_command(config),
    )


def _candidate(case: Case, looked: _Looked, chosen: bool, workload: Workload) -> Candidate:
    outcome = looked.outcome if looked.outcome and not looked.outcome.fault else None
    measured: MaybeFigure = outcome.figure(workload) if outcome else _NOT_TIMED
    predicted = predicted_seconds(case, looked.config, workload)
    untimed = "predicted to be the fastest" if predicted.available else "the first that fits, in order of preference"
    return Candidate(
        name=looked.name,
        config=looked.config,
        needed_bytes=needed_by_place(looked.estimate),
        predicted_s=predicted,
        measured_s=measured,
        ttft_ms=outcome.ttft_ms() if outcome else _NOT_TIMED,
        tokens_per_s=outcome.tokens_per_s() if outcome else _NOT_TIMED,
        chosen=chosen,
        why=("the fastest here" if outcome else untimed) if chosen else looked.why,
        engine_command=server_command(looked.config),
    )


def _placements(spec: ModelSpec, config: EngineConfig, devices: Sequence[EngineDevice]) -> tuple[Placement, ...]:
    """The first layers in main memory, the last ones on the GPU."""
    on_gpu = layers_on_gpu(spec, config)
    first_on_gpu = spec.n_layers - on_gpu
    names = "+".join(device.name for device in devices if device.holds_layers) or "GPU"
    found = []
    if first_on_gpu > 0:
        found.append(Placement(first_layer=0, last_layer=first_on_gpu - 1, place=RAM))
    if on_gpu:
        found.append(Placement(first_layer=first_on_gpu, last_layer=spec.n_layers - 1, place=names))
    return tuple(found)


def _budget(offer: Offer, estimate: Estimate) -> Budget:
    return Budget(
        place=offer.place,
        free_bytes=offer.free_bytes,
        reserve_bytes=offer.reserve_bytes,
        limit_bytes=offer.limit_bytes,
        needed_bytes=estimate.bytes_in(offer.place),
        note=offer.note,
    )
