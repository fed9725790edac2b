"""Where the power comes from, as /api/status tells it: read seldom, and never invented."""

from __future__ import annotations

from serving import serving

from edgemed.engines.fake import FakeEngine
from edgemed.serve.status import Power, PowerReading, power_now


def test_power_is_read_again_only_after_half_a_minute() -> None:
    now = 100.0
    readings = iter([Power(source="mains", percent=90.0), Power(source="battery", percent=89.0)])
    reading = PowerReading(lambda: now, lambda: next(readings))
    assert reading.now().source == "mains"
    now = 129.9
    assert reading.now().source == "mains"
    now = 130.0
    assert reading.now() == Power(source="battery", percent=89.0)


def test_this_machines_power_is_one_of_three_and_its_charge_a_percentage() -> None:
    power = power_now()
    assert power.source in {"mains", "battery", "unknown"}
    assert power.percent is None or 0 <= power.percent <= 100


def test_status_tells_power_and_time_since_start() -> None:
    with serving(FakeEngine()) as server:
        status = server.http.get("/api/status").json()
        assert set(status["power"]) == {"source", "percent"}
        assert 0 <= status["up_s"] < 60


def test_a_lower_rung_is_told_with_its_cause() -> None:
    with serving(FakeEngine()) as server:
        server.engine.move_to_rung(1, "memory", context_length=256)
        assert server.http.get("/api/status").json()["condition"]["cause"] == "memory"
