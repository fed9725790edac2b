"""Measuring finds the speeds that a machine has; what it cannot find it says."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from machines import machine
from made_up_machine import (
    ATTENTION_DECODE,
    ATTENTION_PREFILL,
    COMPUTE,
    KV_READ,
    LAYER_S,
    READ,
    TOKEN_S,
    WORD_S,
    MadeUpShop,
    made_up_shop,
)

from edgemed.core.progress import SilentProgress
from edgemed.core.records import Figure, MaybeFigure, NotAvailable
from edgemed.core.units import MIB
from edgemed.hardware import device_speed, measure, workshop
from edgemed.hardware.energy import cpu_meter, gpu_meter
from edgemed.hardware.measure import (
    best_count,
    measure_speed,
    noise_note,
    speed_warnings,
    sustained_share,
    thread_counts,
)
from edgemed.hardware.record import CpuProfile, EngineProfile, EngineSpeed, FormatSpeed
from edgemed.hardware.workshop import NoRoom, open_workshop

ENGINE = machine().engine
WITH_GPU = machine(free_vram=8e9).engine
QUIET = Figure(value=0.1, unit="processes", basis="measured")


def session(shop: MadeUpShop, *, quick: bool = False, gpu: bool = False, usable: int = 2) -> EngineSpeed:
    engine = WITH_GPU if gpu else ENGINE
    assert isinstance(engine, EngineProfile)
    cpu = machine(physical=usable, usable=usable).cpu
    return measure._Session(shop, engine, cpu, SilentProgress(), quick).measure(QUIET, sustained=False)


def value(figure: MaybeFigure) -> float:
    assert isinstance(figure, Figure), figure
    return figure.value


@pytest.mark.parametrize("quick", [True, False])
def test_it_finds_the_speeds_of_a_machine_that_is_known(tmp_path: Path, quick: bool) -> None:
    found = session(made_up_shop(tmp_path), quick=quick)
    (cpu,) = found.devices
    assert value(cpu.layer_overhead) == pytest.approx(LAYER_S, rel=0.02)
    assert value(cpu.token_overhead) == pytest.approx(TOKEN_S, rel=0.1)
    assert value(cpu.vocabulary_overhead) == pytest.approx(WORD_S, rel=0.05)
    assert {one.format for one in cpu.formats} == set(READ)
    for one in cpu.formats:
        assert value(one.read) == pytest.approx(2 * READ[one.format], rel=0.02)  # two threads
        assert value(one.compute_64) == pytest.approx(2 * COMPUTE[one.format], rel=0.02)
        assert value(one.compute_512) == pytest.approx(2 * COMPUTE[one.format], rel=0.02)
    attention = cpu.attention[0]
    assert value(attention.prefill) == pytest.approx(2 * ATTENTION_PREFILL, rel=0.05)
    assert value(attention.decode) == pytest.approx(2 * ATTENTION_DECODE, rel=0.1)
    assert value(attention.read) == pytest.approx(2 * KV_READ, rel=0.1)
    assert (found.n_threads, found.n_threads_batch, found.noisy) == (2, 2, False)


def test_each_device_is_measured_and_its_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(measure, "measure_link", lambda _, target: asked.append(target.device))
    monkeypatch.setattr(measure, "EngineSpeed", dict)
    found = session(made_up_shop(tmp_path), quick=True, gpu=True)
    assert [device.device for device in found["devices"]] == ["CPU", "CUDA0"]  # type: ignore[index]
    cpu, gpu = ({one.format: value(one.read) for one in device.formats} for device in found["devices"])  # type: ignore[index]
    assert gpu["q8_0"] == pytest.approx(4 * cpu["q8_0"], rel=0.02)
    assert asked == ["CUDA0"]


def test_what_there_was_no_time_for_says_so(tmp_path: Path) -> None:
    found = session(made_up_shop(tmp_path, seconds=-1), quick=True)
    first, *others = found.devices[0].formats
    assert value(first.read) > 0  # nothing can be told without one
    assert all(isinstance(one.read, NotAvailable) and "time" in one.read.reason for one in others)
    assert found.threads


def test_the_real_engine_is_measured_within_its_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(measure, "last_cache_bytes", lambda: 1)
    monkeypatch.setattr(measure, "_LEAST_MODEL_BYTES", 4 * MIB)
    monkeypatch.setattr(
        device_speed, "_QUICK_SHAPE", replace(device_speed._QUICK_SHAPE, hidden_size=256, ffn_size=512, n_heads=2)
    )
    monkeypatch.setattr(device_speed, "_QUICK_DEPTH", 256)
    monkeypatch.setattr(workshop, "_MEMORY_FOLDER", tmp_path)
    monkeypatch.setattr(measure, "FORMATS", ("q8_0", "q4_k"))
    found = measure_speed(quick=True, at_most_s=30.0)
    assert isinstance(found, EngineSpeed), found
    assert [one.format for one in found.devices[0].formats] == ["q8_0", "q4_k"]
    assert all(value(one.decode) > 0 for one in found.threads)
    assert isinstance(found.devices[0].sustained, NotAvailable)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_measurement_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with open_workshop(MIB, 1.0, tmp_path) as shop:
            (shop.folder / "model.gguf").write_bytes(b"half a model")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_what_a_killed_measurement_left_is_taken_away(tmp_path: Path) -> None:
    dead, alive = tmp_path / f"edgemed-speed-{2**31 - 1}-x", tmp_path / f"edgemed-speed-{os.getpid()}-x"
    dead.mkdir()
    alive.mkdir()
    (dead / "model.gguf").write_bytes(b"left")
    with open_workshop(MIB, 1.0, tmp_path):
        assert not dead.exists()
        assert alive.exists()


def test_a_small_box_gets_a_smaller_model_and_a_full_one_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workshop, "read_ram", lambda: (None, Figure(value=400 * MIB, unit="B", basis="measured")))
    with open_workshop(1024 * MIB, 1.0, tmp_path) as shop:
        assert shop.most_bytes == 100 * MIB
    monkeypatch.setattr(workshop, "read_ram", lambda: (None, Figure(value=40 * MIB, unit="B", basis="measured")))
    with pytest.raises(NoRoom, match="40 MiB RAM are free"), open_workshop(1024 * MIB, 1.0, tmp_path):
        pass
    found = measure_speed(engine=ENGINE)
    assert isinstance(found, NotAvailable)
    assert "40 MiB RAM are free" in found.reason


def test_an_engine_that_cannot_be_asked_is_not_measured() -> None:
    assert measure_speed(engine=NotAvailable(reason="no engine is installed")) == NotAvailable(
        reason="no engine is installed"
    )


def test_a_burst_of_other_work_does_not_move_a_figure(tmp_path: Path) -> None:
    shop = made_up_shop(tmp_path)
    assert shop.speed([10, 10, 10, 10, 10, 3, 4, 10], "B/s").value == 10
    slow = shop.seconds([1.0, 1.0, 5.0, 1.0])
    assert (slow.value, slow.low, slow.high) == (1.0, 1.0, 5.0)
    assert shop.spreads == [0.7, 4.0]


@pytest.mark.parametrize(
    ("usable", "physical", "counts"),
    [
        (1, 1, [1]),
        (2, 2, [1, 2]),
        (8, 4, [1, 2, 3, 4, 5, 6, 7, 8]),
        (16, 8, [1, 3, 5, 8, 11, 13, 16]),
        (64, 0, [1, 11, 21, 32, 43, 53, 64]),
    ],
)
def test_threads_are_swept_and_cores_among_them(usable: int, physical: int, counts: list[int]) -> None:
    assert thread_counts(usable, physical) == counts


def test_of_counts_that_are_alike_the_smallest_is_taken() -> None:
    assert best_count([(1, 50.0), (2, 98.0), (4, 100.0), (8, 90.0)]) == 2


def test_a_noisy_measurement_says_by_how_much() -> None:
    assert noise_note([0.02, 0.05, 0.3], QUIET, 2) == ""
    assert "40%" in noise_note([0.02, 0.4, 0.5], QUIET, 2)
    assert "load 3" in noise_note([0.01], Figure(value=3, unit="processes", basis="measured"), 2)


def test_late_speed_is_a_share_of_the_first() -> None:
    share = sustained_share([0.01] * 6 + [0.0125] * 6)
    assert value(share) == pytest.approx(0.8)


def test_a_build_without_the_processors_instructions_is_named_with_the_command() -> None:
    engine = EngineProfile(name="llama.cpp", devices=(), features="CPU : SSE3 = 1 | F16C = 1 | FMA = 1 | ")
    cpu = CpuProfile.model_validate({**machine().cpu.model_dump(), "isa": ("avx2", "fma", "f16c")})
    unknown = NotAvailable(reason="not measured")
    (warning,) = speed_warnings(unknown, engine, cpu)
    assert "built without AVX2, which" in warning
    assert "pip install --force-reinstall" in warning
    whole = engine.model_copy(update={"features": engine.features + "AVX2 = 1 | "})
    assert speed_warnings(unknown, whole, cpu) == ()
    assert speed_warnings(unknown, engine.model_copy(update={"features": ""}), cpu) == ()


def test_four_bits_slower_than_eight_are_named_unless_noisy(tmp_path: Path) -> None:
    speed = session(made_up_shop(tmp_path), quick=True)
    cpu = machine().cpu
    engine = EngineProfile(name="llama.cpp", devices=())
    assert speed_warnings(speed, engine, cpu) == ()
    nine = Figure(value=9e9, unit="B/s", basis="measured")
    slow = [one.model_copy(update={"read": nine}) if one.format == "q4_k" else one for one in speed.devices[0].formats]
    changed = _with_formats(speed, tuple(slow))
    (warning,) = speed_warnings(changed, engine, cpu)
    assert "q4_k decodes slower than q8_0 on CPU" in warning
    assert speed_warnings(changed.model_copy(update={"noisy": True}), engine, cpu) == ()


def _with_formats(speed: EngineSpeed, formats: tuple[FormatSpeed, ...]) -> EngineSpeed:
    device = speed.devices[0].model_copy(update={"formats": formats})
    return speed.model_copy(update={"devices": (device,)})


def test_joules_are_those_of_all_packages(tmp_path: Path) -> None:
    for number, micro in ((0, 5_000_000), (1, 2_500_000)):
        zone = tmp_path / f"sys/class/powercap/intel-rapl:{number}"
        zone.mkdir(parents=True)
        (zone / "energy_uj").write_text(f"{micro}\n")
    core = tmp_path / "sys/class/powercap/intel-rapl:0:0"
    core.mkdir()
    (core / "energy_uj").write_text("99\n")
    meter = cpu_meter(tmp_path)
    assert not isinstance(meter, NotAvailable)
    assert meter.read() == 7.5


def test_energy_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    missing = cpu_meter(tmp_path)
    assert isinstance(missing, NotAvailable)
    assert "RAPL" in missing.reason
    other = gpu_meter("RPC0")
    assert isinstance(other, NotAvailable)
    assert "RPC0" in other.reason


def test_no_time_is_left_after_the_end(tmp_path: Path) -> None:
    with open_workshop(MIB, -1.0, tmp_path) as shop:
        assert shop.seconds_left() < 0
        assert shop.ends_at < time.monotonic()
