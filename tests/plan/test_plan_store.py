"""A plan is made once and used until file, engine or machine change."""

import os
import shutil
from pathlib import Path

import pytest
from machines import machine
from tiny_models import write_tiny_qwen2

from edgemed.core.errors import UsageError
from edgemed.core.progress import SilentProgress
from edgemed.core.records import NotAvailable
from edgemed.core.units import GIB, MIB
from edgemed.hardware.profile import current_profile_path, load_profile, save_profile
from edgemed.hardware.record import bytes_figure
from edgemed.plan import make, situation, store
from edgemed.plan.store import current_profile, load_plan, plan_for, plan_path, save_plan, still_holds


class Listener(SilentProgress):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen2(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture
def model(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model, and a data directory that holds this machine's profile."""
    monkeypatch.setenv("EDGEMED_HOME", str(tmp_path / "home"))
    here = machine()
    monkeypatch.setattr(store, "hardware_now", here.hardware_id)
    monkeypatch.setattr(situation, "hardware_now", here.hardware_id)
    monkeypatch.setattr(store, "engine_name", here.engine_name)
    monkeypatch.setattr(make, "run_trial", lambda *asked: [])  # trials have tests of their own
    save_profile(here)
    return Path(shutil.copy2(file, tmp_path / "tiny.gguf"))


def test_the_first_plan_is_saved_and_used_again(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = plan_for(model)
    assert load_plan(plan_path(model)) == first
    monkeypatch.setattr(store, "make_plan", None)  # making another would fail
    assert plan_for(model) == first


def test_every_wish_has_its_own_plan(model: Path) -> None:
    assert plan_for(model, n_slots=2, context_length=1024).engine_config.n_slots == 2
    assert plan_for(model).engine_config.n_slots == 4
    assert plan_for(model, n_slots=2, context_length=1024).engine_config.context_length == 1024


def test_another_file_under_the_name_is_planned_anew(model: Path) -> None:
    first = plan_for(model)
    os.utime(model, ns=(1, 1))
    assert not still_holds(first, model)
    assert plan_for(model).model.modified_ns == 1


def test_another_machine_is_planned_anew(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_for(model)
    assert still_holds(plan, model)
    monkeypatch.setattr(store, "hardware_now", lambda: "another")
    assert not still_holds(plan, model)


def test_another_engine_is_planned_anew(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_for(model)
    monkeypatch.setattr(store, "engine_name", lambda: "llama.cpp (llama-cpp-python 0.3.36; cpu, cuda)")
    assert not still_holds(plan, model)


def test_a_plan_that_no_longer_fits_the_free_memory_is_made_anew(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_for(model)
    little = bytes_figure(plan.needed_bytes() - 1)
    monkeypatch.setattr(store, "read_ram", lambda: (little, little))
    assert not still_holds(plan, model)


@pytest.mark.parametrize(("free_vram", "holds"), [(8 * GIB, True), (MIB, False), (None, False)])
def test_a_plan_on_a_gpu_asks_what_is_free_there(
    model: Path, monkeypatch: pytest.MonkeyPatch, free_vram: int | None, holds: bool
) -> None:
    with_gpu = machine(free_vram=8 * GIB)
    monkeypatch.setattr(store, "ask_engine", lambda: with_gpu.engine)
    save_profile(with_gpu)
    plan = plan_for(model)
    assert plan.engine_config.n_gpu_layers > 0
    monkeypatch.setattr(store, "ask_engine", lambda: machine(free_vram=free_vram).engine)
    assert still_holds(plan, model) == holds


def test_a_reduced_plan_is_made_again_when_there_is_room_for_more(model: Path) -> None:
    small = plan_for(model)
    small = small.model_copy(
        update={"reduced": True, "engine_config": small.engine_config.model_copy(update={"n_slots": 1})}
    )
    save_plan(small, plan_path(model))
    assert plan_for(model).engine_config.n_slots == 4


def test_a_reduced_plan_is_kept_while_there_is_no_room(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = plan_for(model).model_copy(update={"reduced": True, "notes": ("timed once",)})
    save_plan(kept, plan_path(model))
    assert plan_for(model) == kept


def test_a_model_that_is_gone_holds_no_plan(model: Path) -> None:
    plan = plan_for(model)
    model.unlink()
    assert not still_holds(plan, model)


def test_the_saved_profile_is_used_with_todays_free_memory(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    today = bytes_figure(12345)
    monkeypatch.setattr(store, "read_ram", lambda: (machine().memory.total, today))
    monkeypatch.setattr(store, "measure_profile", None)
    assert current_profile(SilentProgress(), speed_without_gpu=False).memory.free == today


def test_a_machine_without_profile_is_measured_and_kept(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    current_profile_path().unlink()
    measured = machine()
    monkeypatch.setattr(store, "measure_profile", lambda progress, quick, speed_without_gpu: measured)
    assert current_profile(SilentProgress(), speed_without_gpu=False) == measured
    assert load_profile(current_profile_path()) == measured


def test_a_profile_without_speeds_is_measured_again_where_they_are_needed(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = machine(physical=2)
    monkeypatch.setattr(store, "measure_profile", lambda progress, quick, speed_without_gpu: measured)
    assert current_profile(SilentProgress()) == measured
    assert current_profile(SilentProgress(), speed_without_gpu=False).cpu == machine(physical=2).cpu


def test_a_disk_that_refuses_does_not_keep_the_model_from_running(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the data directory should be")
    monkeypatch.setenv("EDGEMED_HOME", str(blocked))
    monkeypatch.setattr(store, "measure_profile", lambda progress, quick, speed_without_gpu: machine())
    listener = Listener()
    assert plan_for(model, listener).engine_config.n_slots == 4
    assert any("Not kept" in note for note in listener.notes)


def test_a_gpu_that_the_engine_cannot_use_is_named_every_time(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "gpu_warnings", lambda: ("GPU idle. To mend it: install",))
    for _ in range(2):
        listener = Listener()
        plan_for(model, listener)
        assert listener.notes == ["GPU idle. To mend it: install"]


def test_a_file_that_is_no_plan_is_refused(tmp_path: Path) -> None:
    for content in ("", "{}", '{"schema_version": 1}', "\udcff"):
        path = tmp_path / "plan.json"
        path.write_bytes(content.encode(errors="surrogateescape"))
        with pytest.raises(UsageError, match="plan"):
            load_plan(path)
    with pytest.raises(UsageError):
        load_plan(tmp_path / "absent.json")


def test_a_plan_is_written_whole(model: Path, tmp_path: Path) -> None:
    plan = plan_for(model)
    save_plan(plan, tmp_path / "saved.json")
    assert load_plan(tmp_path / "saved.json") == plan
    assert isinstance(plan.tokens_per_s, NotAvailable)
