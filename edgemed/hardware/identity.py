"""Which machine this is: what a profile or a plan was made for must be the same when it is used."""

from __future__ import annotations

from edgemed.hardware.cpu import read_cpu
from edgemed.hardware.gpu import read_gpus
from edgemed.hardware.memory import read_ram
from edgemed.hardware.record import hardware_id


def hardware_now() -> str:
    """`HardwareProfile.hardware_id` of this machine, from quick looks."""
    total, _ = read_ram()
    gpus, _ = read_gpus()
    return hardware_id(read_cpu(), total, gpus)
