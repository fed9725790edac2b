"""What a device beside the CPU costs, measured on llama.cpp's RPC device."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up_machine import made_up_shop
from rpc_device import rpc_device

from edgemed.core.records import Figure, NotAvailable
from edgemed.core.units import MIB
from edgemed.hardware import link
from edgemed.hardware.device_speed import Target
from edgemed.hardware.link import measure_link
from edgemed.hardware.workshop import open_workshop


def test_changing_sides_within_a_step_costs_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = NotAvailable(reason="left out by the test")
    monkeypatch.setattr(link, "_copies", lambda *_: (nothing, nothing))
    with rpc_device() as device, open_workshop(MIB, 60.0, tmp_path) as shop:
        found = measure_link(shop, Target(device.name, on_gpu=True))
    assert isinstance(found.crossing, Figure)
    assert 0 < found.crossing.value < 0.1
    assert isinstance(found.context_overhead, NotAvailable)
    assert device.name in found.context_overhead.reason


def test_a_device_that_is_not_there_is_named(tmp_path: Path) -> None:
    to_device, from_device = link._copies(made_up_shop(tmp_path), "CUDA7")
    assert to_device == from_device
    assert isinstance(to_device, NotAvailable)
    assert "CUDA7" in to_device.reason


def test_what_the_driver_takes_is_what_the_engine_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([8000 * MIB, 7700 * MIB])
    monkeypatch.setattr(link, "gpu_free_bytes", lambda _: next(answers))
    found = link._context_overhead(made_up_shop(tmp_path), Target("CUDA0", on_gpu=True))
    assert isinstance(found, Figure)
    assert found.value == 300 * MIB
