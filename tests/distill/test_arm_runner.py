"""One arm after the other: what several have in common is done once, and the result is as if each had done it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from checkpoints import write_checkpoint

from edgemed.distill.arms import arm
from edgemed.distill.config import DataConfig, DistillConfig, StageConfig, StudentConfig, TeacherConfig, TrainingConfig
from edgemed.distill.examples import Example
from edgemed.distill.learn import ArmRunner
from edgemed.distill.teach import teach

pytestmark = pytest.mark.needs_torch

EXAMPLES = tuple(
    Example(id=f"zinc-{n}", question=f"How much zinc at {n} years?", answer=f"Zinc, oral: {n} mg once daily.")
    for n in range(2, 12)
)
ASKED = {"question": "Zinc at the age of 3?", "answer": "Zinc: 3 mg once daily."}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[DistillConfig, Path]:
    """A configuration, and the corpus of its teacher."""
    folder = tmp_path_factory.mktemp("arms")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_checkpoint(folder / "teacher", "llama", max_position_embeddings=1024)
        write_checkpoint(folder / "student", "qwen2", max_position_embeddings=1024)
    (folder / "asked.jsonl").write_text(json.dumps(ASKED) + "\n")
    config = DistillConfig(
        teacher=TeacherConfig(model=str(folder / "teacher")),
        student=StudentConfig(model=str(folder / "student")),
        data=DataConfig(examples="", examinations=(str(folder / "asked.jsonl"),), check_leaks=False),
        sft=StageConfig(steps=2, examples_per_step=4),
        kd=StageConfig(steps=2, examples_per_step=4),
        training=TrainingConfig(device="cpu"),
    )
    teach(config, EXAMPLES, folder / "corpus")
    return config, folder / "corpus"


def weights(folder: Path) -> bytes:
    return (folder / "kd" / "finished" / "trained.safetensors").read_bytes()


def test_arms_that_differ_in_their_loss_share_one_fine_tuning(made: tuple[DistillConfig, Path], tmp_path: Path) -> None:
    config, corpus = made
    together = ArmRunner(corpus, "final", tmp_path / "shared")
    for name in ("sft", "entity-weighted-kd"):
        together(arm(config, name, 1), tmp_path / name)
    alone = ArmRunner(corpus, "final", tmp_path / "its-own")
    alone(arm(config, "entity-weighted-kd", 1), tmp_path / "alone")
    assert len(list((tmp_path / "shared").iterdir())) == 1
    assert weights(tmp_path / "entity-weighted-kd") == weights(tmp_path / "alone")
    assert weights(tmp_path / "entity-weighted-kd") != weights(tmp_path / "sft")


def test_arms_of_another_seed_order_or_weight_of_reasoning_do_not(
    made: tuple[DistillConfig, Path], tmp_path: Path
) -> None:
    config, corpus = made
    runner = ArmRunner(corpus, "final", tmp_path / "shared")
    lighter = config.model_copy(update={"loss": config.loss.model_copy(update={"think_weight": 0.5})})
    arms = [arm(config, "full", 1), arm(config, "full", 2), arm(config, "without-progressive", 1)]
    for number, one in enumerate([*arms, arm(lighter, "full", 1)]):
        runner(one, tmp_path / str(number))
    assert len(list((tmp_path / "shared").iterdir())) == 4
