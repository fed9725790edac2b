"""`edgemed profile --list`, `--show` and `edgemed plan --profile NAME`: machines that are not here."""

from pathlib import Path
from typing import Any

import pytest
import typer
from machines import machine as made_up
from tiny_models import TinyShape, write_tiny_qwen2
from typer.testing import CliRunner, Result

from edgemed.cli import plan, profile
from edgemed.core.errors import UsageError
from edgemed.core.records import Figure, NotAvailable
from edgemed.core.units import GIB
from edgemed.hardware import profile as measuring
from edgemed.hardware.catalog import Catalog, catalog_names, load_machine, profile_of
from edgemed.hardware.record import EngineSpeed, HardwareProfile, ThreadSpeed
from edgemed.hardware.reference_machine import ReferenceMachine
from edgemed.plan.record import Plan


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEMED_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen2(tmp_path_factory.mktemp("model") / "tiny.gguf", shape=TinyShape(context_length=4096))


def edgemed(*words: str) -> Result:
    app = typer.Typer()
    app.command("profile")(profile.profile)
    app.command("plan")(plan.plan)
    return CliRunner().invoke(app, list(words))


def test_list_names_every_machine_and_measures_nothing(home: Path) -> None:
    result = edgemed("profile", "--list")
    assert result.exit_code == 0, result.output
    assert all(name in result.stdout for name in catalog_names())
    assert "--profile NAME" in result.stderr
    assert not home.exists()


def test_list_as_json_is_the_record_alone() -> None:
    result = edgemed("profile", "--list", "--json")
    assert [machine.name for machine in Catalog.model_validate_json(result.stdout).machines] == list(catalog_names())


def test_show_tells_every_figure_with_basis_and_source(home: Path) -> None:
    result = edgemed("profile", "--show", "rtx3060ti-8g")
    assert result.exit_code == 0, result.output
    machine = load_machine("rtx3060ti-8g")
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line.startswith("  ")}
    for place, listed in machine.listed():
        assert machine.provenance(listed) in lines[place]
    assert "448 GB/s; datasheet; " in lines["gpu.bandwidth"]
    assert "+-30 %" in result.stderr
    assert not home.exists()


def test_show_as_json_is_the_record_alone() -> None:
    result = edgemed("profile", "--show", "raspberry-pi5-8g", "--json")
    assert ReferenceMachine.model_validate_json(result.stdout) == load_machine("raspberry-pi5-8g")


def test_show_refuses_an_unknown_name_with_the_names() -> None:
    result = edgemed("profile", "--show", "cray-1")
    assert isinstance(result.exception, UsageError)
    assert "tigerlake-16g" in result.exception.next_step
    assert result.stdout == ""


@pytest.mark.parametrize("name", ["rtx3060ti-8g", "macbook-air-m2-8g", "jetson-orin-nano-8g", "raspberry-pi5-8g"])
def test_a_plan_for_a_machine_on_paper_says_what_it_is_worth(model: Path, name: str) -> None:
    result = edgemed("plan", str(model), "--profile", name, "--json")
    assert result.exit_code == 0, result.output
    found = Plan.model_validate_json(result.stdout)
    assert any("data sheets" in note and "+-30 %" in note for note in found.notes)
    assert found.profile_digest == profile_of(load_machine(name)).digest()
    assert "data sheets" in result.stderr


def test_a_plan_on_paper_counts_with_the_card(model: Path) -> None:
    result = edgemed("plan", str(model), "--profile", "rtx3060ti-8g", "--json")
    found = Plan.model_validate_json(result.stdout)
    assert {budget.place: budget.free_bytes for budget in found.budgets} == {"RAM": 11 * GIB, "CUDA0": 7 * GIB}
    assert "CUDA0" in edgemed("plan", str(model), "--profile", "rtx3060ti-8g").stdout


def test_plan_refuses_an_unknown_name_with_the_names(model: Path) -> None:
    result = edgemed("plan", str(model), "--profile", "cray-1")
    assert isinstance(result.exception, UsageError)
    assert "rtx3060ti-8g" in result.exception.next_step


def test_the_flags_reach_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def measure(_progress: object, **flags: Any) -> HardwareProfile:
        asked.append(flags)
        return made_up()

    monkeypatch.setattr(measuring, "measure_profile", measure)
    for words in ([], ["--quick"], ["--sustained"]):
        assert edgemed("profile", *words).exit_code == 0
    assert asked == [
        {"quick": False, "sustained": False},
        {"quick": True, "sustained": False},
        {"quick": False, "sustained": True},
    ]


def test_the_speed_is_shown_by_device_and_format() -> None:
    rows = dict(profile.rows_of(profile_of(load_machine("rtx3060ti-8g"))))
    assert rows["threads"] == "6 to decode, 6 to read prompts"
    assert rows["CUDA0 q4_k"].startswith("weights 367 GB/s (257 to 478); prompts ")
    assert rows["CUDA0 attention q8_0"].startswith("keys and values 269 GB/s (188 to 349), operations not available")
    assert rows["CPU overheads"] == "each layer 10 µs (7 to 13), each token 50 µs (35 to 65)"
    assert rows["CUDA0 link"].startswith("to it 25.2 GB/s (17.6 to 32.8)")


def test_noise_and_the_sweep_over_threads_are_shown() -> None:
    speed = profile_of(load_machine("raspberry-pi5-8g")).speed
    assert isinstance(speed, EngineSpeed)
    tokens = Figure(value=5.5, unit="tokens/s", basis="measured", low=5, high=6)
    sweep = (ThreadSpeed(n_threads=4, decode=tokens, prefill=NotAvailable(reason="no time")),)
    noisy = speed.model_copy(update={"threads": sweep, "noisy": True, "noise_note": "repetitions differ by 40 %"})
    rows = dict(profile.speed_rows(noisy))
    assert rows["4 threads"] == "decodes 5.5 tokens/s (5 to 6), reads not available (no time)"
    assert rows["noisy"] == "repetitions differ by 40 %"
    assert "noisy" not in dict(profile.speed_rows(speed))


def test_a_speed_that_was_not_measured_says_why() -> None:
    assert profile.speed_rows(NotAvailable(reason="no engine")) == [("engine speed", "not available: no engine")]
