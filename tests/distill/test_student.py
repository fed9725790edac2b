"""The model that learns: opened, made from nothing, saved; never with a stranger's code, never half."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="distillation needs torch")
pytest.importorskip("transformers", reason="distillation needs transformers")

from checkpoints import write_checkpoint  # noqa: E402
from distill_lessons import tiny_student  # noqa: E402

from edgemed.core.errors import EdgemedError, ModelRefused, UsageError  # noqa: E402
from edgemed.demo import demo_checkpoint_path  # noqa: E402
from edgemed.distill.config import DistillConfig, TrainingConfig  # noqa: E402
from edgemed.distill.student import computes_in, device_of, open_checkpoint, open_student, save_student  # noqa: E402
from edgemed.models.tokenizer import chat_template_of  # noqa: E402

NEW = {"hidden_size": 16, "ffn_size": 24, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "context_length": 64}


def settings(student: dict[str, Any], **more: Any) -> DistillConfig:
    return DistillConfig.model_validate(
        {
            "teacher": {"model": str(demo_checkpoint_path())},
            "student": student,
            "data": {"examples": "demo"},
            "sft": {"steps": 1},
            "kd": {"steps": 1},
            "training": {"device": "cpu"},
            **more,
        }
    )


def test_a_new_student_follows_from_its_seed_and_speaks_the_teachers_tokens() -> None:
    state = torch.get_rng_state()
    one, folder = open_student(settings({"new": NEW}), seed=3)
    again, _ = open_student(settings({"new": NEW}), seed=3)
    other, _ = open_student(settings({"new": NEW}), seed=4)
    assert folder == demo_checkpoint_path()
    teacher = json.loads((folder / "config.json").read_text())
    assert one.config.vocab_size == teacher["vocab_size"]
    assert (one.config.eos_token_id, one.config.pad_token_id) == (teacher["eos_token_id"], teacher["pad_token_id"])
    assert one.config.max_position_embeddings == 64
    pairs = list(zip(one.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(first, second) for first, second in pairs)
    assert not torch.equal(one.model.embed_tokens.weight, other.model.embed_tokens.weight)
    assert torch.equal(torch.get_rng_state(), state), "somebody else's draws are left as they were"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"n_heads": 3}, "3 heads over 1"),
        ({"hidden_size": 9, "n_heads": 3}, "cannot turn in pairs"),
        ({"tokenizer": "nowhere"}, "no tokenizer.json"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        open_student(settings({"new": NEW | changed}), seed=1)


def test_weights_below_an_adapter_come_in_the_format_of_the_computation(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "student", "qwen2")
    student = {"model": str(folder)}
    whole, _ = open_student(settings(student), seed=1)
    half = {"training": {"device": "cpu", "dtype": "bfloat16"}}
    below, place = open_student(settings(student, adapter={}, **half), seed=1)
    trained, _ = open_student(settings(student, **half), seed=1)
    assert place == folder
    assert [next(one.parameters()).dtype for one in (whole, below, trained)] == [
        torch.float32,
        torch.bfloat16,
        torch.float32,
    ]


def test_a_broken_folder_is_refused_in_words(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "student", "qwen2")
    (folder / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelRefused, match="does not load"):
        open_checkpoint(folder, "float32")
    with pytest.raises(ModelRefused, match="does not load"):
        open_checkpoint(tmp_path / "nowhere", "float32")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_what_was_saved_is_opened_again_with_tokenizer_and_template(tmp_path: Path, tied: bool, dtype: Any) -> None:
    student = tiny_student(tied=tied)
    before = {name: one.clone() for name, one in student.state_dict().items()}
    save_student(student, demo_checkpoint_path(), tmp_path / "out", dtype)
    found = open_checkpoint(tmp_path / "out", "auto")
    assert str(found.dtype) == f"torch.{dtype}"
    for name, one in found.state_dict().items():
        assert torch.equal(one, before[name].to(one.dtype)), name
    assert all(torch.equal(one, before[name]) for name, one in student.state_dict().items())
    assert chat_template_of(tmp_path / "out") == chat_template_of(demo_checkpoint_path())
    assert found.config.use_cache is True
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_save_that_fails_leaves_the_older_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student = tiny_student()
    save_student(student, demo_checkpoint_path(), tmp_path / "out")
    whole = (tmp_path / "out" / "model.safetensors").read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(student, "save_pretrained", full)
    with pytest.raises(EdgemedError, match="No space left"):
        save_student(student, demo_checkpoint_path(), tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_the_processor_in_full_precision_or_a_word() -> None:
    assert device_of(TrainingConfig()) == "cpu"
    assert computes_in(TrainingConfig()) == "float32"
    with pytest.raises(UsageError, match="sees no GPU"):
        device_of(TrainingConfig(device="cuda"))
