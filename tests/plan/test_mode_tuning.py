"""Weights from a history: the optimiser finds what the history says, and the default stays where it says nothing."""

from __future__ import annotations

import builtins
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgemed.core.errors import MissingExtra, UsageError
from edgemed.plan.deployment import DEFAULT_WEIGHTS, Mix, ModeFigures, choose_mode
from edgemed.plan.mode_history import (
    Observation,
    Observed,
    append_observations,
    read_history,
    store_weights,
    stored_weights,
)
from edgemed.plan.mode_tuning import FAILED, comparable, mean_regret, regret_of, tune

GB = 10**9


def seen(
    situation: str, name: str, question_s: float, memory: float, took_s: float, *, failed: bool = False
) -> Observation:
    figures = ModeFigures(
        name=name,
        mode="adapter" if name == "adapters" else "merged",
        question_s=question_s,
        change_s=0.0,
        memory_bytes=int(memory * GB),
        memory_limit_bytes=8 * GB,
        disk_bytes=5 * GB,
        disk_limit_bytes=50 * GB,
        load_s=10.0,
    )
    observed = Observed(seconds_per_question=took_s, memory_bytes=int(memory * GB), failed=failed)
    return Observation(situation=situation, mix=Mix(n_specialities=2), figures=figures, observed=observed)


def swapping_history(n: int = 8) -> list[Observation]:
    """A machine on which the faster, fuller mode swaps: only room left tells how long a question takes."""
    chance = random.Random(3)
    found = []
    for number in range(n):
        fast, slow = chance.uniform(5, 7), chance.uniform(8, 10)
        found += [
            seen(f"clinic {number}", "all loaded", fast, chance.uniform(7, 7.9), 4 * slow),
            seen(f"clinic {number}", "adapters", slow, chance.uniform(2, 4), slow),
        ]
    return found


def test_tuned_weights_do_better_where_the_history_says_so() -> None:
    pytest.importorskip("optuna")
    history = swapping_history()
    tuned = tune(history, "a" * 64, trials=40)
    assert tuned.source == "tuned"
    assert tuned.regret is not None
    assert tuned.default_regret is not None
    assert tuned.regret < tuned.default_regret
    assert mean_regret(tuned, comparable(history)) == 0
    assert (tuned.n_observations, tuned.n_situations, tuned.history_digest) == (16, 8, "a" * 64)
    assert tuned.perf + tuned.fit + tuned.cost == pytest.approx(1)
    assert tune(history, "a" * 64, trials=40) == tuned


def test_the_default_stays_where_tuning_gains_nothing() -> None:
    pytest.importorskip("optuna")
    history = [
        one
        for number in range(4)
        for one in (
            seen(f"clinic {number}", "adapters", 8, 3, 8),
            seen(f"clinic {number}", "all loaded", 10, 6, 10),
        )
    ]
    tuned = tune(history, "b" * 64, trials=10)
    assert (tuned.source, tuned.perf, tuned.fit, tuned.cost) == ("default", 0.5, 0.3, 0.2)
    assert tuned.regret == tuned.default_regret == 0


def test_regret_is_against_the_best_in_hindsight_and_a_failure_is_dear() -> None:
    fast, slow = seen("a", "adapters", 5, 3, 10), seen("a", "all loaded", 9, 3, 8)
    assert regret_of(DEFAULT_WEIGHTS, [fast, slow]) == pytest.approx(0.25)
    broken = seen("a", "adapters", 5, 3, 10, failed=True)
    assert regret_of(DEFAULT_WEIGHTS, [broken, slow]) == pytest.approx(FAILED * 10 / 8 - 1)
    swollen = fast.model_copy(update={"observed": Observed(seconds_per_question=10, memory_bytes=9 * GB)})
    assert swollen.failed


def test_a_history_that_compares_nothing_is_refused() -> None:
    pytest.importorskip("optuna")
    with pytest.raises(UsageError, match="compare no two modes"):
        tune([seen("a", "adapters", 5, 3, 10), seen("b", "all loaded", 5, 3, 10)], "c" * 64)


def test_without_optuna_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *more: Any, **named: Any) -> Any:
        if name == "optuna":
            raise ImportError(name)
        return real(name, *more, **named)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingExtra, match="optuna"):
        tune(swapping_history(), "d" * 64)


def test_a_history_is_read_as_it_was_written_and_a_bad_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    append_observations(path, swapping_history(2)[:2])
    append_observations(path, swapping_history(2)[2:])
    found, digest = read_history(path)
    assert found == swapping_history(2)
    assert len(digest) == 64
    path.write_text(path.read_text() + '{"situation": "x"}\n')
    with pytest.raises(UsageError, match="line 5"):
        read_history(path)


def test_the_clinic_uses_stored_weights_or_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEMED_HOME", str(tmp_path))
    assert stored_weights() == DEFAULT_WEIGHTS
    tuned = DEFAULT_WEIGHTS.model_copy(update={"fit": 5.0, "source": "tuned", "n_observations": 12, "regret": 0.02})
    store_weights(tuned)
    assert stored_weights() == tuned
    figures = [one.figures for one in swapping_history(1)]
    choice = choose_mode(figures, Mix(n_specialities=2), stored_weights())
    assert choice.chosen.name == "adapters"
    assert "tuned on 12 observations, which lost 2.0%" in choice.explanation
    (tmp_path / "mode-weights.json").write_text("{}x")
    with pytest.raises(UsageError, match="tune them again"):
        stored_weights()


def test_the_command_tunes_stores_and_says_what_it_found(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    append_observations(tmp_path / "history.jsonl", swapping_history())
    command = [
        sys.executable,
        "-m",
        "edgemed.plan.mode_tuning",
        "history.jsonl",
        "--output",
        "w.json",
        "--trials",
        "20",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((tmp_path / "w.json").read_text())
    command[3] = "missing.jsonl"
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=100, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
