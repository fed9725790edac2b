"""What can be read is read with its unit; what cannot says why."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgemed.core.errors import UsageError
from edgemed.core.progress import SilentProgress
from edgemed.core.records import Figure, NotAvailable
from edgemed.core.units import GIB, MIB
from edgemed.hardware import disk, engine_devices, power, profile
from edgemed.hardware.cpu import cpu_quota, read_cpu
from edgemed.hardware.disk import measure_read, memory_backed, read_disk
from edgemed.hardware.engine_devices import ask_engine, parse_answer
from edgemed.hardware.memory import container_memory, last_cache_bytes, measure_copy, read_ram
from edgemed.hardware.profile import current_profile_path, load_profile, save_profile, speed_holds
from edgemed.hardware.record import EngineProfile, EngineSpeed, HardwareProfile, TextFact

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc and /sys")


def write(root: Path, name: str, text: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@linux_only
def test_processor_and_extensions_come_from_the_kernel(tmp_path: Path) -> None:
    write(
        tmp_path,
        "proc/cpuinfo",
        "processor\t: 0\nmodel name\t: Example CPU\nflags\t\t: fpu sse4_2 avx avx2 fma f16c\n\nprocessor\t: 1\n",
    )
    cpu = read_cpu(tmp_path)
    assert cpu.model == TextFact(value="Example CPU")
    assert cpu.isa == ("sse4_2", "avx", "f16c", "fma", "avx2")


@linux_only
def test_an_arm_processor_is_read_by_its_own_words(tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n\nModel\t\t: Example Pi\n")
    assert read_cpu(tmp_path).isa == ("asimd", "asimddp", "i8mm")


@linux_only
def test_a_machine_without_flags_says_so(tmp_path: Path) -> None:
    cpu = read_cpu(tmp_path)
    assert cpu.isa == ()
    assert "not available" in cpu.isa_note


@pytest.mark.parametrize(
    ("text", "quota"), [("max 100000", None), ("150000 100000", 1.5), ("junk", None), ("1 0", None)]
)
def test_a_containers_quota_limits_the_cores(tmp_path: Path, text: str, quota: float | None) -> None:
    write(tmp_path, "sys/fs/cgroup/cpu.max", text)
    assert cpu_quota(tmp_path) == quota


@linux_only
def test_half_a_core_still_counts_as_one(tmp_path: Path) -> None:
    write(tmp_path, "sys/fs/cgroup/cpu.max", "50000 100000")
    usable = read_cpu(tmp_path).usable_cores
    assert isinstance(usable, Figure)
    assert usable.value == 1
    assert "quota is 0.5" in usable.note


def test_free_memory_stays_inside_the_containers_limit(tmp_path: Path) -> None:
    write(tmp_path, "sys/fs/cgroup/memory.max", str(256 * MIB))
    write(tmp_path, "sys/fs/cgroup/memory.current", str(200 * MIB))
    write(tmp_path, "sys/fs/cgroup/memory.stat", f"anon 1\ninactive_file {50 * MIB}\n")
    total, free = read_ram(tmp_path)
    assert isinstance(total, Figure)
    assert isinstance(free, Figure)
    assert total.value == 256 * MIB
    assert free.value == 106 * MIB  # the page cache can be given back
    assert "container" in free.note


@pytest.mark.parametrize("limit", ["max", str(2**63 - 4096), "", "-"])
def test_no_limit_is_no_limit(tmp_path: Path, limit: str) -> None:
    write(tmp_path, "sys/fs/cgroup/memory.max", limit)
    write(tmp_path, "sys/fs/cgroup/memory.current", "1000")
    assert container_memory(tmp_path)[0] is None


def test_memory_bandwidth_is_measured_with_its_spread() -> None:
    figure = measure_copy(2, 4 * GIB, 0)
    assert isinstance(figure, Figure)
    assert figure.low is not None
    assert figure.high is not None
    assert 1e8 < figure.low <= figure.value <= figure.high < 1e13


def test_memory_bandwidth_is_not_guessed_without_room() -> None:
    figure = measure_copy(1, 64 * MIB, 0)
    assert isinstance(figure, NotAvailable)
    assert "must leave the caches" in figure.reason


def test_the_largest_cache_that_the_system_names_is_left(tmp_path: Path) -> None:
    write(tmp_path, "sys/devices/system/cpu/cpu0/cache/index3/size", "8192K\n")
    write(tmp_path, "sys/devices/system/cpu/cpu0/cache/index4/size", "nonsense")
    assert last_cache_bytes(tmp_path) == 8 * MIB


@pytest.fixture
def on_disk() -> Path:
    """A folder on a real disk: the system's temporary folder may be kept in memory."""
    return Path(__file__).parent


