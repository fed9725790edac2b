"""An ablation with stand-ins for training, whose truth is known."""

import multiprocessing
import os
import signal
import threading
import time
from functools import partial
from pathlib import Path
from random import Random

import psutil
import pytest

from edgemed.core.errors import EdgemedError, MissingExtra, UsageError
from edgemed.core.files import write_text
from edgemed.core.records import digest_of
from edgemed.distill.ablate import RESULTS, ablate, read_results
from edgemed.distill.ablation_table import CHOICES, DOSES, report_of
from edgemed.distill.arms import BASELINES, arm, chosen_arms
from edgemed.distill.config import (
    AblateConfig,
    DataConfig,
    DistillConfig,
    LossConfig,
    NewStudent,
    StageConfig,
    StudentConfig,
    TeacherConfig,
    TrainingConfig,
)
from edgemed.distill.examination import ExaminationName, Scores
from edgemed.distill.trials import _SECONDS_TO_STOP, Trial, config_digest, run_trials
from edgemed.evaluate.retention import Judged

STUDENT = StudentConfig(new=NewStudent(hidden_size=8, ffn_size=8, n_layers=1, n_heads=1, n_kv_heads=1))
STAGE = StageConfig(steps=10)
CONFIG = DistillConfig(
    teacher=TeacherConfig(model="demo"),
    student=STUDENT,
    data=DataConfig(examples="demo"),
    sft=STAGE,
    kd=STAGE,
    ablate=AblateConfig(seeds=10, arms=("kd", "entity-weighted-kd")),
)
N_FACTS, WORDINGS = 30, 4


