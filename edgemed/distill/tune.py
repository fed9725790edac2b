"""The weights of the loss, searched on the validation examination: FORMULAS' grid, in two rounds.

First round: every combination of b (KD), d (MedKL) and g (MSE), with a = 1, at a part of the steps and one seed. Second
round: the best few at full length, with several seeds. Best is the highest dose match among those whose accuracy in
choices is no more than one standard error below the best one's. Every training is kept in an optuna study (SQLite),
which a later call resumes. What is chosen was the best of many on these questions: its score there flatters it, so the
final examination asks others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from edgemed.core.errors import MissingExtra, UsageError
from edgemed.core.files import write_text
from edgemed.core.progress import Progress, SilentProgress
from edgemed.core.records import Record
from edgemed.distill.config import DistillConfig, StageConfig
from edgemed.distill.trials import Run, Trial, run_trials

STUDY = "study.db"
FRAGMENT = "weights.toml"
_SILENT = SilentProgress()


class Weights(Record):
    """One combination, beside a = 1."""

    kd: float
    med_kl: float
    mse: float

    @property
    def name(self) -> str:
        """For folders and tables."""
        return f"b{self.kd:g}-d{self.med_kl:g}-g{self.mse:g}"


class Tried(Record):
    """What came of one combination, mean over its seeds."""

    weights: Weights
    seeds: int
    dose_match: float
    choice_accuracy: float
    n_choices: int
    allowed: bool
    """Its choices are no worse than one standard error below the best."""


class TuneReport(Record):
    """Both rounds, each best first, and what was chosen."""

    first: tuple[Tried, ...]
    second: tuple[Tried, ...]
    chosen: Weights
    left_out: str
    """Combinations that could not be run, and why; "" for none."""

    def lines(self) -> list[str]:
        """Both rounds in plain text."""
        found = []
        for title, rows in (("a part of the steps, one seed", self.first), ("finalists at full length", self.second)):
            found.append(f"{title}: dose match, choices right")
            found += [
                f"  {one.weights.name:<18} {one.dose_match:.3f}  {one.choice_accuracy:.3f}"
                f"{'' if one.allowed else '  (choices too much worse)'}"
                for one in rows
            ]
        chosen = self.chosen
        found.append(f"chosen: kd_weight = {chosen.kd:g}, med_kl = {chosen.med_kl:g}, mse = {chosen.mse:g}")
        found.append("These scores chose the weights and flatter them; the final examination asks other questions.")
        return [*found, self.left_out] if self.left_out else found


def tune(config: DistillConfig, folder: Path, run: Run, progress: Progress = _SILENT) -> TuneReport:
    """Runs what the study does not hold yet, and writes weights.toml, a [loss] table for CONFIG.toml.

    `run` examines with "validation". Raises MissingExtra without optuna, UsageError when the examination was the final
    one or asks no dose.
    """
    study = _study(folder / STUDY)
    grid, left_out = _grid(config)
    if left_out:
        progress.note(left_out)
    first = [(one, _trial(config, one, config.seed, config.tune.share)) for one in grid]
    _run_missing(
        study, [trial for _, trial in first], folder / "trials", run, progress, "All weights, a part of the steps"
    )
    ranked = ranking([_tried(study, weights, [trial]) for weights, trial in first])
    finalists = [one.weights for one in ranked if one.allowed][: config.tune.finalists]
    seeds = range(config.seed, config.seed + config.tune.seeds)
    second = [(one, [_trial(config, one, seed, 1.0) for seed in seeds]) for one in finalists]
    trials = [trial for _, of in second for trial in of]
    _run_missing(study, trials, folder / "trials", run, progress, "The best weights, all steps")
    best = ranking([_tried(study, weights, of) for weights, of in second])
    report = TuneReport(first=ranked, second=best, chosen=best[0].weights, left_out=left_out)
    write_text(folder / "tune.json", report.model_dump_json(indent=2) + "\n")
    write_text(folder / FRAGMENT, fragment(report, config))
    return report


def ranking(rows: Sequence[Tried]) -> tuple[Tried, ...]:
    """Best first: allowed ones before others, then by dose match, then by choices, then as they came.

    The standard error is that of the best accuracy over its questions; more seeds answer no more questions.
    """
    best = max(rows, key=lambda one: one.choice_accuracy)
    share, n = best.choice_accuracy, best.n_choices
    least = share - math.sqrt(share * (1 - share) / n) if n else 0.0
    judged = [one.model_copy(update={"allowed": one.choice_accuracy >= least - 1e-12}) for one in rows]
    return tuple(sorted(judged, key=lambda one: (not one.allowed, -one.dose_match, -one.choice_accuracy)))


def fragment(report: TuneReport, config: DistillConfig) -> str:
    """The chosen weights as a [loss] table, with where they come from as a comment."""
    best, weights = report.second[0], report.chosen
    return (
        f"# Chosen among {len(report.first)} combinations at {config.tune.share:g} of the steps and "
        f"{len(report.second)} at all of them with {best.seeds} seeds each.\n"
        f"# Validation: dose match {best.dose_match:.3f}, choices right {best.choice_accuracy:.3f}; "
        "it was chosen for these, so they flatter it.\n"
        f"[loss]\nce = 1.0\nkd_weight = {weights.kd:g}\nmed_kl = {weights.med_kl:g}\nmse = {weights.mse:g}\n"
    )


def _grid(config: DistillConfig) -> tuple[list[Weights], str]:
    """Small weights first, so that of equals the plainer is taken; and what was left out."""
    asked = config.tune
    axes = (sorted(set(asked.med_kl_weights)), sorted(set(asked.mse_weights)), sorted(set(asked.kd_weights)))
    grid = [Weights(kd=b, med_kl=d, mse=g) for d, g, b in product(*axes)]
    possible = [one for one in grid if not one.mse or config.teach.hidden]
    if not possible:
        raise UsageError("The grid of [tune] holds no weights that can be run.", next_step="set teach.hidden = true")
    left_out = len(grid) - len(possible)
    reason = f"{left_out} combinations with mse are left out: the corpus has no hidden states (teach.hidden)"
    return possible, reason if left_out else ""


def _trial(config: DistillConfig, weights: Weights, seed: int, share: float) -> Trial:
    loss = config.loss.model_copy(
        update={
            "ce": 1.0,
            "kd": "chunks" if config.loss.kd == "none" else config.loss.kd,
            "kd_weight": weights.kd,
            "med_kl": weights.med_kl,
            "mse": weights.mse,
        }
    )
    shorter = {"sft": _shorter(config.sft, share), "kd": _shorter(config.kd, share)}
    return Trial(f"{weights.name}-{seed}", config.model_copy(update={"loss": loss, "seed": seed, **shorter}))


def _shorter(stage: StageConfig, share: float) -> StageConfig:
    steps, warmup = (math.ceil(n * share) for n in (stage.steps, stage.warmup_steps))
    return stage.model_copy(update={"steps": steps, "warmup_steps": warmup})


def _run_missing(study: Any, trials: Sequence[Trial], folder: Path, run: Run, progress: Progress, title: str) -> None:
    from optuna.distributions import FloatDistribution
    from optuna.trial import create_trial

    missing = [trial for trial in trials if trial.digest not in _known(study)]
    with progress.task(title, len(trials), "trainings") as task:
        task.advance(len(trials) - len(missing))
        for done in run_trials(missing, folder, run):
            scores, loss = done.scores, done.trial.config.loss
            if scores.name == "final" or not scores.doses:
                raise UsageError(
                    f"Weights cannot be chosen on the examination {scores.name!r} with {len(scores.doses)} doses.",
                    next_step="give data.validation, with questions whose answers state doses",
                )
            params = {"kd_weight": loss.kd_weight, "med_kl": loss.med_kl, "mse": loss.mse}
            study.add_trial(  # whole or not at all, with its value: nothing is ever half done in the study
                create_trial(
                    params=params,
                    distributions={name: FloatDistribution(0.0, 1000.0) for name in params},
                    value=scores.dose_match,
                    user_attrs={
                        "config": done.trial.digest,
                        "seed": done.trial.config.seed,
                        "steps": done.trial.config.kd.steps,
                        "choice_accuracy": scores.choice_accuracy,
                        "n_choices": len(scores.choices),
                        "examination": scores.examination,
                        "seconds": done.seconds,
                    },
                )
            )
            task.advance()
            task.describe(f"{done.trial.name}: dose match {scores.dose_match:.3f}")


def _known(study: Any) -> dict[str, Any]:
    return {str(trial.user_attrs.get("config")): trial for trial in study.get_trials(deepcopy=False)}


def _tried(study: Any, weights: Weights, trials: Sequence[Trial]) -> Tried:
    known = _known(study)
    found = [known[trial.digest] for trial in trials]
    if len({one.user_attrs["examination"] for one in known.values()}) > 1:
        raise UsageError(
            "The study holds answers to different examinations.", next_step=f"remove {STUDY} and begin again"
        )
    return Tried(
        weights=weights,
        seeds=len(found),
        dose_match=sum(one.value for one in found) / len(found),
        choice_accuracy=sum(one.user_attrs["choice_accuracy"] for one in found) / len(found),
        n_choices=int(found[0].user_attrs["n_choices"]),
        allowed=True,
    )


def _study(path: Path) -> Any:
    try:
        import optuna
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError as error:
        raise MissingExtra("optuna", "workstation") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return optuna.create_study(
            study_name="weights of the loss", storage=f"sqlite:///{path}", direction="maximize", load_if_exists=True
        )
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise UsageError(
            f"{path} is no study, or is damaged.", next_step="remove it, or name another folder"
        ) from error