@linux_only
def test_the_disk_is_read_past_the_cache_and_left_clean(on_disk: Path) -> None:
    before = sorted(on_disk.iterdir())
    figure = measure_read(on_disk, 32 * MIB, SilentProgress())
    assert isinstance(figure, Figure), figure
    assert figure.low is not None
    assert 1e5 < figure.low <= figure.value
    assert sorted(on_disk.iterdir()) == before


@linux_only
def test_a_slow_stick_is_not_written_to_for_minutes(on_disk: Path) -> None:
    figure = measure_read(on_disk, 64 * MIB, SilentProgress(), seconds=0)
    assert isinstance(figure, Figure), figure
    assert figure.note.startswith("8 MiB read")


def test_a_folder_in_memory_is_no_disk(tmp_path: Path) -> None:
    mounts = write(tmp_path, "mounts", f"/dev/sda / ext4 rw 0 0\ntmpfs {tmp_path} tmpfs rw 0 0\n")
    assert memory_backed(tmp_path / "deep", mounts) == "tmpfs"
    assert memory_backed(tmp_path.parent, mounts) == ""
    assert memory_backed(tmp_path, tmp_path / "absent") == ""


def test_a_full_disk_is_not_filled_further(on_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10 * MIB))
    figure = measure_read(on_disk, 64 * MIB, SilentProgress())
    assert isinstance(figure, NotAvailable)


def test_a_disk_that_refuses_says_why(on_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(disk.tempfile, "TemporaryFile", refuse)
    figure = measure_read(on_disk, 8 * MIB, SilentProgress())
    assert figure == NotAvailable(reason="the disk refused: Permission denied")


@linux_only
def test_the_nearest_folder_that_exists_is_measured(on_disk: Path) -> None:
    found = read_disk(on_disk / "not" / "there", SilentProgress(), quick=True)
    assert isinstance(found.free, Figure)


def test_a_machine_without_sensors_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    monkeypatch.setattr(psutil, "sensors_battery", lambda: None)
    monkeypatch.setattr(psutil, "sensors_temperatures", dict, raising=False)
    source, charge = power.read_power()
    assert isinstance(source, NotAvailable)
    assert isinstance(charge, NotAvailable)
    assert isinstance(power.read_temperature(), NotAvailable)


@pytest.mark.parametrize(("plugged", "word"), [(True, "mains"), (False, "battery")])
def test_a_laptop_knows_its_power_source(monkeypatch: pytest.MonkeyPatch, plugged: bool, word: str) -> None:
    import psutil
    from psutil._ntuples import sbattery

    monkeypatch.setattr(psutil, "sensors_battery", lambda: sbattery(57.25, 3600, plugged))
    source, charge = power.read_power()
    assert source == TextFact(value=word)
    assert isinstance(charge, Figure)
    assert charge.value == pytest.approx(57.2, abs=0.06)


def test_the_engine_names_its_devices() -> None:
    pytest.importorskip("llama_cpp.llama_cpp", reason="no engine is installed")
    engine = ask_engine()
    assert isinstance(engine, EngineProfile), engine
    assert "llama.cpp" in engine.name
    (cpu, *_) = [device for device in engine.devices if device.kind == "cpu"]
    assert cpu.name == "CPU"


def test_an_engine_that_is_missing_or_broken_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_devices, "installed_version", lambda: None)
    missing = ask_engine()
    assert isinstance(missing, NotAvailable)
    assert "pip install" in missing.reason
    monkeypatch.setattr(engine_devices, "installed_version", lambda: "0.0")
    monkeypatch.setattr(engine_devices.sys, "executable", "/bin/false")
    broken = ask_engine()
    assert isinstance(broken, NotAvailable)
    assert "exit 1" in broken.reason


