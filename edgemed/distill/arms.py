"""The arms of an ablation: one configuration, each time with something changed. Model, data, steps and order stay.

Of the loss: "sft" is the student alone, with cross-entropy for as many steps; the others add to it knowledge
distillation, its weight on clinical entities, or one form of MedKL. Of the method paper: "full" has everything, and
each of its other arms lacks one part. With retention every step brings some replay along, whose answers are taught too:
"without-retention" lacks both, but for the replay of the specialised part.
"""

from __future__ import annotations

from collections.abc import Callable

from edgemed.core.errors import UsageError
from edgemed.distill.config import DEMO, CurriculumConfig, DistillConfig, LossConfig

BASELINES: dict[str, str] = {
    "sft": "",
    "kd": "sft",
    "entity-weighted-kd": "sft",
    "medkl-l1": "sft",
    "medkl-bkl": "sft",
    "full": "sft",
    "without-medkl": "full",
    "without-progressive": "full",
    "without-basic-priority": "full",
    "without-specialised": "full",
    "without-retention": "full",
}
"""The arms, and what each is compared with."""
ENTITY_WEIGHT = 4.0
MED_KL = 0.1
RETENTION = 0.1
"""Where the configuration leaves such a part out."""


def arm(config: DistillConfig, name: str, seed: int) -> DistillConfig:
    """The configuration of an arm: its loss, its curriculum and its seed. Raises UsageError for an unknown name."""
    if name not in BASELINES:
        raise UsageError(f"There is no arm {name!r}.", next_step=f"the arms are: {', '.join(BASELINES)}")
    loss, curriculum = config.loss, config.curriculum
    if name in _LOSSES:
        loss = _LOSSES[name](loss)
    else:
        loss, curriculum = _full_loss(loss), _full_curriculum(curriculum)
        if name != "full":
            loss, curriculum = _WITHOUT[name](loss, curriculum)
    return config.model_copy(update={"loss": loss, "curriculum": curriculum, "seed": seed})


def chosen_arms(config: DistillConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The arms to run, in their order, with what they are compared with; and why others are left out.

    Raises UsageError, with all faults together, for arms that were asked for and do not exist or cannot differ.
    """
    asked = config.ablate.arms or tuple(BASELINES)
    faults = [f"{name!r} is no arm" for name in asked if name not in BASELINES]
    pointless = {name: reason for name in asked if (reason := _pointless(config, name))}
    if config.ablate.arms:
        faults += [f"{name} {reason}" for name, reason in pointless.items()]
    if faults:
        raise UsageError(
            f"ablate.arms cannot be run: {'; '.join(faults)}.", next_step=f"the arms are: {', '.join(BASELINES)}"
        )
    wanted = {name for name in asked if name not in pointless}
    wanted |= {BASELINES[name] for name in wanted} - {""}
    wanted |= {BASELINES[name] for name in wanted} - {""}  # what "full" is compared with
    return tuple(name for name in BASELINES if name in wanted), tuple(
        f"{name} is left out: it {reason}" for name, reason in pointless.items()
    )


def _pointless(config: DistillConfig, name: str) -> str:
    """Why the arm could not differ from what it is compared with; "" when it can."""
    if config.data.examples == DEMO:
        return ""  # it has foundations and replay
    if name == "without-retention" and not config.data.replay:
        return "needs data.replay to differ from full"
    if name == "without-basic-priority" and not config.data.basic:
        return "needs data.basic to differ from full"
    return ""


def _ce_alone(loss: LossConfig) -> LossConfig:
    return loss.model_copy(
        update={"ce": loss.ce or 1.0, "kd": "none", "mse": 0.0, "med_kl": 0.0, "retention": 0.0, "entity_weight": 1.0}
    )


def _kd(loss: LossConfig, **more: object) -> LossConfig:
    form = "chunks" if loss.kd == "none" else loss.kd
    return _ce_alone(loss).model_copy(update={"kd": form, "kd_weight": loss.kd_weight or 1.0, **more})


def _heavier(loss: LossConfig) -> float:
    return loss.entity_weight if loss.entity_weight > 1 else ENTITY_WEIGHT


_LOSSES: dict[str, Callable[[LossConfig], LossConfig]] = {
    "sft": _ce_alone,
    "kd": _kd,
    "entity-weighted-kd": lambda loss: _kd(loss, entity_weight=_heavier(loss)),
    "medkl-l1": lambda loss: _kd(loss, med_kl=loss.med_kl or MED_KL, med_kl_form="l1"),
    "medkl-bkl": lambda loss: _kd(loss, med_kl=loss.med_kl or MED_KL, med_kl_form="bkl"),
}


def _full_loss(loss: LossConfig) -> LossConfig:
    return _kd(
        loss,
        mse=loss.mse,
        med_kl=loss.med_kl or MED_KL,
        retention=loss.retention or RETENTION,
        entity_weight=loss.entity_weight,
    )


def _full_curriculum(curriculum: CurriculumConfig) -> CurriculumConfig:
    return curriculum.model_copy(update={"progressive": True, "basic_first": True, "specialised": True})


def _without_loss(part: str) -> Callable[[LossConfig, CurriculumConfig], tuple[LossConfig, CurriculumConfig]]:
    return lambda loss, curriculum: (loss.model_copy(update={part: 0.0}), curriculum)


def _without_step(part: str) -> Callable[[LossConfig, CurriculumConfig], tuple[LossConfig, CurriculumConfig]]:
    return lambda loss, curriculum: (loss, curriculum.model_copy(update={part: False}))


_WITHOUT = {
    "without-medkl": _without_loss("med_kl"),
    "without-retention": _without_loss("retention"),
    "without-progressive": _without_step("progressive"),
    "without-basic-priority": _without_step("basic_first"),
    "without-specialised": _without_step("specialised"),
}
