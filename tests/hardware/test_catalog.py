"""The catalog: every figure says where it comes from, and becomes a profile that agrees with published runs."""

import re
import tomllib
from pathlib import Path

import pytest

from edgemed.core.errors import UsageError
from edgemed.core.records import Figure
from edgemed.core.units import GIB
from edgemed.hardware.catalog import (
    catalog_folder,
    catalog_names,
    find_profile,
    load_machine,
    profile_of,
    read_catalog,
)
from edgemed.hardware.paper_speed import SHARES, SPREAD
from edgemed.hardware.profile import save_profile
from edgemed.hardware.record import EngineSpeed, HardwareProfile, value_of
from edgemed.hardware.reference_machine import ListedFigure, ReferenceMachine, read_machine

ROOT = Path(__file__).parents[2]
NAMES = catalog_names()


@pytest.fixture(params=NAMES)
def machine(request: pytest.FixtureRequest) -> ReferenceMachine:
    return load_machine(request.param)


def test_the_catalog_holds_the_machines_that_clinics_have() -> None:
    machines = read_catalog().machines
    assert len(machines) >= 10
    assert [found.name for found in machines] == sorted({found.name for found in machines})
    assert {"rtx3060ti-8g", "raspberry-pi5-8g", "macbook-air-m2-8g", "tigerlake-16g"} <= set(NAMES)


def test_every_figure_has_a_basis_and_a_dated_source_or_says_why_not(machine: ReferenceMachine) -> None:
    places = [place for place, _ in machine.listed()]
    assert {"memory.total", "memory.bandwidth", "cpu.isa", "cpu.physical_cores", "power"} <= set(places)
    for place, listed in machine.listed():
        words = machine.provenance(listed)
        assert words.startswith(listed.basis), place
        assert re.search(r"\b20\d\d-\d\d-\d\d\b", words), place
        if listed.basis in ("datasheet", "measured", "computed"):
            assert "https://" in words, place
        else:
            assert listed.note, place
    for source in machine.sources.values():
        assert source.title
        assert source.address.startswith("https://")
        assert source.read <= machine.checked


def test_what_is_only_remembered_stays_marked_in_the_profile() -> None:
    machine = load_machine("macbook-air-m2-8g")
    metal = next(device for device in profile_of(machine).engine_devices() if device.name == "Metal")
    assert isinstance(metal.memory_total, Figure)
    assert metal.memory_total.basis == "assumed"
    assert "unverified; only remembered" in metal.memory_total.note


def test_a_machine_becomes_a_profile_and_back(machine: ReferenceMachine, tmp_path: Path) -> None:
    profile = profile_of(machine)
    assert HardwareProfile.model_validate_json(profile.model_dump_json()) == profile
    assert find_profile(str(save_profile(profile, tmp_path / "paper.json"))) == profile == find_profile(machine.name)
    assert value_of(profile.memory.total) == machine.memory.total.base
    assert profile.engine_name().startswith("llama.cpp (")


def test_a_profile_on_paper_says_that_it_is_one(machine: ReferenceMachine) -> None:
    notice = profile_of(machine).warnings[0]
    assert machine.name in notice
    assert "data sheets" in notice
    assert "+-30 %" in notice


def test_every_paper_speed_has_its_interval_and_no_claim_of_a_measurement(machine: ReferenceMachine) -> None:
    speed = profile_of(machine).speed
    assert isinstance(speed, EngineSpeed)
    assert next(device.device for device in speed.devices) == "CPU"
    for device in speed.devices:
        assert [found.format for found in device.formats] == ["f16", "q8_0", "q6_k", "q5_k", "q4_k", "iq4_nl"]
        figures = [device.kv_read, device.attention_compute, device.layer_overhead, device.token_overhead]
        figures += [figure for found in device.formats for figure in (found.read, found.compute_64, found.compute_512)]
        for figure in figures:
            assert isinstance(figure, Figure)
            assert figure.basis in ("datasheet", "assumed")
            assert figure.low == pytest.approx(figure.value * (1 - SPREAD))
            assert figure.high == pytest.approx(figure.value * (1 + SPREAD))


def test_no_device_reads_faster_than_its_memory(machine: ReferenceMachine) -> None:
    speed = profile_of(machine).speed
    assert isinstance(speed, EngineSpeed)
    bandwidths = {"CPU": machine.memory.bandwidth.base}
    if machine.gpu is not None:
        bandwidths[machine.gpu.engine_name] = machine.gpu.bandwidth.base
    for device in speed.devices:
        for found in device.formats:
            assert 0 < (value_of(found.read) or 0) < bandwidths[device.device]