@pytest.fixture(autouse=True)
def no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take a second each."""
    if "picture" not in request.node.name:
        monkeypatch.setattr("edgemed.distill.ablate.draw", lambda report, path: False)


def scores(share: float, luck: Random, *, name: ExaminationName = "final", asked: str = "x") -> Scores:
    """Each question is right with the given probability, by the luck of its own draw."""
    doses = tuple(
        Judged(item=f"{fact}/{n}", concept=str(fact), right=luck.random() < share, error="10x")
        for fact in range(N_FACTS)
        for n in range(WORDINGS)
    )
    return Scores(name=name, examination=digest_of(asked), doses=doses, choices=doses[::4], chance=0.25)


def known_effect(config: DistillConfig, folder: Path) -> Scores:
    """KD has 10 % more than SFT with the same luck; entity weights have nothing more than KD."""
    assert folder.is_dir()
    return scores(0.5 if config.loss.kd == "none" else 0.6, Random(config.seed))


def no_effect(config: DistillConfig, folder: Path) -> Scores:
    return scores(0.5, Random(config_digest(config)))


def counted(calls: list[str], config: DistillConfig, folder: Path) -> Scores:
    calls.append(folder.name)
    return known_effect(config, folder)


def failing(config: DistillConfig, folder: Path) -> Scores:
    raise MissingExtra("nothing", "workstation")


def dying(config: DistillConfig, folder: Path) -> Scores:
    os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()
    raise AssertionError


def endless_from_seed_two(config: DistillConfig, folder: Path) -> Scores:
    """As in training: told to end, it keeps what it has and raises."""
    if config.seed > 1:
        told = threading.Event()
        signal.signal(signal.SIGTERM, lambda number, frame: told.set())
        write_text(folder.parent / "waiting", "")
        told.wait()
        raise EdgemedError("stopped")
    return known_effect(config, folder)


def test_an_effect_that_is_there_is_shown_with_its_size(tmp_path: Path) -> None:
    found = ablate(CONFIG, tmp_path, known_effect, teacher=scores(0.95, Random(0)))
    measures = {measure.name: measure for measure in found.measures}
    assert list(measures) == [
        DOSES,
        CHOICES,
        "coverage, 3 of 4",
        "retention (KRR) of doses",
        "retention (KRR) of choices",
    ]
    doses = {one.arm: one for one in measures[DOSES].differences}
    assert set(doses) == {"kd", "entity-weighted-kd"}
    assert doses["kd"].difference.mean == pytest.approx(0.1, abs=0.03)
    assert doses["kd"].difference.p.value == 2 / 2**10
    assert doses["kd"].p_adjusted == 4 / 2**10
    assert doses["kd"].difference.interval.low > 0.05
    assert "higher dose match than sft" in doses["kd"].words
    assert found.not_measured == ()
    assert set(found.errors["sft"]) == {"10x"}
    assert "higher dose match than sft" in "\n".join(found.lines())
    assert list((tmp_path / "trials").iterdir()) == []


def test_where_nothing_differs_nothing_is_claimed(tmp_path: Path) -> None:
    every = CONFIG.model_copy(update={"ablate": AblateConfig(seeds=8)})
    found = ablate(every, tmp_path, no_effect)
    sentences = [one.words for measure in found.measures for one in measure.differences]
    assert len(sentences) == 3 * (len(BASELINES) - 1)
    assert all("no difference from" in one and "could be shown" in one for one in sentences)
    assert not any(word in line for line in found.lines() for word in ("higher", "lower"))
    assert any("without the teacher's own answers" in line for line in found.not_measured)
    assert {one.against for one in found.measures[0].differences} == {"sft", "full"}


def test_equal_arms_are_not_called_equal(tmp_path: Path) -> None:
    found = ablate(CONFIG, tmp_path, lambda config, folder: scores(0.5, Random(config.seed)))
    kd = found.measures[0].differences[0]
    assert kd.difference.mean == 0.0
    assert kd.difference.interval.low < -0.2
    assert "could be shown" in kd.words


def test_a_picture_shows_every_measure(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    ablate(CONFIG, tmp_path, known_effect)
    assert b"<svg" in (tmp_path / "ablation.svg").read_bytes()


def test_what_is_done_is_not_done_again_and_a_torn_line_is(tmp_path: Path) -> None:
    calls: list[str] = []
    whole = ablate(CONFIG, tmp_path, partial(counted, calls))
    assert len(calls) == 30
    path = tmp_path / RESULTS
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 40])
    calls.clear()
    assert ablate(CONFIG, tmp_path, partial(counted, calls)) == whole
    assert [name.rpartition("-")[0] for name in calls] == ["entity-weighted-kd-10"]
    calls.clear()
    more = CONFIG.model_copy(update={"ablate": AblateConfig(seeds=11, arms=("kd",), workers=1)})
    ablate(more, tmp_path, partial(counted, calls))
    assert len(calls) == 2  # both arms of the one new seed


def test_results_of_another_configuration_are_not_used(tmp_path: Path) -> None:
    ablate(CONFIG, tmp_path, known_effect)
    calls: list[str] = []
    changed = CONFIG.model_copy(update={"kd": StageConfig(steps=11)})
    ablate(changed, tmp_path, partial(counted, calls))
    assert len(calls) == 30
    threads = changed.model_copy(update={"training": TrainingConfig(threads=3, save_every=7), "output": tmp_path})
    assert config_digest(threads) == config_digest(changed)


def test_a_damaged_line_and_another_examination_are_refused(tmp_path: Path) -> None:
    ablate(CONFIG, tmp_path, known_effect)
    path = tmp_path / RESULTS
    content = path.read_bytes()
    more = CONFIG.model_copy(update={"ablate": AblateConfig(seeds=11, arms=("kd",))})
    with pytest.raises(UsageError, match="2 different examinations"):
        ablate(more, tmp_path, lambda config, folder: scores(0.5, Random(1), asked="y"))
    path.write_bytes(content.replace(b'"arm"', b'"are"', 1))
    with pytest.raises(UsageError, match="Line 1 of"):
        read_results(path)
    with pytest.raises(UsageError, match="weights are chosen on"):
        ablate(CONFIG, tmp_path / "new", lambda config, folder: scores(0.5, Random(1), name="validation"))


def test_several_processes_find_the_same(tmp_path: Path) -> None:
    trials = [Trial(name, arm(CONFIG, name, 3)) for name in ("sft", "kd")]
    alone = {one.trial.name: one.scores for one in run_trials(trials, tmp_path, known_effect)}
    assert {one.trial.name: one.scores for one in run_trials(trials, tmp_path, known_effect, workers=2)} == alone
    assert multiprocessing.active_children() == []


def test_errors_of_a_process_arrive_and_a_dead_one_is_told(tmp_path: Path) -> None:
    trials = [Trial("kd-1", CONFIG)]
    with pytest.raises(MissingExtra, match="kd-1: This command needs the Python package nothing"):
        next(run_trials(trials, tmp_path, failing, workers=2))
    with pytest.raises(EdgemedError, match="ended with code -9"):
        next(run_trials(trials, tmp_path, dying, workers=2))
    assert multiprocessing.active_children() == []


def test_an_interruption_ends_every_process_and_keeps_what_is_done(tmp_path: Path) -> None:
    trials = [Trial(f"kd-{seed}", arm(CONFIG, "kd", seed)) for seed in (1, 2)]
    running = run_trials(trials, tmp_path, endless_from_seed_two, workers=2)
    assert next(running).trial.name == "kd-1"
    other = multiprocessing.active_children()[0]
    until = time.monotonic() + 60
    while not (tmp_path / "waiting").exists() and time.monotonic() < until:
        other.join(0.05)
    began = time.monotonic()
    running.close()
    assert multiprocessing.active_children() == []
    assert time.monotonic() - began < _SECONDS_TO_STOP  # nobody had to be killed


def trials_of_a_parent(folder: Path) -> None:
    list(run_trials([Trial("kd-1", CONFIG)], folder, telling_its_pid, workers=2))


def telling_its_pid(config: DistillConfig, folder: Path) -> Scores:
    write_text(folder.parent / "pid", str(os.getpid()))
    threading.Event().wait()
    raise AssertionError


@pytest.mark.slow
def test_processes_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    parent = multiprocessing.get_context("spawn").Process(target=trials_of_a_parent, args=(tmp_path,))
    parent.start()
    found = tmp_path / "pid"
    until = time.monotonic() + 60
    while not found.exists() and time.monotonic() < until:
        parent.join(0.1)
    child = psutil.Process(int(found.read_text()))
    parent.kill()
    parent.join()
    child.wait(30)
    assert not child.is_running()


def test_arms_differ_in_loss_and_curriculum_alone() -> None:
    config = CONFIG.model_copy(update={"loss": LossConfig(kd="none", med_kl=0.0)})
    arms = {name: arm(config, name, 5) for name in BASELINES}
    same = {one.model_copy(update={"loss": config.loss, "curriculum": config.curriculum, "seed": 1}).digest()
            for one in arms.values()}  # fmt: skip
    assert same == {config.digest()}
    assert arms["without-retention"] == arms["medkl-bkl"]  # of this configuration; that is trained once
    assert len({config_digest(one) for one in arms.values()}) == len(BASELINES) - 1
    sft = arms["sft"].loss
    assert (sft.kd, sft.mse, sft.med_kl, sft.retention, sft.entity_weight, sft.ce) == ("none", 0, 0, 0, 1, 1)
    assert arms["kd"].loss == sft.model_copy(update={"kd": "chunks"})
    for name, base in BASELINES.items():
        if base == "full":
            loss = [key for key, value in arms[name].loss if value != getattr(arms["full"].loss, key)]
            order = [key for key, value in arms[name].curriculum if value != getattr(arms["full"].curriculum, key)]
            assert len(loss + order) == 1, name


def test_arms_that_cannot_differ_are_refused_or_left_out() -> None:
    without = CONFIG.model_copy(update={"data": DataConfig(examples="file.jsonl"), "ablate": AblateConfig()})
    names, notes = chosen_arms(without)
    assert set(BASELINES) - set(names) == {"without-retention", "without-basic-priority"}
    assert len(notes) == 2
    asked = without.model_copy(update={"ablate": AblateConfig(arms=("without-retention", "nothing"))})
    with pytest.raises(UsageError, match=r"'nothing' is no arm; without-retention needs data\.replay"):
        chosen_arms(asked)
    one = CONFIG.model_copy(update={"ablate": AblateConfig(arms=("without-medkl",))})
    assert chosen_arms(one)[0] == ("sft", "full", "without-medkl")


def test_a_teacher_that_guesses_leaves_no_retention() -> None:
    own = {"sft": {1: scores(0.5, Random(1)), 2: scores(0.5, Random(2))}}
    found = report_of(own, scores(0.25, Random(3)))
    assert [measure.name for measure in found.measures][-1] == "retention (KRR) of doses"
    assert any("does not exclude guessing" in line for line in found.not_measured)