@pytest.mark.parametrize("text", ["", "hello", "[]", '{"devices": [{}]}', '{"devices": 3, "name": "", "features": ""}'])
def test_a_senseless_answer_of_the_engine_is_not_believed(text: str) -> None:
    assert isinstance(parse_answer(text), NotAvailable)


def test_drivers_may_talk_before_the_answer() -> None:
    answer = {
        "name": "llama.cpp",
        "features": "",
        "devices": [{"name": "CUDA0", "description": "GPU", "kind": 1, "free": 5, "total": 0}],
    }
    found = parse_answer("ggml_cuda_init: found 1 device\n" + json.dumps(answer) + "\n")
    assert isinstance(found, EngineProfile)
    assert found.devices[0].kind == "gpu"
    assert isinstance(found.devices[0].memory_total, NotAvailable)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"schema_version": 1, "surprise": 1}'])
def test_a_file_that_is_no_profile_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "p.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"p\.json"):
        load_profile(path)
    with pytest.raises(UsageError, match="no profile"):
        load_profile(tmp_path / "absent.json")


def test_a_profile_of_another_version_is_told_apart_from_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text('{"schema_version": 1, "created": "2026-01-01T00:00:00+00:00"}')
    with pytest.raises(
        UsageError, match=r"written by another version of edgemed \(schema 1; this one reads 2\)"
    ) as told:
        load_profile(path)
    assert "edgemed profile" in told.value.next_step


def test_speed_figures_hold_for_their_machine_and_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    from machines import machine

    profile = machine()
    assert not speed_holds(profile, profile.hardware_id(), "engine 1")
    unknown = NotAvailable(reason="not read")
    speed = EngineSpeed(engine="engine 1", n_threads=1, n_threads_batch=1, threads=(), devices=(), load_average=unknown)
    known = profile.model_copy(update={"speed": speed})
    assert speed_holds(known, profile.hardware_id(), "engine 1")
    assert not speed_holds(known, profile.hardware_id(), "engine 2")
    assert not speed_holds(known, machine(usable=1).hardware_id(), "engine 1")
    assert not speed_holds(known, profile.hardware_id(), "engine 1", at_most_days=1e-6)


def test_this_machine_is_measured_and_kept_without_loading_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "import os, sys; os.environ['EDGEMED_HOME'] = sys.argv[1]\n"
        "import functools\n"
        "from edgemed.hardware import profile\n"
        "from edgemed.hardware.profile import measure_profile, save_profile\n"
        "profile.measure_speed = functools.partial(profile.measure_speed, at_most_s=-1)  # the least it can do\n"
        "save_profile(measure_profile(quick=True))\n"
        "print([name for name in sys.modules if name.startswith(('llama_cpp', 'torch'))])"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    monkeypatch.setenv("EDGEMED_HOME", str(tmp_path))
    kept = load_profile(current_profile_path())
    assert kept.quick
    assert isinstance(kept.memory.free, Figure)
    assert load_profile(save_profile(kept, tmp_path / "copy.json")) == kept


def test_the_identity_of_a_machine_ignores_what_changes_by_the_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    from machines import machine

    assert machine(free_ram=GIB).hardware_id() == machine(free_ram=2 * GIB).hardware_id()
    assert machine(usable=2).hardware_id() != machine(usable=4).hardware_id()
    assert isinstance(machine(), HardwareProfile)


@pytest.mark.parametrize(("load", "warned"), [(0.3, False), (1.0, False), (3.0, True)])
def test_figures_of_a_busy_machine_carry_a_warning(load: float, warned: bool) -> None:
    figure = Figure(value=load, unit="processes", basis="measured")
    assert bool(profile._load_warnings(figure, 2)) == warned
    assert profile._load_warnings(NotAvailable(reason="x"), 2) == ()
