"""Each check of `edgemed doctor`, shown a machine that is well and one with a fault made on purpose."""

from __future__ import annotations

import http.server
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest
from serving import serving

from edgemed.core.errors import UsageError
from edgemed.core.records import Figure, NotAvailable
from edgemed.core.units import GIB, MIB
from edgemed.engines.fake import FakeEngine
from edgemed.hardware import engine_devices
from edgemed.hardware.record import EngineProfile, TextFact
from edgemed.serve.access_token import TOKEN_FILE
from edgemed.serve.cache_secret import keyring_answers
from edgemed.serve.doctor import data_folder, leaks, machine, program
from edgemed.serve.doctor.data_folder import check_leftovers, check_models, check_permissions, check_secret
from edgemed.serve.doctor.examine import CHECKS, examine
from edgemed.serve.doctor.leaks import check_core_dumps, check_swap
from edgemed.serve.doctor.machine import (
    check_clock,
    check_disk_speed,
    check_free_disk,
    check_heat,
    check_other_programs,
    check_power,
    is_server,
)
from edgemed.serve.doctor.program import check_engine, check_offline, check_packages, check_settings
from edgemed.serve.doctor.record import Check, Finding, Place, fault, ok
from edgemed.serve.doctor.service import check_server
from edgemed.serve.journal import JOURNAL_FILE


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A data folder, a project folder and the root of a machine, all empty."""
    for name in ("data", "project", "root"):
        (tmp_path / name).mkdir(mode=0o700)
    return Place(folder=tmp_path / "data", project=tmp_path / "project", root=tmp_path / "root", system="linux", port=0)


def put(place: Place, **files: str) -> None:
    """Small files under the root; "__" stands for "/"."""
    for name, text in files.items():
        path = place.root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def found(check: Check, place: Place, level: str) -> Finding:
    """The only finding, which must be of that level."""
    findings = list(check(place))
    assert [finding.level for finding in findings] == [level], findings
    if level in ("warn", "fault"):
        assert findings[0].next_step
    return findings[0]


# Swap


SWAPS = "Filename\tType\tSize\tUsed\tPriority\n"


@pytest.mark.parametrize(
    ("area", "files", "level"),
    [
        ("/dev/sda2", {"sys__class__block__sda2__size": "1"}, "warn"),
        ("/dev/dm-1", {"sys__class__block__dm-1__dm__uuid": "CRYPT-PLAIN-cryptswap"}, "ok"),
        ("/dev/dm-1", {"sys__class__block__dm-1__dm__uuid": "LVM-abc"}, "warn"),
        (
            "/dev/dm-2",
            {
                "sys__class__block__dm-2__dm__uuid": "LVM-abc",
                "sys__class__block__dm-2__slaves__dm-0__x": "",
                "sys__class__block__dm-0__dm__uuid": "CRYPT-LUKS2-abc",
            },
            "ok",
        ),
        ("/dev/zram0", {}, "ok"),
        ("/dev/zram0", {"sys__block__zram0__backing_dev": "/dev/sda3", "sys__class__block__sda3__size": "1"}, "warn"),
        ("/swap.img", {"proc__mounts": "/dev/sda1 / ext4 rw 0 0\n", "sys__class__block__sda1__size": "1"}, "warn"),
        (
            "/var/swap\\040file",
            {
                "proc__mounts": "/dev/sda1 / ext4 rw 0 0\n/dev/dm-0 /var ext4 rw 0 0\n",
                "sys__class__block__dm-0__dm__uuid": "CRYPT-LUKS2-abc",
            },
            "ok",
        ),
        ("/swap.img", {"proc__mounts": "overlay / overlay rw 0 0\n"}, "unknown"),
    ],
)
def test_swap_that_keeps_words_in_the_clear_is_told(place: Place, area: str, files: dict[str, str], level: str) -> None:
    put(place, proc__swaps=f"{SWAPS}{area} partition 8 0 -2\n", **files)
    finding = found(check_swap, place, level)
    assert level == "ok" or area.replace("\\040", " ") in finding.what


def test_a_name_of_the_device_mapper_is_followed_to_its_device(place: Place) -> None:
    put(place, sys__class__block__dm_x="", proc__swaps=f"{SWAPS}/dev/mapper/cryptswap partition 8 0 -2\n")
    put(place, **{"sys__class__block__dm-3__dm__uuid": "CRYPT-PLAIN-x", "dev__dm-3": ""})
    (place.root / "dev/mapper").mkdir()
    (place.root / "dev/mapper/cryptswap").symlink_to("../dm-3")
    found(check_swap, place, "ok")


def test_no_swap_is_well_and_an_unreadable_one_is_not_known(place: Place) -> None:
    found(check_swap, place, "unknown")
    put(place, proc__swaps=SWAPS)
    found(check_swap, place, "ok")


def test_windows_and_macos_say_honestly_what_is_not_known(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = Place(folder=place.folder, project=place.project, system="win32")
    assert "BitLocker" in found(check_swap, elsewhere, "unknown").next_step
    assert "WindowsErrorReporting" in found(check_core_dumps, elsewhere, "unknown").next_step
    mac = Place(folder=place.folder, project=place.project, system="darwin")
    for words, level in (("total = 0.00M (encrypted)", "ok"), ("", "unknown")):
        done = type("Done", (), {"stdout": words})
        monkeypatch.setattr(leaks.subprocess, "run", lambda *_, done=done, **__: done)
        found(check_swap, mac, level)


# Core dumps


def test_a_reporter_that_takes_crashes_is_named(place: Place) -> None:
    put(place, proc__sys__kernel__core_pattern="|/usr/share/apport/apport -p%p\n")
    assert "/usr/share/apport/apport" in found(check_core_dumps, place, "warn").what
    put(place, proc__sys__kernel__core_pattern="core")
    found(check_core_dumps, place, "ok")


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_a_system_that_does_not_forbid_dumps_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "core_dumps_are_off", lambda: False)
    found(check_core_dumps, place, "warn")


# The program


def test_a_missing_and_an_old_package_are_faults(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["starlette>=0.45", "no-such-package>=1", "psutil>=999.1", "torch>=99; extra == 'workstation'"]
    monkeypatch.setattr(program.importlib.metadata, "requires", lambda _name: wanted)
    what = found(check_packages, place, "fault").what
    assert "no-such-package is missing" in what
    assert "psutil" in what
    assert "starlette" not in what
    assert "torch" not in what


def test_what_is_installed_here_is_new_enough(place: Place) -> None:
    found(check_packages, place, "ok")


def engine(features: str = "CPU : AVX = 1 | AVX2 = 1 | F16C = 1 | FMA = 1 |") -> EngineProfile:
    return EngineProfile(name="llama.cpp", devices=(), features=features)


def test_each_fault_of_the_engine_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    put(place, proc__cpuinfo="flags : avx f16c fma avx2 avx512f\n")
    monkeypatch.setattr(program, "installed_version", lambda: None)
    assert "install_engine" in found(check_engine, place, "fault").next_step
    monkeypatch.setattr(program, "installed_version", lambda: program.ENGINE_VERSION)
    monkeypatch.setattr(engine_devices, "ask_engine", lambda: NotAvailable(reason="exit -4"))
    assert "exit -4" in found(check_engine, place, "fault").what
    monkeypatch.setattr(engine_devices, "ask_engine", engine)
    slow, well = check_engine(place)
    assert (slow.level, well.level) == ("warn", "ok")
    assert "AVX512" in slow.what
    monkeypatch.setattr(engine_devices, "ask_engine", lambda: engine("CPU : NEON = 1 |"))
    found(check_engine, place, "ok")
    monkeypatch.setattr(program, "installed_version", lambda: "0.0.1")
    assert [finding.level for finding in check_engine(place)] == ["warn", "ok"]


def test_a_gpu_that_lies_idle_is_told_with_the_command(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    put(place, **{f"sys__bus__pci__devices__0000:01:00.0__{name}": text for name, text in NVIDIA.items()})
    monkeypatch.setattr(program, "installed_version", lambda: program.ENGINE_VERSION)
    monkeypatch.setattr(program, "engine_folder", lambda: None)
    monkeypatch.setattr("edgemed.hardware.binding.installed_backends", lambda _folder: ("cpu",))
    monkeypatch.setattr(engine_devices, "ask_engine", engine)
    idle = next(iter(check_engine(place)))
    assert (idle.level, "install_engine" in idle.next_step) == ("warn", True)


NVIDIA = {"vendor": "0x10de", "device": "0x2489", "class": "0x030000"}


def test_settings_that_are_not_understood_are_a_fault(place: Place) -> None:
    found(check_settings, place, "ok")
    file = place.project / "edgemed.toml"
    file.write_text("[serve]\nport = 9000\n")
    found(check_settings, place, "ok")
    file.write_text("[serve]\nprot = 9000\n")
    assert "prot" in found(check_settings, place, "fault").what
    file.write_text('[medical]\nlanguages = "/nowhere"\n')
    assert "/nowhere" in found(check_settings, place, "fault").what


def test_the_network_is_not_touched(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def called(*_: Any) -> None:
        raise AssertionError("somebody dialled out")

    monkeypatch.setattr(socket.socket, "connect", called)
    monkeypatch.setattr(socket, "getaddrinfo", called)
    assert "not tested" in found(check_offline, place, "ok").what
    examination = examine(place)
    assert not [finding for finding in examination.findings if "of its own" in finding.what]


# The data folder


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_what_others_may_read_or_change_is_a_fault(place: Place) -> None:
    found(check_permissions, place, "ok")
    journal = place.folder / JOURNAL_FILE
    journal.write_text("")
    journal.chmod(0o644)
    finding = found(check_permissions, place, "fault")
    assert finding.next_step == f"chmod go-rwx {journal}"
    journal.chmod(0o600)
    place.folder.chmod(0o775)
    assert "may change" in found(check_permissions, place, "fault").what


def test_a_folder_that_cannot_be_written_is_a_fault(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_folder.os, "access", lambda *_: False)
    found(check_permissions, place, "fault")
    place.folder.rmdir()
    found(check_permissions, place, "ok")
    place.folder.write_text("")
    found(check_permissions, place, "fault")


def test_damaged_files_and_those_of_killed_work_are_found_with_their_removal(place: Place) -> None:
    (place.folder / "models").mkdir()
    damaged, part = place.folder / "answers.sqlite3.damaged", place.folder / "models" / ".m.gguf.x.part"
    fresh, work = place.folder / ".now.part", place.folder / ".tiny.work"
    work.mkdir()
    for file in (damaged, part, fresh, work / "left.logits"):
        file.write_bytes(b"x" * 1000)
    old = place.now - 7200
    for path in (part, work):
        os.utime(path, (old, old))
    finding = found(check_leftovers, place, "warn")
    for path in (damaged, part, work):
        assert str(path) in finding.next_step
    assert str(fresh) not in finding.next_step
    assert "2.93 KiB" in finding.what


def test_a_clean_folder_has_nothing_left_behind(place: Place) -> None:
    (place.folder / "journal.jsonl").write_text("")
    found(check_leftovers, place, "ok")


def test_a_damaged_model_is_a_fault_and_a_sound_one_is_named(place: Place) -> None:
    pytest.importorskip("gguf", reason="makes the model")
    from tiny_models import write_tiny_qwen2

    found(check_models, place, "ok")
    models = place.folder / "models"
    models.mkdir()
    whole = write_tiny_qwen2(models / "whole.gguf")
    assert "whole.gguf" in found(check_models, place, "ok").what
    (models / "cut.gguf").write_bytes(whole.read_bytes()[:-5000])
    levels = {finding.level: finding.what for finding in check_models(place)}
    assert "cut.gguf" in levels["fault"]
    (place.project / "edgemed.toml").write_text('[model]\npath = "/nowhere/else.gguf"\n')
    assert [finding.level for finding in check_models(place)] == ["fault", "fault", "ok"]
    (models / "cut.gguf").unlink()
    (place.project / "edgemed.toml").write_text(f'[serve.adapters]\nclinic = "{whole}"\n')
    (finding, _) = check_models(place)
    assert (finding.level, "adapter" in finding.what) == ("fault", True)


def test_the_secret_of_saved_answers_is_looked_for_and_none_is_made(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGEMED_CACHE_PASSPHRASE_FILE", raising=False)
    monkeypatch.setattr(data_folder, "keyring_answers", lambda: False)
    assert "EDGEMED_CACHE_PASSPHRASE_FILE" in found(check_secret, place, "ok").next_step
    monkeypatch.setattr(data_folder, "keyring_answers", lambda: True)
    assert "key store" in found(check_secret, place, "ok").what
    file = place.folder / "words"
    monkeypatch.setenv("EDGEMED_CACHE_PASSPHRASE_FILE", str(file))
    found(check_secret, place, "fault")
    file.write_text("several words that nobody guesses")
    file.chmod(0o600)
    assert str(file) in found(check_secret, place, "ok").what
    (place.project / "edgemed.toml").write_text("[cache]\non_disk = false\n")
    assert "memory alone" in found(check_secret, place, "ok").what


def test_a_key_store_is_asked_and_nothing_is_put_there() -> None:
    class Store:
        def __init__(self, *, locked: bool) -> None:
            self.locked = locked

        def get_password(self, _service: str, _name: str, /) -> str | None:
            if self.locked:
                raise RuntimeError("locked")
            return None

        def set_password(self, _service: str, _name: str, _password: str, /) -> None:
            raise AssertionError("a secret was made")

    assert keyring_answers(Store(locked=False))
    assert not keyring_answers(Store(locked=True))


# The machine


def test_a_full_disk_is_a_fault_and_a_tight_one_a_warning(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, level in ((10 * MIB, "fault"), (800 * MIB, "warn"), (20 * GIB, "ok")):
        usage = type("Usage", (), {"free": free})
        monkeypatch.setattr(machine.shutil, "disk_usage", lambda _folder, usage=usage: usage)
        found(check_free_disk, place, level)


def test_a_slow_disk_is_told_with_what_it_costs(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(speed: float) -> Any:
        return lambda *_, **__: Figure(value=speed, unit="B/s", basis="measured")

    monkeypatch.setattr(machine, "measure_read", measured(10e6))
    assert "8 minutes" in found(check_disk_speed, place, "warn").what
    monkeypatch.setattr(machine, "measure_read", measured(400e6))
    found(check_disk_speed, place, "ok")
    monkeypatch.setattr(machine, "measure_read", lambda *_, **__: NotAvailable(reason="it is full"))
    found(check_disk_speed, place, "unknown")


def test_a_clock_before_what_was_written_here_is_a_fault(place: Place) -> None:
    found(check_clock, place, "ok")
    late = Place(folder=place.folder, project=place.project, now=0.0)
    assert "1970-01-01" in found(check_clock, late, "fault").what


@pytest.mark.parametrize(
    ("files", "level"),
    [
        ({}, "ok"),
        ({"scaling_governor": "powersave", "scaling_driver": "acpi-cpufreq"}, "warn"),
        ({"scaling_governor": "powersave", "scaling_driver": "intel_pstate"}, "ok"),
        ({"scaling_governor": "powersave", "energy_performance_preference": "power", "scaling_driver": "x"}, "warn"),
        ({"scaling_governor": "schedutil", "scaling_driver": "acpi-cpufreq"}, "ok"),
    ],
)
def test_a_processor_that_saves_power_is_told(
    place: Place, files: dict[str, str], level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "read_power", lambda: (TextFact(value="mains"), NotAvailable(reason="none")))
    put(place, **{f"sys__devices__system__cpu__cpu0__cpufreq__{name}": text for name, text in files.items()})
    found(check_power, place, level)


def test_battery_and_power_profile_are_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    charge = Figure(value=37.0, unit="%", basis="measured")
    monkeypatch.setattr(machine, "read_power", lambda: (TextFact(value="battery"), charge))
    assert "37 %" in found(check_power, place, "warn").what
    put(place, sys__firmware__acpi__platform_profile="low-power\n")
    assert [finding.level for finding in check_power(place)] == ["warn", "warn"]


def test_heat_is_told_from_ninety_degrees(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for degrees, level in ((96.0, "warn"), (60.0, "ok")):
        heat = Figure(value=degrees, unit="degC", basis="measured")
        monkeypatch.setattr(machine, "read_temperature", lambda heat=heat: heat)
        found(check_heat, place, level)
    monkeypatch.setattr(machine, "read_temperature", lambda: NotAvailable(reason="no sensor"))
    found(check_heat, place, "unknown")


class Program:
    """A process as psutil shows it, that works on `cores`."""

    def __init__(self, name: str, cores: float, memory: int) -> None:
        self.pid = hash(name)
        self.info = {"name": name, "memory_info": type("Memory", (), {"rss": memory}), "cmdline": [name]}
        self._cores, self._began = cores, time.monotonic()

    def cpu_times(self) -> Any:
        return type("Times", (), {"user": self._cores * (time.monotonic() - self._began), "system": 0.0})


def test_programs_that_take_cores_or_memory_are_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_cpu_s", lambda one: one.cpu_times().user)
    programs = [Program("indexer", 1.5, MIB), Program("browser", 0.0, 10**15), Program("shell", 0.01, MIB)]
    monkeypatch.setattr(psutil, "process_iter", lambda _fields: programs)
    what = found(check_other_programs, place, "warn").what
    assert "indexer (1.5 cores" in what
    assert "browser" in what
    assert "shell" not in what
    monkeypatch.setattr(psutil, "process_iter", lambda _fields: programs[2:])
    found(check_other_programs, place, "ok")


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        (["/venv/bin/python", "/venv/bin/edgemed", "serve", "demo"], True),
        (["python", "-m", "edgemed.cli.app", "serve"], True),
        (["python", "-m", "edgemed", "serve"], True),
        (["python", "-m", "edgemed", "doctor"], False),
        (["vi", "serve"], False),
        ([], False),
    ],
)
def test_our_own_servers_are_known_by_their_command(words: list[str], ours: bool) -> None:
    assert is_server(words) is ours


# The server


def test_a_free_port_is_well_and_a_strangers_is_a_fault(place: Place) -> None:
    found(check_server, place, "ok")
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        closer = threading.Thread(target=lambda: stranger.accept()[0].close())
        closer.start()
        finding = found(check_server, at(place, port), "fault")
        closer.join()
    assert f"Port {port}" in finding.what
    assert f"--port {port + 1}" in finding.next_step


def at(place: Place, port: int) -> Place:
    return Place(folder=place.folder, project=place.project, root=place.root, port=port)


def test_a_server_that_runs_is_asked_how_it_does(place: Place) -> None:
    with serving(FakeEngine()) as server:
        here = at(place, int(server.url.rpartition(":")[2]))
        found(check_server, here, "ok")
        server.engine.report_pace(1.0, expected=9.0, slow=True)
        assert "Slow mode" in found(check_server, here, "warn").what
        server.engine.report_pace(9.0)
        server.engine.lose_worker()
        assert "restarting" in found(check_server, here, "warn").what
        server.engine.restore_worker()
        assert "1 times" in found(check_server, here, "warn").what


class _Impostor(http.server.BaseHTTPRequestHandler):
    """Answers as a server with an access token answers strangers, and remembers what it was told."""

    said: ClassVar[dict[str, str]] = {"status": "ok"}
    heard: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.heard.append(str(self.headers))
        body = json.dumps(self.said).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_words: object) -> None:
        """Be still."""


def test_whoever_holds_the_port_is_never_told_the_access_token(place: Place) -> None:
    (place.folder / TOKEN_FILE).write_text("abcde-fghjk-mnpqr-stuvw\n")
    (place.folder / TOKEN_FILE).chmod(0o600)
    with http.server.HTTPServer(("127.0.0.1", 0), _Impostor) as impostor:
        thread = threading.Thread(target=impostor.serve_forever)
        thread.start()
        here = at(place, impostor.server_port)
        try:
            found(check_server, here, "ok")
            _Impostor.said = {"status": "not ok"}
            found(check_server, here, "fault")
        finally:
            impostor.shutdown()
            thread.join()
    assert _Impostor.heard
    assert not any("abcde" in headers or "Authorization" in headers for headers in _Impostor.heard)


# All together


def test_one_check_that_fails_or_hangs_ends_no_other(place: Place) -> None:
    hold = threading.Event()

    def hangs(_place: Place) -> Iterator[Finding]:
        hold.wait(30)
        yield ok("hung", "")

    def breaks(_place: Place) -> Iterator[Finding]:
        raise ZeroDivisionError("secret words")

    def refuses(_place: Place) -> Iterator[Finding]:
        raise UsageError("It is broken.", next_step="mend it")

    checks = (("hung", hangs), ("broken", breaks), ("refused", refuses), ("well", lambda _place: [ok("well", "fine")]))
    examination = examine(place, checks, limit_s=0.3)
    hold.set()
    assert [(one.check, one.level) for one in examination.findings] == [
        ("hung", "unknown"),
        ("broken", "unknown"),
        ("refused", "warn"),
        ("well", "ok"),
    ]
    assert "ZeroDivisionError in test_doctor.py" in examination.findings[1].what
    assert "secret" not in examination.model_dump_json()


def test_every_check_answers_on_this_machine_in_seconds_and_changes_nothing(place: Place) -> None:
    here = Place(folder=place.folder, project=place.project, port=0)
    before = sorted(place.folder.rglob("*"))
    examination = examine(here)
    assert {finding.check for finding in examination.findings} == {name for name, _ in CHECKS}
    assert not [finding for finding in examination.findings if "fault of its own" in finding.what]
    assert sorted(place.folder.rglob("*")) == before
    assert examination.seconds < 9  # measured: 1 s on 2 idle cores


def test_faults_can_be_picked_out(place: Place) -> None:
    examination = examine(place, (("x", lambda _place: [ok("x", "fine"), fault("y", "bad", "mend")]),))
    assert [finding.check for finding in examination.of("fault")] == ["y"]
