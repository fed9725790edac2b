"""The figures of equation 7 on this machine, with the real engine and a tiny base."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from adapters import write_tiny_adapter
from machines import machine
from tiny_models import TinyShape, write_tiny_qwen2

from edgemed.core.progress import SilentProgress
from edgemed.core.units import GIB
from edgemed.engines.base import AdapterFile
from edgemed.engines.stopwatch import Measurement, Stopwatch
from edgemed.plan.deployment import Mix, ModeChoice, choose_mode
from edgemed.plan.make import PlanRequest, make_plan
from edgemed.plan.mode_history import read_history
from edgemed.plan.mode_trial import ADAPTERS, ALL_LOADED, ONE_LOADED, ModeTimes, figures_of, plan_with_mode
from edgemed.plan.record import Plan, Workload
from edgemed.plan.store import save_plan

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("mode")
    base = write_tiny_qwen2(folder / "base.gguf", shape=TinyShape(context_length=512))
    files = tuple(
        AdapterFile(name=name, path=write_tiny_adapter(folder / f"{name}.gguf", seed=seed))
        for seed, name in enumerate(("heart", "skin", "child"))
    )
    request = PlanRequest(adapters=files, workload=Workload(prompt_tokens=32, answer_tokens=8))
    return make_plan(base, machine(free_ram=4 * GIB), request)


def test_the_figures_follow_from_files_plan_and_times(plan: Plan) -> None:
    times = ModeTimes(plain_question=10.0, adapter_question=11.0, change=0.01, load=5.0)
    adapters, all_loaded, one_loaded = figures_of(plan, times)
    assert [one.name for one in (adapters, all_loaded, one_loaded)] == [ADAPTERS, ALL_LOADED, ONE_LOADED]
    size = plan.model.path.stat().st_size
    assert adapters.disk_bytes == size + sum(file.path.stat().st_size for file in plan.engine_config.adapters)
    assert all_loaded.disk_bytes == one_loaded.disk_bytes == 3 * size
    assert (adapters.question_s, all_loaded.question_s, one_loaded.question_s) == (11.0, 10.0, 10.0)
    assert (adapters.change_s, all_loaded.change_s, one_loaded.change_s) == (0.01, 0.0, 5.0)
    assert (adapters.load_s, all_loaded.load_s, one_loaded.load_s) == (5.0, 15.0, 5.0)
    assert all_loaded.memory_bytes == 3 * one_loaded.memory_bytes
    of_adapters = sum(need.n_bytes for need in plan.memory if need.part == "adapters")
    assert adapters.memory_bytes - one_loaded.memory_bytes == of_adapters > 0


def test_one_speciality_has_two_ways_and_nothing_to_change(plan: Plan) -> None:
    config = plan.engine_config.model_copy(update={"adapters": plan.engine_config.adapters[:1]})
    alone = plan.model_copy(update={"engine_config": config})
    names = {one.name: one.change_s for one in figures_of(alone, ModeTimes(10.0, 11.0, 0.01, 5.0))}
    assert names == {ADAPTERS: 0.01, ONE_LOADED: 0.0}


def test_a_plan_with_adapters_says_which_mode_and_why(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEMED_HOME", str(tmp_path))
    found = plan_with_mode(plan, 0.5, SilentProgress())
    assert isinstance(found.deployment, ModeChoice)
    assert found.deployment.mix.n_specialities == 3
    assert len(found.deployment.modes) == 3
    assert all(one.figures.question_s > 0 for one in found.deployment.modes)
    assert "the default" in found.deployment.explanation
    assert Plan.model_validate_json(found.model_dump_json()) == found


def test_the_stopwatch_times_a_step_with_an_adapter_and_a_switch(plan: Plan) -> None:
    with Stopwatch(plan.engine_config) as watch:
        for adapter, leaves in (("", None), ("heart", None), ("heart", "skin"), ("", "heart")):
            wanted = Measurement(prompt_tokens=4, answer_tokens=2, repetitions=2, adapter=adapter, leaves=leaves)
            assert len(watch.measure(wanted).prompt_s) == 2


def test_a_saved_plan_and_what_came_of_it_make_a_line_of_the_history(plan: Plan, tmp_path: Path) -> None:
    choice = choose_mode(figures_of(plan, ModeTimes(10.0, 11.0, 0.01, 5.0)), Mix(n_specialities=3))
    save_plan(plan.model_copy(update={"deployment": choice}), tmp_path / "plan.json")
    command = [sys.executable, "-m", "edgemed.plan.mode_tuning", "history.jsonl", "--add", "plan.json"]
    said = ["--mode", ONE_LOADED, "--situation", "clinic 7", "--seconds", "23.5", "--memory", "2GB", "--failed"]
    done = subprocess.run([*command, *said], capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    (line,), _ = read_history(tmp_path / "history.jsonl")
    assert (line.figures.name, line.situation, line.failed) == (ONE_LOADED, "clinic 7", True)
    assert (line.observed.seconds_per_question, line.observed.memory_bytes) == (23.5, 2 * 10**9)
    said[1] = "another"
    done = subprocess.run([*command, *said], capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False)
    assert done.returncode == 2
    assert ADAPTERS in done.stderr
