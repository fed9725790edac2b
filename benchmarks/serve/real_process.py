"""A real `edgemed serve` in a process of its own, with its engine, its data folder and its words, for failure tests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

PASSPHRASE = "a passphrase for the failure tests"
SERVE = (sys.executable, "-m", "edgemed", "serve")
START_S = 180.0
"""The first start in a new data folder makes a plan."""


@dataclass(frozen=True, slots=True)
class Size:
    """What the two processes hold; None where one is not there."""

    server_rss: int
    server_threads: int
    server_files: int
    engine_rss: int | None


@contextmanager
def data_folder(keep: Path | None) -> Iterator[Path]:
    """An empty data folder while the block runs; it and the servers' words are then copied to `keep`, where wanted."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        home.mkdir()
        yield home
        if keep:
            shutil.copytree(folder, keep, dirs_exist_ok=True)


class RealServer:
    """One server process on a free port of loopback; `home` outlives it."""

    def __init__(self, home: Path, model: str, command: Sequence[str] = SERVE) -> None:
        """Starts it; `wait_ready` returns when it answers. Its stderr is added to `home.parent / "stderr.txt"`.

        Another `command` stands in for `edgemed serve` and gets the same options.
        """
        secret = home.parent / "passphrase"
        if not secret.exists():
            secret.touch(mode=0o600)
            secret.write_text(PASSPHRASE + "\n")
        environment = {**os.environ, "EDGEMED_HOME": str(home), "EDGEMED_CACHE_PASSPHRASE_FILE": str(secret)}
        self.words = home.parent / "stderr.txt"
        self._stdout = home.parent / "stdout.txt"
        self._stdout.write_bytes(b"")
        whole = [*command, model, "--offline", "--json", "--port", "0"]
        with self.words.open("ab") as stderr, self._stdout.open("ab") as stdout:
            self._process = subprocess.Popen(whole, stdout=stdout, stderr=stderr, env=environment, cwd=home.parent)
        self.pid = self._process.pid
        self.port = 0
        self._engine: int | None = None

    def wait_ready(self) -> dict[str, Any]:
        """What it says of itself once it answers; ends this program when it does not start."""
        end = time.monotonic() + START_S
        while time.monotonic() < end and self._process.poll() is None:
            with suppress(ValueError):
                said: dict[str, Any] = json.loads(self._stdout.read_text())
                self.port = int(said["url"].rpartition(":")[2])
                return said
            time.sleep(0.01)
        raise SystemExit(f"the server did not start: {self.words.read_text()[-2000:]}")

    def engine_pid(self) -> int | None:
        """The engine's process; None while there is none."""
        with suppress(psutil.Error):
            for child in psutil.Process(self.pid).children():
                if "edgemed.engines.worker" in " ".join(child.cmdline()):
                    return child.pid
        return None

    def kill_engine(self, number: int) -> bool:
        """Send a signal to the engine's process; False when there was none."""
        pid = self.engine_pid()
        if pid is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            return True
        return False

    def kill_now(self) -> None:
        """SIGKILL the server in whatever it does."""
        self._engine = self.engine_pid()
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def kill(self, timeout_s: float = 10.0) -> bool:
        """SIGKILL the server, if that was not done; True when its engine ended with it, within the time."""
        if self._process.poll() is None:
            self.kill_now()
        engine, end = self._engine, time.monotonic() + timeout_s
        while engine is not None and psutil.pid_exists(engine):
            with suppress(psutil.Error):
                if psutil.Process(engine).status() == psutil.STATUS_ZOMBIE:
                    break
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    def stop(self) -> int:
        """End it politely; the exit code."""
        self._process.terminate()
        try:
            return self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def size(self) -> Size:
        """Resident memory, threads and open files now."""
        server = psutil.Process(self.pid)
        engine_rss = None
        if (engine := self.engine_pid()) is not None:
            with suppress(psutil.Error):
                engine_rss = psutil.Process(engine).memory_info().rss
        return Size(server.memory_info().rss, server.num_threads(), server.num_fds(), engine_rss)
