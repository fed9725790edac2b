"""One stage of training, end to end on a tiny student: what it learns, logs, keeps, and refuses."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="distillation needs torch")
transformers = pytest.importorskip("transformers", reason="distillation needs transformers")
pytest.importorskip("peft", reason="adapters need peft")

from distill_lessons import lesson, lessons, tiny_student, with_adapter  # noqa: E402

from edgemed.core.errors import EdgemedError, Stopped, UsageError  # noqa: E402
from edgemed.distill.checkpoints import TRAINED  # noqa: E402
from edgemed.distill.config import DistillConfig  # noqa: E402
from edgemed.distill.lesson import Lesson  # noqa: E402
from edgemed.distill.schedule import learning_rate  # noqa: E402
from edgemed.distill.step_log import StepLog  # noqa: E402
from edgemed.distill.trainer import StageReport, first_gradients, train_stage  # noqa: E402


def settings(**changes: Any) -> DistillConfig:
    """Five steps of four examples, a checkpoint every second step."""
    plain: dict[str, Any] = {
        "teacher": {"model": "demo"},
        "student": {"model": "student"},
        "data": {"examples": "demo"},
        "sft": {"steps": 5, "examples_per_step": 4, "rate": 1e-2},
        "kd": {"steps": 5, "examples_per_step": 4, "rate": 1e-2, "warmup_steps": 2, "weight_decay": 0.1},
        "loss": {"retention": 0.2, "mse": 0.1},
        "training": {"save_every": 2, "device": "cpu"},
    }
    for name, values in changes.items():
        plain[name] = {**plain.get(name, {}), **values} if isinstance(values, dict) else values
    return DistillConfig.model_validate(plain)


TAUGHT = lessons(10, n_replay=2, teacher_hidden=5)


def train(folder: Path, config: DistillConfig, student: Any, taught: list[Lesson] = TAUGHT, **more: Any) -> StageReport:
    return train_stage("kd", config, student, taught, folder, pad=0, **more)


def weights(student: Any) -> dict[str, Any]:
    return {name: one.detach().clone() for name, one in student.named_parameters()}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Signal(transformers.TrainerCallback):  # type: ignore[misc]
    """A power cut, or a wish to end, behind one step."""

    def __init__(self, step: int, raised: int | type[Exception]) -> None:
        self._step, self._raised = step, raised

    def on_step_end(self, arguments: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self._step:
            if isinstance(self._raised, int):
                os.kill(os.getpid(), self._raised)
            else:
                raise self._raised


class Cut(Exception):
    """The power is gone."""


def test_a_stage_learns_and_says_what_it_did(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    student = tiny_student()
    report = train(tmp_path, settings(kd={"steps": 20}), student)
    lines = StepLog(tmp_path).lines()
    assert [line.step for line in lines] == list(range(1, 21))
    assert lines[-1].terms["ce"] < 0.7 * lines[0].terms["ce"]
    assert set(lines[0].terms) == {"ce", "kd", "mse", "med_kl", "retention"}
    assert lines[0].terms["retention"] == pytest.approx(0, abs=1e-6)
    counts = {"ce": 1, "kd": 1, "mse": 0.1, "med_kl": 0.1, "retention": 0.2}
    for line in lines:
        assert line.loss == pytest.approx(sum(counts[name] * value for name, value in line.terms.items()))
    assert report.steps == 20
    assert report.examples == 80
    assert report.tokens == sum(line.tokens for line in lines)
    assert report.trained_parameters == sum(one.numel() for one in student.parameters()) + 5 * 16
    assert not list(tmp_path.glob("checkpoint-*"))
    assert capfd.readouterr().out == ""


def test_the_rate_is_equation_five_behind_a_warm_up(tmp_path: Path) -> None:
    train(tmp_path, settings(), tiny_student())
    rates = [line.rate for line in StepLog(tmp_path).lines()]
    plain = [learning_rate(step, 5, restarts=1, highest=1e-2) for step in range(5)]
    assert rates == pytest.approx([plain[0] / 2, *plain[1:]])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[StageReport, dict[str, Any], bytes]:
    """What a training that nothing interrupts comes to: its report, weights, and file of weights."""
    student, folder = tiny_student(), tmp_path_factory.mktemp("alone")
    report = train(folder, settings(), student)
    return report, weights(student), (folder / "finished" / TRAINED).read_bytes()


def test_a_resumed_stage_ends_with_the_weights_of_an_uninterrupted_one(tmp_path: Path, alone: tuple[Any, ...]) -> None:
    resumed = tiny_student()
    with pytest.raises(Cut):
        train(tmp_path, settings(), tiny_student(), callbacks=[Signal(3, Cut)])
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    report = train(tmp_path, settings(), resumed)
    assert same(alone[1], weights(resumed))
    assert report.model_dump(exclude={"seconds"}) == alone[0].model_dump(exclude={"seconds"})
    assert (tmp_path / "finished" / TRAINED).read_bytes() == alone[2]


def test_a_resumed_adapter_is_that_of_an_uninterrupted_stage(tmp_path: Path) -> None:
    whole, resumed = with_adapter(tiny_student()), with_adapter(tiny_student())
    train(tmp_path / "whole", settings(), whole)
    with pytest.raises(Cut):
        train(tmp_path / "cut", settings(), with_adapter(tiny_student()), callbacks=[Signal(3, Cut)])
    train(tmp_path / "cut", settings(), resumed)
    assert same(weights(whole), weights(resumed))


def test_factors_kept_sound_on_the_way_resume_exactly_too(tmp_path: Path) -> None:
    from edgemed.distill.lora import Pass, StableSvdCallback

    whole, resumed, plain = (with_adapter(tiny_student()) for _ in range(3))
    passes: list[Pass] = []
    train(tmp_path / "whole", settings(), whole, callbacks=[StableSvdCallback(2, passes.append)])
    assert len(passes) > 1
    assert all(one.modules for one in passes)
    with pytest.raises(Cut):
        train(
            tmp_path / "cut",
            settings(),
            with_adapter(tiny_student()),
            callbacks=[StableSvdCallback(2), Signal(3, Cut)],
        )
    train(tmp_path / "cut", settings(), resumed, callbacks=[StableSvdCallback(2)])
    assert same(weights(whole), weights(resumed))
    train(tmp_path / "plain", settings(), plain)
    assert not same(weights(whole), weights(plain))


def test_a_torn_checkpoint_does_not_count(tmp_path: Path, alone: tuple[Any, ...]) -> None:
    resumed = tiny_student()
    with pytest.raises(Cut):
        train(tmp_path / "cut", settings(), tiny_student(), callbacks=[Signal(5, Cut)])
    (tmp_path / "cut" / "checkpoint-4" / TRAINED).write_bytes(b"torn")
    train(tmp_path / "cut", settings(), resumed)
    assert same(alone[1], weights(resumed))


def test_a_finished_stage_is_not_run_again(tmp_path: Path) -> None:
    student, other = tiny_student(), tiny_student()
    first = train(tmp_path, settings(), student)
    again = train(tmp_path, settings(), other, callbacks=[Signal(1, Cut)])
    assert again == first.model_copy(update={"again": True})
    assert same(weights(student), weights(other))


def test_fine_tuning_is_cross_entropy_alone(tmp_path: Path) -> None:
    train_stage("sft", settings(loss={"ce": 0.0}), tiny_student(), TAUGHT, tmp_path, pad=0)
    assert [set(line.terms) for line in StepLog(tmp_path).lines()] == [{"ce"}] * 5
    assert train_stage("sft", settings(sft={"steps": 0}), None, TAUGHT, tmp_path / "none", pad=0).steps == 0


def test_micro_batches_change_rounding_alone(tmp_path: Path) -> None:
    one, four = tiny_student(), tiny_student()
    config = settings(kd={"max_grad_norm": 0.5})
    train(tmp_path / "one", config, one)
    train(tmp_path / "four", settings(kd={"max_grad_norm": 0.5}, training={"micro_batches": 4}), four)
    for name, value in weights(one).items():
        assert torch.allclose(value, weights(four)[name], atol=1e-5), name
    lines = [StepLog(tmp_path / name).lines() for name in ("one", "four")]
    assert [line.loss for line in lines[0]] == pytest.approx([line.loss for line in lines[1]], rel=1e-5)
    # AdamW does not see a factor on its gradients; their norm does.
    assert [line.grad_norm for line in lines[0]] == pytest.approx([line.grad_norm for line in lines[1]], rel=1e-4)


def test_gradient_checkpointing_changes_nothing(tmp_path: Path) -> None:
    one, other = tiny_student(), tiny_student()
    train(tmp_path / "one", settings(), one, n_steps=2)
    train(tmp_path / "other", settings(training={"gradient_checkpointing": True}), other, n_steps=2)
    assert all(torch.allclose(value, weights(other)[name], atol=1e-6) for name, value in weights(one).items())
    assert not other.is_activation_checkpointing, "answers would be slow with it"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"loss": {"kd_weight": 0.5}}, "another loss"),
        ({"kd": {"rate": 1e-3}, "seed": 2}, "another seed, settings"),
        ({"curriculum": {"progressive": False}}, "another curriculum"),
        ({"kd": {"steps": 6}}, "another steps"),
    ],
)
def test_other_settings_do_not_go_on_with_a_stage(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    with pytest.raises(Cut):
        train(tmp_path, settings(), tiny_student(), callbacks=[Signal(1, Cut)])
    with pytest.raises(UsageError, match=words):
        train(tmp_path, settings(**changed), tiny_student())


def test_other_lessons_or_another_student_do_not_go_on_with_a_stage(tmp_path: Path) -> None:
    with pytest.raises(Cut):
        train(tmp_path, settings(), tiny_student(), callbacks=[Signal(1, Cut)])
    other = [replace(TAUGHT[0], teacher=TAUGHT[0].teacher * 0.5), *TAUGHT[1:]]
    with pytest.raises(UsageError, match="another lessons"):
        train(tmp_path, settings(), tiny_student(), other)
    with pytest.raises(UsageError, match="another student"):
        train(tmp_path, settings(), tiny_student(seed=1))
    train(tmp_path, settings(loss={"med_kl": 0.3}), tiny_student(seed=1), resume=False)


def test_a_loss_that_is_no_number_ends_the_stage_before_any_weight_moves(tmp_path: Path) -> None:
    bad = [replace(one, teacher=np.full_like(one.teacher, np.nan)) if n == 4 else one for n, one in enumerate(TAUGHT)]
    config = settings(
        curriculum={"progressive": False, "basic_first": False, "specialised": False}, training={"save_every": 1}
    )
    student, before = tiny_student(), {}

    class Remember(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            before.update(weights(student))

    with pytest.raises(EdgemedError, match="loss of step") as found:
        train(tmp_path, config, student, bad, callbacks=[Remember()])
    step = int(str(found.value).split("step ")[1].split()[0])
    assert "104" in str(found.value)
    assert "learning rate" in found.value.next_step
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ([f"checkpoint-{step - 1}"] if step > 1 else [])
    assert same(weights(student), before)


def test_a_gradient_that_is_no_number_ends_the_stage_as_well(tmp_path: Path) -> None:
    student = tiny_student()
    student.model.norm.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(EdgemedError, match="gradient of step 1 is not a finite number"):
        train(tmp_path, settings(), student)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_asks_for_the_end_gets_a_checkpoint_and_a_word(tmp_path: Path, number: int, alone: tuple[Any, ...]) -> None:
    handler, resumed = signal.getsignal(number), tiny_student()
    with pytest.raises(Stopped, match=r"behind step [34] of 5") as found:
        train(tmp_path / "cut", settings(), tiny_student(), callbacks=[Signal(3, number)])
    assert found.value.exit_code == 130
    assert "same command again" in found.value.next_step
    assert signal.getsignal(number) is handler
    train(tmp_path / "cut", settings(), resumed)
    assert same(alone[1], weights(resumed))


def test_the_log_of_a_resumed_stage_names_each_step_once(tmp_path: Path) -> None:
    with pytest.raises(Cut):
        train(tmp_path, settings(), tiny_student(), callbacks=[Signal(3, Cut)])
    with StepLog(tmp_path).path.open("a") as file:
        file.write('{"step": 4, "lo')
    train(tmp_path, settings(), tiny_student())
    assert [line.step for line in StepLog(tmp_path).lines()] == [1, 2, 3, 4, 5]


def test_first_gradients_are_those_of_the_first_step(tmp_path: Path) -> None:
    """Of all terms but those that begin at nothing."""
    config, student, trained = settings(loss={"mse": 0, "retention": 0}), tiny_student(), tiny_student()
    first_gradients("kd", config, student, TAUGHT, pad=0)
    norm = torch.stack([one.grad.norm() for one in student.parameters()]).norm().item()
    train(tmp_path, config, trained, n_steps=5)
    assert StepLog(tmp_path).lines()[0].grad_norm == pytest.approx(norm, rel=1e-5)


def test_norms_and_biases_and_the_projection_do_not_decay(tmp_path: Path) -> None:
    found: dict[str, Any] = {}

    class Look(transformers.TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, optimizer: Any = None, **__: Any) -> None:
            found["groups"] = [
                (g["weight_decay"], sorted({p.ndim for p in g["params"]})) for g in optimizer.param_groups
            ]

    train(tmp_path, settings(), tiny_student(), callbacks=[Look()], n_steps=1)
    assert found["groups"] == [(0.1, [2]), (0.0, [1]), (0.0, [2])]


def test_weights_that_are_trained_are_float32(tmp_path: Path) -> None:
    student = tiny_student().to(torch.bfloat16)
    train(tmp_path, settings(), student, n_steps=1)
    assert {one.dtype for one in student.parameters()} == {torch.float32}


def test_half_precision_computes_what_full_precision_does_but_for_rounding(tmp_path: Path) -> None:
    train(tmp_path / "full", settings(), tiny_student(), n_steps=1)
    train(tmp_path / "half", settings(training={"dtype": "bfloat16"}), tiny_student(), n_steps=1)
    full, half = (StepLog(tmp_path / name).lines()[0] for name in ("full", "half"))
    assert half.loss == pytest.approx(full.loss, rel=0.03)
    assert half.loss != full.loss


def test_a_lesson_of_replay_alone_is_no_stage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to teach"):
        train(tmp_path, settings(), tiny_student(), [lesson(1, kind="replay")])
