"""All arms of an ablation on the same seeds, kept line by line, so that an interrupted night is resumed.

A seed decides the student's first weights, where it begins from nothing, and the order of its examples, in every arm
alike; all are asked the same examination. Results stand in `results.jsonl`, one line each, and name the digest of their
configuration: a line of another configuration is not used, and a last line that was torn is done again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from edgemed.core.errors import EdgemedError, UsageError
from edgemed.core.files import sync_folder, write_text
from edgemed.core.progress import Progress, SilentProgress
from edgemed.core.records import Record
from edgemed.distill.ablation_table import AblationReport, ArmScores, draw, report_of
from edgemed.distill.arms import arm, chosen_arms
from edgemed.distill.config import DistillConfig
from edgemed.distill.examination import Scores
from edgemed.distill.trials import Run, Trial, run_trials

RESULTS = "results.jsonl"
_SILENT = SilentProgress()


class ArmResult(Record):
    """One line of the results."""

    arm: str
    seed: int
    config: str
    """Digest of what was run."""
    seconds: float
    scores: Scores


def ablate(
    config: DistillConfig, folder: Path, run: Run, progress: Progress = _SILENT, *, teacher: Scores | None = None
) -> AblationReport:
    """Runs what is not done yet of all arms and seeds, and makes the table of all; `run` examines with "final".

    With the teacher's scores in the same examination the table has knowledge retention too. Writes ablation.json and,
    where matplotlib is installed, ablation.svg. Raises UsageError for arms that cannot be run or results of another
    examination, EdgemedError when a training fails: what is done by then is kept.
    """
    names, notes = chosen_arms(config)
    for note in notes:
        progress.note(note)
    trials = {
        (name, seed): Trial(f"{name}-{seed}", arm(config, name, seed))
        for seed in range(config.seed, config.seed + config.ablate.seeds)  # seed by seed: pairs come early
        for name in names
    }
    kept = read_results(folder / RESULTS)
    by_key = {(one.arm, one.seed): one for one in kept}
    done = {key: by_key[key] for key, trial in trials.items() if key in by_key and by_key[key].config == trial.digest}
    others = sum(by_key[key].config != trial.digest for key, trial in trials.items() if key in by_key)
    if others:
        progress.note(f"{others} results of another configuration in {folder / RESULTS} are not used")
    missing: dict[str, list[tuple[str, int]]] = {}  # two arms may be the same of this configuration
    for key, trial in trials.items():
        if key not in done:
            missing.setdefault(trial.digest, []).append(key)
    with progress.task("Arms and seeds", len(trials), "trainings") as task:
        task.advance(len(done))
        first = [trials[keys[0]] for keys in missing.values()]
        for one in run_trials(first, folder / "trials", run, config.ablate.workers):
            for key in missing[one.trial.digest]:
                name, seed = key
                done[key] = ArmResult(
                    arm=name, seed=seed, config=one.trial.digest, seconds=one.seconds, scores=one.scores
                )
                append_result(folder / RESULTS, done[key])
                task.advance()
            task.describe(f"{one.trial.name}: dose match {one.scores.dose_match:.3f}")
    _require_one_examination(list(done.values()), teacher)
    report = report_of({name: _scores_of(done, name) for name in names}, teacher)
    write_text(folder / "ablation.json", report.model_dump_json(indent=2) + "\n")
    draw(report, folder / "ablation.svg")
    return report


def read_results(path: Path) -> tuple[ArmResult, ...]:
    """The lines of the file, of several for one arm and seed the last; none when there is no file.

    A last line without its end was torn by a crash: it is cut off. Raises UsageError for any other damaged line.
    """
    try:
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(path, len(whole))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise EdgemedError(f"{path} cannot be read: {error.strerror}.", next_step="check the disk") from error
    results: dict[tuple[str, int], ArmResult] = {}
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            one = ArmResult.model_validate_json(line)
        except ValidationError as error:
            raise UsageError(
                f"Line {number} of {path} is damaged.", next_step="remove that line; its training is done again"
            ) from error
        results[one.arm, one.seed] = one
    return tuple(results.values())


def append_result(path: Path, result: ArmResult) -> None:
    """One more line, on the disk when this returns. Raises EdgemedError for a full disk."""
    line = result.model_dump_json().encode() + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            written = os.write(handle, line)  # at once, so that only the last line can be torn
            if written < len(line):
                raise OSError(None, "only a part was written")
            os.fsync(handle)
        finally:
            os.close(handle)
        sync_folder(path.parent)
    except OSError as error:
        raise EdgemedError(
            f"A result could not be added to {path}: {error.strerror}.", next_step="free space on that disk"
        ) from error


def _scores_of(done: dict[tuple[str, int], ArmResult], name: str) -> ArmScores:
    return {seed: done[arm_name, seed].scores for arm_name, seed in sorted(done) if arm_name == name}


def _require_one_examination(results: Sequence[ArmResult], teacher: Scores | None) -> None:
    asked = {one.scores.examination for one in results} | ({teacher.examination} if teacher else set())
    if len(asked) > 1 or any(one.scores.name == "validation" for one in results):
        raise UsageError(
            f"The results answer {len(asked)} different examinations, or the one that weights are chosen on.",
            next_step=f"remove {RESULTS} and begin again, or take another output folder",
        )
