"""`edgemed bench`: one table for people, the record alone with --json, a picture, exact exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from machines import machine
from rpc_device import rpc_device
from tiny_models import TinyShape, write_tiny_qwen2
from typer.testing import CliRunner, Result

from edgemed.cli import bench
from edgemed.core.errors import EdgemedError, ModelRefused, UsageError
from edgemed.core.files import write_text
from edgemed.core.records import NotAvailable
from edgemed.hardware import profile as measured
from edgemed.hardware.profile import save_profile
from edgemed.plan import bench as measuring
from edgemed.plan import situation, store
from edgemed.plan.bench import BenchReport
from edgemed.plan.make import PlanRequest, make_plan
from edgemed.plan.store import save_plan

SMALL = "prompt_tokens = 8\nanswer_tokens = 4\n"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory that holds the profile of this machine, which is a made-up one."""
    # The engine's speed is tests/hardware's matter: here it would be measured anew for every profile.
    monkeypatch.setattr(measured, "measure_speed", lambda *_, **__: NotAvailable(reason="left out by the test"))
    monkeypatch.setenv("EDGEMED_HOME", str(tmp_path / "home"))
    here = machine()
    for module in (store, measuring, situation):
        monkeypatch.setattr(module, "hardware_now", here.hardware_id)
    for module in (store, measuring):
        monkeypatch.setattr(module, "engine_name", here.engine_name)
    save_profile(here)
    return tmp_path / "home"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen2(tmp_path_factory.mktemp("model") / "tiny.gguf", shape=TinyShape(context_length=512))


@pytest.fixture(scope="module")
def plan(model: Path) -> Path:
    """A saved plan of one slot, not timed."""
    path = model.parent / "plan.json"
    save_plan(make_plan(model, machine(), PlanRequest(context_length=256, n_slots=1)), path)
    return path


@pytest.fixture
def small(tmp_path: Path) -> str:
    write_text(tmp_path / "small.toml", SMALL)
    return str(tmp_path / "small.toml")


def edgemed(*words: str) -> Result:
    app = typer.Typer()
    app.command("bench")(bench.bench)
    app.command("other")(lambda: None)  # one command alone would take no name
    return CliRunner().invoke(app, ["bench", *words])


def test_the_record_stands_alone_on_stdout_and_is_of_the_real_engine(model: Path, plan: Path, small: str) -> None:
    result = edgemed(str(model), "--plan", str(plan), "--workload", small, "--json")
    assert result.exit_code == 0, result.output
    report = BenchReport.model_validate_json(result.stdout)
    assert report.workloads[0].name == "small"
    assert len(report.workloads[0].answer_s) == 5
    assert report.workloads[0].tokens_per_s.measured.available
    assert report.engine_config.n_slots == 1
    assert report.memory.resident is not None
    assert "--plot FILE.svg" in result.stderr


def test_people_read_one_table_with_units_and_a_picture_is_drawn(
    model: Path, plan: Path, small: str, tmp_path: Path
) -> None:
    picture = tmp_path / "bench.svg"
    words = ["--workload", small, "--workload", "short", "--plot", str(picture)]
    result = edgemed(str(model), "--plan", str(plan), *words)
    assert result.exit_code == 0, result.output
    for part in ("measured here", "planned", "difference", "8 tokens read, 4 written", "tokens/s (", " ms (", " s ("):
        assert part in result.stdout
    assert "engine's process" in result.stdout
    assert "energy" in result.stdout
    assert "median of 5" in result.stdout
    assert picture.read_text(encoding="utf-8").startswith("<svg")
    assert f"Drawn as {picture}" in result.stderr


def test_without_a_plan_the_servers_own_is_used_and_kept(
    model: Path, small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgemed.plan.make.run_trial", lambda *asked: [])
    result = edgemed(str(model), "--workload", small, "--json")
    assert result.exit_code == 0, result.output
    report = BenchReport.model_validate_json(result.stdout)
    assert store.load_plan(store.plan_path(model)).digest() == report.plan_digest


def test_a_second_devices_memory_has_rows_of_its_own(model: Path, small: str, tmp_path: Path) -> None:
    with rpc_device() as device:
        planned = make_plan(model, machine(), PlanRequest(context_length=256, n_slots=1))
        config = planned.engine_config.model_copy(update={"n_gpu_layers": 3, "devices": (device.name,)})
        save_plan(planned.model_copy(update={"engine_config": config}), tmp_path / "plan.json")
        result = edgemed(str(model), "--plan", str(tmp_path / "plan.json"), "--workload", small, "--json")
    assert result.exit_code == 0, result.output
    report = BenchReport.model_validate_json(result.stdout)
    held = {(one.place, one.part): one.real_bytes for one in report.memory.parts}
    assert held[device.name, "weights"] > held["RAM", "weights"]
    assert held[device.name, "kv_cache"] > 0
    assert f"{device.name}: weights" in dict(bench.rows_of(report))
    assert report.workloads[0].tokens_per_s.measured.available


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--workload", "quick"], "long-note, question, short"),
        (["--workload", "absent.toml"], "absent.toml"),
        (["--plot", "bench.png"], "--plot bench.svg"),
        (["--plot", "no/such/folder/bench.svg"], "a folder that exists"),
        (["--plan", "absent.json"], "absent.json"),
    ],
)
def test_what_cannot_be_used_is_told_before_anything_is_measured(
    model: Path, words: list[str], part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "Stopwatch", None)  # starting it would fail
    result = edgemed(str(model), *words)
    assert isinstance(result.exception, UsageError)
    assert result.exception.exit_code == 2
    assert part in str(result.exception)
    assert result.stdout == ""


def test_fewer_repetitions_than_a_median_needs_are_refused(model: Path) -> None:
    result = edgemed(str(model), "--repetitions", "3")
    assert result.exit_code == 2
    assert result.stdout == ""


def test_a_damaged_model_ends_with_its_own_exit_code(tmp_path: Path) -> None:
    junk = tmp_path / "junk.gguf"
    junk.write_bytes(b"GGUF" + b"\xff" * 100)
    result = edgemed(str(junk))
    assert isinstance(result.exception, ModelRefused)
    assert result.exception.exit_code == 5


def test_a_picture_that_cannot_be_written_does_not_lose_the_figures(model: Path, plan: Path, small: str) -> None:
    def full(*_: object) -> None:
        raise EdgemedError("The disk is full.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgemed.core.files.write_text", full)
        result = edgemed(str(model), "--plan", str(plan), "--workload", small, "--json", "--plot", "bench.svg")
    assert isinstance(result.exception, EdgemedError)
    assert BenchReport.model_validate_json(result.stdout)
