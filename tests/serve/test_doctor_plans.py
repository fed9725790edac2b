"""`edgemed doctor` on saved plans: whether they still hold, and whether their memory is free."""

from __future__ import annotations

from pathlib import Path

import pytest
from machines import machine

from edgemed.core.records import NotAvailable
from edgemed.core.units import GIB
from edgemed.hardware.record import bytes_figure
from edgemed.plan.make import make_plan
from edgemed.plan.record import Plan
from edgemed.plan.store import save_plan
from edgemed.serve.doctor import plans
from edgemed.serve.doctor.plans import check_memory, check_plans
from edgemed.serve.doctor.record import Place

pytest.importorskip("gguf", reason="makes the model")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    from tiny_models import write_tiny_qwen2

    model = write_tiny_qwen2(tmp_path_factory.mktemp("model") / "tiny.gguf")
    return make_plan(model, machine(), trial=False)


@pytest.fixture
def place(tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A data folder with one plan that holds."""
    monkeypatch.setattr(plans, "engine_name", lambda: plan.engine)
    monkeypatch.setattr(plans, "hardware_now", lambda: plan.hardware_id)
    monkeypatch.setattr(plans, "our_pids", frozenset)
    save_plan(plan, tmp_path / "plans" / "tiny.json")
    return Place(folder=tmp_path, project=tmp_path)


def levels(place: Place) -> list[str]:
    return [finding.level for finding in check_plans(place)]


def test_a_plan_that_holds_is_well(place: Place) -> None:
    assert levels(place) == ["ok"]


def test_a_plan_of_another_engine_or_machine_is_told_with_the_command(
    place: Place, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "engine_name", lambda: "llama.cpp (llama-cpp-python 9.9.9; cpu)")
    (finding,) = check_plans(place)
    assert (finding.level, finding.next_step) == ("warn", f"edgemed plan {plan.model.path}")
    assert "9.9.9" in finding.what
    monkeypatch.setattr(plans, "engine_name", lambda: plan.engine)
    monkeypatch.setattr(plans, "hardware_now", lambda: "another")
    assert levels(place) == ["warn"]


def test_a_model_that_changed_makes_its_plan_stale(place: Place, plan: Plan) -> None:
    changed = plan.model_copy(update={"model": plan.model.model_copy(update={"n_bytes": 1})})
    save_plan(changed, place.folder / "plans" / "tiny.json")
    assert levels(place) == ["warn"]


def test_plans_of_no_use_are_harmless(place: Place, plan: Plan) -> None:
    (place.folder / "plans" / "old.json").write_text('{"schema_version": 1}')
    gone = plan.model_copy(update={"model": plan.model.model_copy(update={"path": Path("/nowhere.gguf")})})
    save_plan(gone, place.folder / "plans" / "gone.json")
    useless, well = check_plans(place)
    assert (useless.level, well.level) == ("ok", "ok")
    assert "2 of 3" in useless.what


def test_no_plan_yet_is_well(tmp_path: Path) -> None:
    assert levels(Place(folder=tmp_path, project=tmp_path)) == ["ok"]


@pytest.mark.parametrize(("free", "level"), [(8 * GIB, "ok"), (1000, "fault")])
def test_memory_is_held_against_what_the_plan_needs(
    place: Place, free: float, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "read_ram", lambda _root: (bytes_figure(16 * GIB), bytes_figure(free)))
    (finding,) = check_memory(place)
    assert (finding.level, "tiny.gguf needs" in finding.what) == (level, True)


def test_memory_for_less_than_the_plan_is_a_warning(place: Place, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    free = plan.needed_bytes() - 1000
    monkeypatch.setattr(plans, "_needs", lambda _plan: [plan.needed_bytes(), free - 1])
    monkeypatch.setattr(plans, "read_ram", lambda _root: (bytes_figure(16 * GIB), bytes_figure(free)))
    assert [finding.level for finding in check_memory(place)] == ["warn"]


def test_what_a_running_server_holds_counts_as_free(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "read_ram", lambda _root: (bytes_figure(16 * GIB), bytes_figure(1000)))
    monkeypatch.setattr(plans, "_held_by_servers", lambda: 4 * GIB)
    assert [finding.level for finding in check_memory(place)] == ["ok"]


def test_unknown_memory_is_said(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = NotAvailable(reason="no")
    monkeypatch.setattr(plans, "read_ram", lambda _root: (nothing, nothing))
    assert [finding.level for finding in check_memory(place)] == ["unknown"]