def test_published_runs_lie_within_the_interval(machine: ReferenceMachine) -> None:
    speed = profile_of(machine).speed
    assert isinstance(speed, EngineSpeed)
    for check in machine.checks:
        device = next(found for found in speed.devices if found.device == check.device)
        found = next(found for found in device.formats if found.format == check.format)
        assert isinstance(found.read, Figure)
        assert (found.read.low or 0) <= check.decode_tokens_per_s * check.weights_gb * 1e9 <= (found.read.high or 0)
        if check.prefill_tokens_per_s is not None:
            done = check.prefill_tokens_per_s * 2 * check.parameters_b * 1e9
            assert isinstance(found.compute_512, Figure)
            assert (found.compute_512.low or 0) <= done <= (found.compute_512.high or 0)


def test_published_runs_are_cited_for_most_kinds_of_device() -> None:
    checked = {check.device for machine in read_catalog().machines for check in machine.checks}
    assert checked == {"CPU", "CUDA0", "Metal", "Vulkan0"}


def test_shared_memory_is_told_as_shared() -> None:
    machine = load_machine("macbook-air-m2-8g")
    profile = profile_of(machine)
    assert [device.shares_ram for device in profile.engine_devices()] == [True, False]
    assert value_of(profile.memory.free) == pytest.approx(machine.memory.free.base)
    assert any("share one memory" in warning for warning in profile.warnings)


def test_an_integrated_gpu_leaves_main_memory_whole() -> None:
    machine = load_machine("ryzen7840u-16g")
    profile = profile_of(machine)
    assert [device.kind for device in profile.engine_devices()] == ["integrated-gpu", "cpu"]
    assert value_of(profile.memory.free) == 11 * GIB


def test_a_wheel_carries_the_catalog_and_a_checkout_reads_its_own() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert build["wheel"]["force-include"] == {"profiles": "edgemed/_data/profiles"}
    assert "/profiles" in build["sdist"]["include"]
    assert catalog_folder() == ROOT / "profiles"


def test_every_class_of_device_knows_the_same_formats() -> None:
    for share in SHARES.values():
        assert share.read.keys() == share.compute.keys()


def test_an_unknown_name_is_refused_with_the_names() -> None:
    for ask in (load_machine, find_profile):
        with pytest.raises(UsageError) as refused:
            ask("cray-1")
        assert "rtx3060ti-8g" in refused.value.next_step


def test_a_missing_file_is_refused_as_a_file() -> None:
    with pytest.raises(UsageError, match="no profile at"):
        find_profile("no/such/profile.json")


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ('unit = "GB/s"', 'unit = "parsecs"', "memory.bandwidth.unit"),
        ("value = 17", 'value = "17"', "memory.bandwidth.value"),
        ("value = 17", "value = -17", "memory.bandwidth.value"),
        ("value = 17", "value = nan", "memory.bandwidth.value"),
        ('source = "idle"', 'source = "hearsay"', "hearsay"),
        ('basis = "assumed"', 'basis = "unverified"', "memory.free"),
        ('title = "Raspberry Pi 5, 8 GB"\n', "", "title"),
        ("[power]", "[power]\nvolts = 5", "power.volts"),
        ("[power]", "[power", "line"),
        ('name = "raspberry-pi5-8g"', 'name = "another"', "another"),
        ("read = 2026-11-21", 'read = "yesterday"', "read"),
    ],
)
def test_a_malformed_file_is_refused_with_its_name_and_the_place(
    tmp_path: Path, old: str, new: str, place: str
) -> None:
    text = (catalog_folder() / "raspberry-pi5-8g.toml").read_text()
    assert old in text
    broken = tmp_path / "raspberry-pi5-8g.toml"
    broken.write_text(text.replace(old, new, 1) if old != "value = 17" else _last(text, old, new))
    with pytest.raises(UsageError) as refused:
        read_machine(broken)
    assert str(broken) in refused.value.what
    assert place in refused.value.what


def _last(text: str, old: str, new: str) -> str:
    return new.join(text.rsplit(old, 1))


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "noise.toml").write_bytes(b"\xff\xfe\x00")
    for name in ("noise", "none"):
        with pytest.raises(UsageError, match=name):
            read_machine(tmp_path / f"{name}.toml")


@pytest.mark.parametrize("basis", ["datasheet", "measured", "computed"])
def test_a_cited_basis_needs_a_source(basis: str) -> None:
    with pytest.raises(ValueError, match="needs a source"):
        ListedFigure.model_validate({"value": 1, "unit": "W", "basis": basis})


def test_what_was_read_is_not_unverified() -> None:
    with pytest.raises(ValueError, match="not unverified"):
        ListedFigure.model_validate({"value": 1, "unit": "W", "basis": "unverified", "source": "a", "note": "b"})


def test_a_gpu_has_a_link_exactly_when_it_has_memory_of_its_own(tmp_path: Path) -> None:
    text = (catalog_folder() / "gtx1070-8g.toml").read_text()
    broken = tmp_path / "gtx1070-8g.toml"
    broken.write_text(text.replace('memory = "own"', 'memory = "shared"'))
    with pytest.raises(UsageError, match=r"gpu: .*link"):
        read_machine(broken)
