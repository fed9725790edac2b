"""Reads the power source, the temperature and the load: why a laptop may be slow today."""

from __future__ import annotations

import os

from edgemed.core.records import Figure, MaybeFigure, NotAvailable
from edgemed.hardware.record import MaybeText, TextFact

_CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "acpitz")
"""Kernel drivers whose readings are the processor's, best first."""


def read_power() -> tuple[MaybeText, MaybeFigure]:
    """Either "mains" or "battery", and the battery's charge in percent."""
    import psutil

    try:
        battery = psutil.sensors_battery()
    except (AttributeError, NotImplementedError, OSError) as error:
        reason = NotAvailable(reason=f"the power supply cannot be read: {error}")
        return reason, reason
    if battery is None:
        return (
            NotAvailable(reason="no battery or power supply is reported"),
            NotAvailable(reason="no battery is reported"),
        )
    charge = Figure(value=round(battery.percent, 1), unit="%", basis="measured")
    if battery.power_plugged is None:
        return NotAvailable(reason="there is a battery, but the system does not say whether it discharges"), charge
    return TextFact(value="mains" if battery.power_plugged else "battery"), charge


def read_temperature() -> MaybeFigure:
    """The processor's temperature now, in degrees Celsius."""
    import psutil

    if not hasattr(psutil, "sensors_temperatures"):
        return NotAvailable(reason="this system offers no temperature without its vendor's tools")
    try:
        sensors = psutil.sensors_temperatures()
    except OSError as error:
        return NotAvailable(reason=f"the sensors cannot be read: {error.strerror or error}")
    for name in (*_CPU_SENSORS, *sensors):
        readings = [entry.current for entry in sensors.get(name, []) if entry.current]
        if readings:
            return Figure(value=max(readings), unit="degC", basis="measured", note=f"hottest of sensor {name}")
    return NotAvailable(reason="the system reports no temperature sensor")


def read_load() -> MaybeFigure:
    """Processes that wanted a core, averaged over the last minute."""
    if not hasattr(os, "getloadavg"):
        return NotAvailable(reason="this system keeps no load average")
    try:
        return Figure(value=round(os.getloadavg()[0], 2), unit="processes", basis="measured", note="last minute")
    except OSError as error:
        return NotAvailable(reason=f"the load average cannot be read: {error.strerror or error}")
