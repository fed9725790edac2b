"""The search for weights, with a stand-in for training whose best weights are known."""

import tomllib
from functools import partial
from pathlib import Path

import pytest

from edgemed.core.errors import UsageError
from edgemed.core.records import digest_of
from edgemed.distill.config import (
    DataConfig,
    DistillConfig,
    NewStudent,
    StageConfig,
    StudentConfig,
    TeachConfig,
    TeacherConfig,
    TuneConfig,
)
from edgemed.distill.examination import ExaminationName, Scores
from edgemed.distill.tune import FRAGMENT, STUDY, Tried, Weights, ranking, tune
from edgemed.evaluate.retention import Judged

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
CONFIG = DistillConfig(
    teacher=TeacherConfig(model="demo"),
    student=StudentConfig(new=NewStudent(hidden_size=8, ffn_size=8, n_layers=1, n_heads=1, n_kv_heads=1)),
    data=DataConfig(examples="demo"),
    sft=StageConfig(steps=40, warmup_steps=10),
    kd=StageConfig(steps=80),
    tune=TuneConfig(kd_weights=(0.5, 1.0, 2.0), med_kl_weights=(0.0, 0.3), finalists=2, seeds=2),
)


def judged(right: int, asked: int = 100) -> tuple[Judged, ...]:
    return tuple(Judged(item=str(n), concept=str(n), right=n < right) for n in range(asked))


def best_at_two(calls: list[str], config: DistillConfig, folder: Path, name: ExaminationName = "validation") -> Scores:
    """More KD knows more doses; with much of both, the choices suffer."""
    calls.append(f"{folder.name.rpartition('-')[0]} of {config.sft.steps}+{config.kd.steps}")
    loss = config.loss
    doses = 40 + 10 * loss.kd_weight + 5 * (loss.med_kl > 0) + config.seed
    choices = 60 if loss.kd_weight == 2 and loss.med_kl else 80 - 2 * (loss.kd_weight == 2)
    return Scores(name=name, examination=digest_of("v"), doses=judged(int(doses)), choices=judged(choices))


def test_the_best_weights_whose_choices_do_not_suffer_are_chosen(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    calls: list[str] = []
    found = tune(CONFIG, tmp_path, partial(best_at_two, calls))
    assert found.chosen == Weights(kd=2.0, med_kl=0.0, mse=0.0)
    assert [one.weights.kd for one in found.second] == [2.0, 1.0]
    assert [one.seeds for one in found.second] == [2, 2]
    assert (len(found.first), found.first[-1].allowed) == (6, False)
    assert "6 combinations with mse are left out" in found.left_out
    assert len(calls) == 6 + 4
    assert "of 10+20" in calls[0]
    assert "of 40+80" in calls[-1]
    written = tomllib.loads((tmp_path / FRAGMENT).read_text())
    assert written == {"loss": {"ce": 1.0, "kd_weight": 2, "med_kl": 0, "mse": 0}}
    assert any("flatter" in line for line in found.lines())
    calls.clear()
    assert tune(CONFIG, tmp_path, partial(best_at_two, calls)) == found
    assert calls == []


def test_an_interrupted_search_is_resumed(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    calls: list[str] = []

    def cut(config: DistillConfig, folder: Path) -> Scores:
        if len(calls) == 3:
            raise KeyboardInterrupt
        return best_at_two(calls, config, folder)

    with pytest.raises(KeyboardInterrupt):
        tune(CONFIG, tmp_path, cut)
    again: list[str] = []
    resumed = tune(CONFIG, tmp_path, partial(best_at_two, again))
    assert not set(calls) & set(again)
    assert len(calls + again) == 10
    assert resumed == tune(CONFIG, tmp_path / "whole", partial(best_at_two, []))


def test_hidden_states_bring_mse_into_the_grid(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    config = CONFIG.model_copy(update={"teach": TeachConfig(hidden=True)})
    found = tune(config, tmp_path, partial(best_at_two, []))
    assert (len(found.first), found.left_out) == (12, "")


def test_weights_are_not_chosen_on_the_final_examination(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    with pytest.raises(UsageError, match="'final'"):
        tune(CONFIG, tmp_path, lambda config, folder: best_at_two([], config, folder, "final"))


def test_a_damaged_study_is_told(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    (tmp_path / STUDY).write_bytes(b"no database" * 500)
    with pytest.raises(UsageError, match="no study"):
        tune(CONFIG, tmp_path, partial(best_at_two, []))


def test_one_standard_error_is_that_of_the_questions() -> None:
    def tried(dose: float, choices: float, n: int) -> Tried:
        weights = Weights(kd=dose, med_kl=0, mse=0)
        return Tried(weights=weights, seeds=1, dose_match=dose, choice_accuracy=choices, n_choices=n, allowed=True)

    rows = [tried(0.5, 0.80, 100), tried(0.6, 0.77, 100), tried(0.7, 0.75, 100)]  # the error is 0.04
    assert [one.dose_match for one in ranking(rows)] == [0.6, 0.5, 0.7]
    assert [one.allowed for one in ranking(rows)] == [True, True, False]
    without = [tried(0.5, 0.0, 0), tried(0.6, 0.0, 0)]
    assert [one.dose_match for one in ranking(without)] == [0.6, 0.5]
