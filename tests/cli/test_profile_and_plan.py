"""`edgemed profile` and `edgemed plan`: the record on stdout, everything else on stderr, exact exit codes."""

from pathlib import Path

import pytest
import typer
from adapters import write_tiny_adapter
from machines import machine
from tiny_models import TinyShape, write_tiny_qwen2
from typer.testing import CliRunner, Result

from edgemed.cli import plan, profile
from edgemed.core.errors import EdgemedError, ModelRefused, PlanInfeasible, UsageError
from edgemed.core.records import NotAvailable
from edgemed.core.units import GIB
from edgemed.hardware import profile as measured
from edgemed.hardware.profile import current_profile_path, load_profile, save_profile
from edgemed.hardware.record import HardwareProfile
from edgemed.plan.record import Plan
from edgemed.plan.store import load_plan


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEMED_HOME", str(tmp_path / "home"))
    # The engine's speed is tests/hardware's matter: here it would be measured anew for every profile.
    monkeypatch.setattr(measured, "measure_speed", lambda *_, **__: NotAvailable(reason="left out by the test"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen2(tmp_path_factory.mktemp("model") / "tiny.gguf", shape=TinyShape(context_length=4096))


@pytest.fixture
def laptop(tmp_path: Path) -> Path:
    """The saved profile of another machine."""
    other = machine(free_ram=4 * GIB, warnings=("GPU idle. To mend it: run this",))
    return save_profile(other, tmp_path / "laptop.json")


def edgemed(*words: str) -> Result:
    app = typer.Typer()
    app.command("profile")(profile.profile)
    app.command("plan")(plan.plan)
    return CliRunner().invoke(app, list(words))


def test_profile_prints_the_record_alone_and_keeps_it(tmp_path: Path) -> None:
    saved = tmp_path / "here.json"
    result = edgemed("profile", "--quick", "--json", "--save", str(saved))
    assert result.exit_code == 0, result.output
    found = HardwareProfile.model_validate_json(result.stdout)
    assert found == load_profile(saved) == load_profile(current_profile_path())
    assert "Saved as" in result.stderr


def test_a_profile_that_cannot_be_kept_is_shown(home: Path) -> None:
    home.write_bytes(b"a file where the data directory should be")
    result = edgemed("profile", "--quick", "--json")
    assert result.exit_code == 0, result.output
    assert HardwareProfile.model_validate_json(result.stdout)
    assert "Not kept" in result.stderr


def test_a_profile_that_cannot_be_saved_is_shown_before_the_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    result = edgemed("profile", "--quick", "--json", "--save", str(tmp_path / "file" / "profile.json"))
    assert isinstance(result.exception, EdgemedError)
    assert HardwareProfile.model_validate_json(result.stdout)


def test_profile_shows_every_figure_or_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = dict(profile.rows_of(machine()))
    assert rows["memory"] == "8 GiB free of 16 GiB"
    assert rows["memory bandwidth"] == "not available: made up for a test"
    assert rows["cores"] == "4 physical, 8 usable"
    assert all(rows.values())


def test_plan_prints_the_record_alone(model: Path, laptop: Path, tmp_path: Path) -> None:
    saved = tmp_path / "plan.json"
    result = edgemed("plan", str(model), "--profile", str(laptop), "--slots", "2", "--json", "--save", str(saved))
    assert result.exit_code == 0, result.output
    found = Plan.model_validate_json(result.stdout)
    assert found == load_plan(saved)
    assert found.engine_config.n_slots == 2
    assert "To mend it: run this" in result.stderr


def test_adapters_count_in_the_plan_and_one_for_another_base_is_refused(
    model: Path, laptop: Path, tmp_path: Path
) -> None:
    own, deep = write_tiny_adapter(tmp_path / "own.gguf"), write_tiny_adapter(tmp_path / "deep.gguf", layers=5)
    result = edgemed("plan", str(model), "--profile", str(laptop), "--json", "--adapter", f"own={own}")
    assert result.exit_code == 0, result.output
    found = Plan.model_validate_json(result.stdout)
    assert [file.name for file in found.engine_config.adapters] == ["own"]
    assert sum(need.n_bytes for need in found.memory if need.part == "adapters") > own.stat().st_size / 2
    assert found.deployment is None
    assert "not compared: nothing was timed" in result.stderr
    assert all(rung.adapters == found.engine_config.adapters for rung in found.ladder)
    refused = edgemed("plan", str(model), "--profile", str(laptop), "--adapter", f"deep={deep}")
    assert isinstance(refused.exception, ModelRefused)
    assert "another base" in str(refused.exception)


def test_a_plan_that_cannot_be_saved_is_shown_before_the_error(model: Path, laptop: Path, tmp_path: Path) -> None:
    impossible = tmp_path / "laptop.json" / "plan.json"
    result = edgemed("plan", str(model), "--profile", str(laptop), "--json", "--save", str(impossible))
    assert isinstance(result.exception, EdgemedError)
    assert Plan.model_validate_json(result.stdout)


def test_plan_shows_memory_part_by_part_with_its_basis(model: Path, laptop: Path) -> None:
    result = edgemed("plan", str(model), "--profile", str(laptop))
    assert result.exit_code == 0, result.output
    for words in ("RAM: weights", "RAM: KV cache", "RAM: compute", "RAM: in all", "bytes, ", "llama-server -m"):
        assert words in result.stdout


@pytest.mark.parametrize(
    ("words", "error", "exit_code"),
    [
        (["--max-ram", "1MiB"], PlanInfeasible, 4),
        (["--max-ram", "much"], UsageError, 2),
        (["--context", "1000000"], UsageError, 2),
        (["--slots", "0"], UsageError, 2),
    ],
)
def test_plan_ends_with_the_contracts_exit_code(
    model: Path, laptop: Path, words: list[str], error: type[EdgemedError], exit_code: int
) -> None:
    result = edgemed("plan", str(model), "--profile", str(laptop), *words)
    assert isinstance(result.exception, error)
    assert result.exception.exit_code == exit_code
    assert result.exception.next_step
    assert result.stdout == ""


def test_plan_refuses_a_file_that_is_no_model(laptop: Path, tmp_path: Path) -> None:
    junk = tmp_path / "junk.gguf"
    junk.write_bytes(b"GGUF" + b"\xff" * 100)
    result = edgemed("plan", str(junk), "--profile", str(laptop))
    assert isinstance(result.exception, ModelRefused)
    assert result.exception.exit_code == 5


def test_plan_refuses_a_folder_as_a_profile_with_a_step_that_works(model: Path, tmp_path: Path) -> None:
    result = edgemed("plan", str(model), "--profile", str(tmp_path))
    assert isinstance(result.exception, UsageError)
    assert "Errno" not in str(result.exception)
    assert str(tmp_path) not in result.exception.next_step


def test_plan_refuses_a_profile_that_is_none(model: Path, tmp_path: Path) -> None:
    result = edgemed("plan", str(model), "--profile", str(tmp_path / "absent.json"))
    assert isinstance(result.exception, UsageError)
