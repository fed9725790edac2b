"""The two servers that the benchmarks compare, each in a process of its own: edgemed's and llama.cpp's llama-server.

Both get the same model, threads, slots and context; everything else is each one's default. Run as a script it is the
edgemed side: `python servers.py '{"model": ...}'` prints its address when it is ready.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "peers"))


@dataclass(frozen=True)
class Setting:
    """How both servers run one model."""

    model: str
    threads: int = 2
    slots: int = 8
    context: int = 1024
    """Tokens of one slot."""
    peer_passive: bool = False
    """llama-server's alone: its threads sleep while they wait, as edgemed's do; its default is to spin."""
    pins: bool = True
    """edgemed's alone, as all that follows: whether the project's templates are read once and shared."""
    flash_attention: bool = True
    saved_answers: bool = False
    """The two-level cache, in a folder of its own that goes with the process."""
    paced: bool = True
    """Limits by the question's class."""


@dataclass(frozen=True)
class Served:
    """A server that answers on loopback."""

    name: str
    port: int
    cpu_s: Callable[[], float]
    """CPU seconds so far of the server and the engine's process."""
    rss_bytes: Callable[[], dict[str, int]]
    """Resident memory by process."""


@contextmanager
def edgemed(setting: Setting) -> Iterator[Served]:
    """edgemed's server over its engine, without the plan's changes of threads."""
    command = [sys.executable, str(Path(__file__)), json.dumps(asdict(setting))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            if not address:
                raise SystemExit("edgemed's server did not start")
            yield served("edgemed", process.pid, int(address.rpartition(":")[2]))
        finally:
            process.terminate()


@contextmanager
def llama_server(setting: Setting) -> Iterator[Served]:
    """llama.cpp's own server."""
    from build import peer

    port = _free_port()
    command = [peer("llama-server"), "-m", setting.model, "--host", "127.0.0.1", "--port", port, "-np", setting.slots]
    command += ["-c", setting.slots * setting.context, "-t", setting.threads, "-tb", setting.threads, "-ngl", 0]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    waits = {"OMP_WAIT_POLICY": "passive"} if setting.peer_passive else {}
    words = [str(word) for word in command]
    with subprocess.Popen(words, env={**os.environ, **waits}, **quiet) as process:  # type: ignore[call-overload]
        try:
            _wait_healthy(port, process)
            yield served("llama-server", process.pid, port)
        finally:
            process.terminate()


def served(name: str, pid: int, port: int) -> Served:
    """What can be asked of a running server's processes: the one of `pid` and its children."""
    root = psutil.Process(pid)

    def family() -> list[psutil.Process]:
        return [root, *root.children(recursive=True)]

    def cpu_s() -> float:
        return float(sum(sum(process.cpu_times()[:2]) for process in family()))

    def rss_bytes() -> dict[str, int]:
        return {("server" if one.pid == pid else "engine"): one.memory_info().rss for one in family()}

    return Served(name, port, cpu_s, rss_bytes)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _wait_healthy(port: int, process: subprocess.Popen[bytes], limit_s: float = 120.0) -> None:
    end = time.monotonic() + limit_s
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise SystemExit("llama-server did not start")


def be_the_server(setting: Setting) -> None:
    """The edgemed side's process: the real application over the real engine, until a signal."""
    from edgemed.demo.supported import checked_facts
    from edgemed.engines.base import EngineConfig
    from edgemed.engines.supervisor import EngineProcess
    from edgemed.serve.app import create_app
    from edgemed.serve.care import WarmUp
    from edgemed.serve.options import ServeOptions
    from edgemed.serve.response_cache import CacheOptions, ResponseCache, open_cache
    from edgemed.serve.server import listen, run, url_of

    lists = WarmUp(checked_facts)
    config = EngineConfig(
        model_path=Path(setting.model),
        context_length=setting.context,
        n_slots=setting.slots,
        n_threads=setting.threads,
        flash_attention=setting.flash_attention,
        offline=True,
    )
    engine = EngineProcess(config)
    engine.start()
    lists.wait(every_language=True)
    sock = listen("127.0.0.1", 0)
    options = ServeOptions(model_name="bench", max_waiting=64, paced=setting.paced)
    with tempfile.TemporaryDirectory() as folder:
        cache = ResponseCache(CacheOptions(memory_entries=0))
        if setting.saved_answers:
            secret = Path(folder) / "passphrase"
            secret.touch(mode=0o600)
            secret.write_text("a passphrase for a benchmark alone")
            cache = open_cache(CacheOptions(), Path(folder), passphrase_file=secret)
        app = create_app(engine, options, cache=cache, facts=checked_facts)

        def announce() -> None:
            if setting.pins:
                app.prefixes.begin()
            print(url_of(sock), flush=True)

        run(app, engine, sock, announce)
        cache.close()


if __name__ == "__main__":
    be_the_server(Setting(**json.loads(sys.argv[1])))
