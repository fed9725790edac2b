"""A second device without a GPU: llama.cpp's RPC server on loopback, in a process with memory of its own.

    with rpc_device(limit_bytes=64 * MIB) as device:
        Stopwatch(EngineConfig(model_path=..., n_gpu_layers=99, devices=(device.name,)))

Every process that is started inside the block finds the device by its environment. Facts about the server:
    It serves one client at a time; a second one waits until the first has gone. Close what loads a model.
    It says of its memory what the machine has, not its limit: out of memory comes as a surprise, as with real drivers.
    A buffer beyond the limit is refused and the client told so; its own working memory beyond the limit ends the
    server, and llama.cpp ends its client's process at the next word to it.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

_BUILD = Path(__file__).parents[1] / "benchmarks" / "peers" / "build.py"
_COMMAND = "python benchmarks/peers/build.py --only rpc"
_READY_S = 30.0
_PAUSE_S = 0.01
_ATTEMPTS = 5
"""A port that was free may be taken by somebody else before the server binds it."""


@dataclass
class RpcDevice:
    """A server that answers."""

    process: subprocess.Popen[bytes]
    address: str
    library: Path
    name: str = "RPC0"
    """What the engine calls it, by its place in EDGEMED_RPC_DEVICES: a block inside another adds a device."""

    def kill(self) -> None:
        """End it at once, as a driver's reset would; whoever uses it finds out by himself."""
        self.process.kill()
        self.process.wait()

    def resident_bytes(self) -> int:
        """Resident memory of the server's process."""
        return _status_bytes(self.process.pid, "VmRSS:")


@contextmanager
def rpc_device(limit_bytes: int | None = None, threads: int = 1) -> Iterator[RpcDevice]:
    """The device for a test, which is skipped where the server is not built; see `running_device`."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the RPC device is built and limited on Linux only")
    if _missing():
        pytest.skip(f"the RPC device is not built: {_COMMAND}")
    with running_device(limit_bytes, threads) as device:
        yield device


@contextmanager
def running_device(limit_bytes: int | None = None, threads: int = 1) -> Iterator[RpcDevice]:
    """The device, ended with the block, and the environment in which child processes find it.

    `limit_bytes` is address space (RLIMIT_AS) beyond what the idle server takes: its buffers, the message on its way
    and the working memory of one step. Raises SystemExit, with the command that builds it, where it is not built.
    """
    if missing := _missing():
        raise SystemExit(f"{missing} is not built: {_COMMAND}")
    device = _start(threads)
    try:
        if limit_bytes is not None:
            _limit(device.process.pid, limit_bytes)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("EDGEMED_RPC_LIBRARY", str(device.library))
            before = [address for address in os.environ.get("EDGEMED_RPC_DEVICES", "").split(",") if address]
            patch.setenv("EDGEMED_RPC_DEVICES", ",".join([*before, device.address]))
            device.name = f"RPC{len(before)}"
            yield device
    finally:
        device.kill()


def _missing() -> Path | None:
    """The first file that is not built."""
    folder = _build_script().peers_folder()
    return next((path for path in (folder / "ggml-rpc-server", folder / "libggml-rpc.so") if not path.is_file()), None)


def _build_script() -> ModuleType:
    """benchmarks/peers/build.py, which knows where its tools are."""
    spec = importlib.util.spec_from_file_location("edgemed_peers_build", _BUILD)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _start(threads: int) -> RpcDevice:
    folder = _build_script().peers_folder()
    for _ in range(_ATTEMPTS):
        port = _free_port()
        command = [folder / "ggml-rpc-server", "-H", "127.0.0.1", "-p", str(port), "-t", str(threads)]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        if _answers(process, port):
            return RpcDevice(process, f"127.0.0.1:{port}", folder / "libggml-rpc.so")
        process.kill()
        process.wait()
    raise RuntimeError(f"ggml-rpc-server did not answer within {_READY_S:.0f} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    """Whether the server took a connection before it ended; one that is closed at once is no client to it."""
    end = time.monotonic() + _READY_S
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        except OSError:
            pass
        try:
            process.wait(_PAUSE_S)
            return False
        except subprocess.TimeoutExpired:
            continue
    return False


def _limit(pid: int, limit_bytes: int) -> None:
    """As `ulimit -v`, from what the process takes now."""
    import resource

    most = _status_bytes(pid, "VmSize:") + limit_bytes
    resource.prlimit(pid, resource.RLIMIT_AS, (most, most))


def _status_bytes(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/{pid}/status has no {field}")
