"""A training that is killed ends with the weights of one that was left alone: the benchmark's own check, small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="distillation needs transformers")

ROOT = Path(__file__).parents[2]


def killed(*arguments: str) -> dict[str, object]:
    script = ROOT / "benchmarks" / "distill" / "kills.py"
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="forks, and kills by signal")
def test_a_training_killed_three_times_ends_with_the_same_weights() -> None:
    found = killed("--kills", "3", "--steps", "8")
    assert found["kills"] == 3
    assert found["same"] is True


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks, and kills by signal")
@pytest.mark.parametrize("more", [[], ["--adapter"]])
def test_a_training_killed_twenty_times_ends_with_the_same_weights(more: list[str]) -> None:
    found = killed("--kills", "20", *more)
    assert found["kills"] == 20
    assert found["same"] is True
