"""Several processes train as one does: the same loss, the same weights, and the same after a power cut."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="distillation needs torch")
pytest.importorskip("transformers", reason="distillation needs transformers")
pytest.importorskip("accelerate", reason="processes need accelerate")

import edgemed.distill  # noqa: E402
from edgemed.core.errors import UsageError  # noqa: E402
from edgemed.distill.checkpoints import TRAINED  # noqa: E402
from edgemed.distill.step_log import StepLog  # noqa: E402

SCRIPT = Path(__file__).parents[1] / "distill_process.py"
SHARDED = Path(edgemed.distill.__file__).parent / "configs" / "fsdp2.yaml"
SETTINGS: dict[str, Any] = {
    "teacher": {"model": "demo"},
    "student": {"model": "student"},
    "data": {"examples": "demo"},
    "sft": {"steps": 5},
    "kd": {"steps": 5, "examples_per_step": 4, "rate": 1e-2},
    "loss": {"retention": 0.2, "mse": 0.1},
    "training": {"save_every": 2, "device": "cpu", "micro_batches": 4},
}


def run(folder: Path, launcher: list[str], **settings: Any) -> int:
    """Train in `folder`; the exit code."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    (folder.parent / "settings.json").write_text(json.dumps(SETTINGS | settings), encoding="utf-8")
    places = [str(SCRIPT.parent), str(SCRIPT.parents[1]), str(SCRIPT.parents[1] / "converters")]
    done = subprocess.run(
        [sys.executable, *launcher, str(SCRIPT), str(folder), str(folder.parent / "settings.json")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.stdout == ""
    return done.returncode


def two_processes(*more: str) -> list[str]:
    """accelerate's launcher, on loopback."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    address = ["--main_process_ip", "127.0.0.1", "--main_process_port", str(port)]
    return ["-m", "accelerate.commands.launch", "--num_processes", "2", *address, *more]


def assert_same(one: Path, other: Path) -> None:
    """To 1e-5, losses of every step and all weights."""
    from safetensors.torch import load_file

    lines = [StepLog(folder).lines() for folder in (one, other)]
    assert len(lines[0]) == 5
    for first, second in zip(*lines, strict=True):
        assert second.loss == pytest.approx(first.loss, abs=1e-5)
        assert second.terms == pytest.approx(first.terms, abs=1e-5)
        assert second.tokens == first.tokens
        assert second.grad_norm == pytest.approx(first.grad_norm, rel=1e-4)
    weights = [load_file(folder / "finished" / TRAINED) for folder in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.allclose(value, weights[1][name], atol=1e-5) for name, value in weights[0].items())


@pytest.mark.slow
@pytest.mark.parametrize("adapted", [False, True])
def test_two_processes_train_as_one_does(tmp_path: Path, adapted: bool) -> None:
    launcher = two_processes("--multi_gpu")  # processes, that is; the settings say where they compute
    assert run(tmp_path / "one", [], adapted=adapted) == 0
    assert run(tmp_path / "two", launcher, adapted=adapted) == 0
    assert_same(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize("adapted", [False, True])
def test_a_student_spread_over_two_processes_trains_as_a_whole_one_does(tmp_path: Path, adapted: bool) -> None:
    """The shipped FSDP2 configuration on gloo, its checkpoints among what is tested.

    accelerate shards for no process that computes on the CPU: the script tells it another kind of device. What a CPU
    cannot show is bfloat16 communication by NCCL, and memory.
    """
    launcher = two_processes("--config_file", str(SHARDED))
    assert run(tmp_path / "one", [], adapted=adapted) == 0
    assert run(tmp_path / "two", launcher, adapted=adapted, sharded=True) == 0
    assert_same(tmp_path / "one", tmp_path / "two")
    assert run(tmp_path / "cut", launcher, adapted=adapted, sharded=True, cut=3) != 0
    (kept,) = (tmp_path / "cut").glob("checkpoint-*")
    assert list(kept.rglob("*.distcp")), "each process has written its part"
    assert run(tmp_path / "cut", launcher, adapted=adapted, sharded=True) == 0
    names = [tmp_path / folder / "finished" / TRAINED for folder in ("two", "cut")]
    assert names[0].read_bytes() == names[1].read_bytes()


def test_micro_batches_that_cannot_be_dealt_evenly_are_refused() -> None:
    from edgemed.distill.trainer import StageTrainer

    arguments, nothing = SimpleNamespace(world_size=2), SimpleNamespace()
    with pytest.raises(UsageError, match="3 micro-batches cannot be dealt evenly to 2") as found:
        StageTrainer(nothing, arguments, SimpleNamespace(n_micro=3), nothing, nothing)  # type: ignore[arg-type]
    assert "multiple of 2" in found.value.next_step
