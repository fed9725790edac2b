"""Weights of equation 7 from a clinic's history, by Bayesian optimisation (optuna's TPE); for a workstation.

    python -m edgemed.plan.mode_tuning HISTORY.jsonl --add PLAN.json --mode NAME --situation TEXT --seconds 23.5
        --memory 6.2GB [--failed]
    python -m edgemed.plan.mode_tuning HISTORY.jsonl [--output FILE] [--trials 200]

The first adds a line: a plan saved by `edgemed plan MODEL --adapter ... --save PLAN.json`, and what came of one of its
modes (a mean of the journal's times, the highest resident memory). The second tunes.

What is made small is the regret: in each situation in which several modes were observed, how much longer a question
took in the mode that the weights choose than in the best one in hindsight. A mode that failed counts as FAILED times
the slowest. The regret that is reported is of situations that the tuning did not see (leave one out, or ten parts).
Weights that do no better than the default there are not kept: the answer is then the default, and says so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgemed.core.errors import EdgemedError, MissingExtra, UsageError
from edgemed.core.records import Record
from edgemed.core.units import parse_size
from edgemed.plan.deployment import DEFAULT_WEIGHTS, ModeWeights, choose_mode
from edgemed.plan.mode_history import Observation, Observed, append_observations, read_history, store_weights
from edgemed.plan.store import load_plan

FAILED = 3.0
"""A mode that failed costs its clinic a restart and the work on another: as if it took so many times the slowest."""
MOST_PARTS = 10
TRIALS = 200
_NEARER_DEFAULT = 1e-4
"""Of weights that choose alike the ones near the default are taken: regret has steps, and wide plains."""

Situations = Mapping[str, Sequence[Observation]]


def tune(history: Sequence[Observation], history_digest: str, *, trials: int = TRIALS, seed: int = 0) -> ModeWeights:
    """The weights with the least regret on `history`, with their cross-validated regret.

    Takes some seconds for a hundred observations. Raises MissingExtra without optuna, UsageError when no situation has
    two modes to be compared.
    """
    optuna = _optuna()
    situations = comparable(history)
    if not situations:
        raise UsageError(
            f"{len(history)} observations compare no two modes in the same situation.",
            next_step="record at least two modes under one `situation`",
        )
    names = sorted(situations)
    parts = [names[number :: min(MOST_PARTS, len(names))] for number in range(min(MOST_PARTS, len(names)))]
    tuned_losses: list[float] = []
    if len(names) > 1:
        for part in parts:
            rest = {name: situations[name] for name in names if name not in part}
            weights = _best(optuna, rest, trials, seed)
            tuned_losses += [regret_of(weights, situations[name]) for name in part]
    regret = sum(tuned_losses) / len(tuned_losses) if tuned_losses else None
    default_regret = mean_regret(DEFAULT_WEIGHTS, situations)
    keeps_default = regret is None or regret >= default_regret
    best = DEFAULT_WEIGHTS if keeps_default else _best(optuna, situations, trials, seed)
    return best.model_copy(
        update={
            "source": "default" if keeps_default else "tuned",
            "history_digest": history_digest,
            "n_observations": len(history),
            "n_situations": len(situations),
            "regret": default_regret if keeps_default else regret,
            "default_regret": default_regret,
            "trials": trials,
        }
    )


def comparable(history: Sequence[Observation]) -> dict[str, list[Observation]]:
    """Situations in which more than one mode was observed; of a mode's several lines the last counts."""
    found: dict[str, dict[str, Observation]] = {}
    for one in history:
        found.setdefault(one.situation, {})[one.figures.name] = one
    return {name: list(modes.values()) for name, modes in found.items() if len(modes) > 1}


def mean_regret(weights: ModeWeights, situations: Situations) -> float:
    """Mean over the situations."""
    return sum(regret_of(weights, modes) for modes in situations.values()) / len(situations)


