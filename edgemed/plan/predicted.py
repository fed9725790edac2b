"""What the machine's profile predicts for one question, and which ways to run the model are worth timing after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgemed.core.records import Figure, MaybeFigure
from edgemed.engines.base import EngineConfig
from edgemed.plan.record import Workload
from edgemed.plan.rivals import FIT, Rival
from edgemed.plan.situation import Case
from edgemed.plan.speed import SpeedPrediction, predict_speed
from edgemed.plan.trial import NOISE

NEVER_LEFT_OUT = ("CPU alone", "most layers on the GPU", FIT)
"""What the user would have without us is always timed."""
_WORTH_WITHIN = 1.6
"""Others are timed when they are predicted to take at most that much longer than the best: predictions err by less."""


def _prediction(case: Case, config: EngineConfig, workload: Workload) -> SpeedPrediction:
    depth = workload.prompt_tokens + workload.answer_tokens // 2
    free = {place: float(offer.free_bytes) for place, offer in case.offers.items()}
    return predict_speed(
        case.spec, config, case.profile.speed, depth=depth, prompt_tokens=workload.prompt_tokens, free_bytes=free
    )


def predicted_seconds(case: Case, config: EngineConfig, workload: Workload) -> MaybeFigure:
    """Seconds for a question and its answer, with the interval; NotAvailable where the profile has no speeds."""
    found = _prediction(case, config, workload)
    ttft, rate = found.ttft_s, found.tokens_per_s
    if not isinstance(rate, Figure):
        return rate
    if not isinstance(ttft, Figure):
        return ttft
    answer = workload.answer_tokens
    low, high = (ttft.low or ttft.value) + answer / (rate.high or rate.value), (ttft.high or ttft.value)
    high += answer / (rate.low or rate.value)
    value = ttft.value + answer / rate.value
    return Figure(value=value, unit="s", basis="computed", low=low, high=high, note=found.note)


def predicted_ttft_ms(case: Case, config: EngineConfig, workload: Workload) -> MaybeFigure:
    """Milliseconds to the first token."""
    found = _prediction(case, config, workload).ttft_s
    if not isinstance(found, Figure):
        return found
    scaled = {
        name: None if value is None else 1000 * value for name, value in (("low", found.low), ("high", found.high))
    }
    return found.model_copy(update={"value": 1000 * found.value, "unit": "ms", **scaled})


def predicted_rate(case: Case, config: EngineConfig, workload: Workload) -> MaybeFigure:
    """Tokens per second while decoding."""
    return _prediction(case, config, workload).tokens_per_s


def worth_timing(rivals: Sequence[Rival], predicted: Mapping[str, MaybeFigure]) -> tuple[list[Rival], list[Rival]]:
    """Those to time, and those that the profile predicts to be much slower than the best."""
    known = [figure.value for figure in predicted.values() if isinstance(figure, Figure)]
    most = _WORTH_WITHIN * min(known, default=float("inf"))
    timed: list[Rival] = []
    left: list[Rival] = []
    for rival in rivals:
        figure = predicted[rival.name]
        slow = isinstance(figure, Figure) and figure.value > most
        (left if slow and rival.name not in NEVER_LEFT_OUT else timed).append(rival)
    return timed, left


def best_predicted(rivals: Sequence[Rival], predicted: Mapping[str, MaybeFigure]) -> int | None:
    """The number of the rival that is predicted to be the fastest, the plainest of those that are within the noise;
    None where any prediction is missing."""
    found = [figure.value for rival in rivals if isinstance(figure := predicted[rival.name], Figure)]
    if not found or len(found) < len(rivals):
        return None
    return next(number for number, seconds in enumerate(found) if seconds <= min(found) * (1 + NOISE))