def regret_of(weights: ModeWeights, modes: Sequence[Observation]) -> float:
    """By how much longer a question took in the mode that the weights choose than in the best: 0 for the best.

    Where no mode fits by its figures, nothing is chosen, and nothing is to regret.
    """
    losses = {one.figures.name: _loss(one, modes) for one in modes}
    figures = [one.figures for one in modes]
    if not any(mode.feasible for mode in figures):
        return 0.0
    chosen = choose_mode(figures, modes[0].mix, weights).chosen.name
    return losses[chosen] / min(losses.values()) - 1


def _loss(one: Observation, modes: Sequence[Observation]) -> float:
    if one.failed:
        return FAILED * max(other.observed.seconds_per_question for other in modes)
    return one.observed.seconds_per_question


def _best(optuna: Any, situations: Situations, trials: int, seed: int) -> ModeWeights:
    def objective(trial: Any) -> float:
        weights = _weights(trial.suggest_float)
        default = DEFAULT_WEIGHTS
        pairs = ((weights.perf, default.perf), (weights.fit, default.fit), (weights.cost, default.cost))
        return mean_regret(weights, situations) + _NEARER_DEFAULT * sum(abs(mine - its) for mine, its in pairs)

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    default = DEFAULT_WEIGHTS
    study.enqueue_trial({"perf": default.perf, "fit": default.fit, "cost": default.cost})
    study.optimize(objective, n_trials=trials)
    return _weights(lambda name, _low, _high: float(study.best_params[name]))


def _weights(value_of: Callable[[str, float, float], float]) -> ModeWeights:
    """Weights that sum to 1; all zeros are the default."""
    values = [value_of(name, 0.0, 1.0) for name in ("perf", "fit", "cost")]
    total = sum(values)
    if total <= 0:
        return DEFAULT_WEIGHTS
    perf, fit, cost = (value / total for value in values)
    return ModeWeights(perf=perf, fit=fit, cost=cost, source="tuned")


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise MissingExtra("optuna", "workstation") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def main() -> None:
    """Add a line, or tune and store; the record goes to stdout."""
    asked = _parser().parse_args()
    try:
        record: Record = _add(asked) if asked.add else _tune(asked)
    except EdgemedError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(error.exit_code) from None
    sys.stdout.write(record.model_dump_json(indent=2) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("history", type=Path)
    parser.add_argument("--output", type=Path, help="the weights' file; without it the data directory's")
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--add", type=Path, metavar="PLAN.json", help="add a line instead of tuning")
    parser.add_argument("--mode", help="as the plan names it")
    parser.add_argument("--situation", help="the same text for the same machine, models and mix")
    parser.add_argument("--seconds", type=float, help="mean seconds of a question")
    parser.add_argument("--memory", help='highest resident memory, such as "6.2GB"')
    parser.add_argument("--failed", action="store_true", help="it did not start, or had to be ended")
    return parser


def _tune(asked: argparse.Namespace) -> ModeWeights:
    weights = tune(*read_history(asked.history), trials=asked.trials)
    sys.stderr.write(f"Stored in {store_weights(weights, asked.output)}\n")
    return weights


def _add(asked: argparse.Namespace) -> Observation:
    choice = load_plan(asked.add).deployment
    if choice is None:
        raise UsageError(
            f"{asked.add} compares no modes.", next_step="edgemed plan MODEL --adapter NAME=FILE --save PLAN.json"
        )
    found = {one.figures.name: one.figures for one in choice.modes}
    if asked.mode not in found or not asked.situation or not asked.seconds or not asked.memory:
        raise UsageError(
            "A line needs --mode, --situation, --seconds and --memory.",
            next_step=f"--mode is one of: {', '.join(repr(name) for name in found)}",
        )
    try:
        line = Observation(
            situation=asked.situation,
            mix=choice.mix,
            figures=found[asked.mode],
            observed=Observed(
                seconds_per_question=asked.seconds, memory_bytes=parse_size(asked.memory), failed=asked.failed
            ),
        )
    except ValidationError as error:
        raise UsageError(f"That cannot be a line: {error.errors()[0]['msg']}.", next_step="mend the figure") from error
    append_observations(asked.history, [line])
    return line


if __name__ == "__main__":
    main()
