"""Start and end of a server process: the address, the port that is taken, and SIGTERM in mid-stream."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from edgemed.core.errors import UsageError
from edgemed.serve.server import listen, url_of

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")

# A server in a process of its own, as `edgemed serve` makes it, over the engine that needs no model.
SCRIPT = """
import signal, sys, time
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests may ignore it (nohup)
from edgemed.engines.fake import FakeEngine
from edgemed.serve.app import create_app
from edgemed.serve.options import ServeOptions
from edgemed.serve.server import listen, run, stop_signals_raise, url_of

answer, pace = "word " * 100_000, 0.01
if "flood" in sys.argv:
    answer, pace = ("w" * 2000 + " ") * 20_000, 0
engine = FakeEngine(answer, context_length=200_000, seconds_per_token=pace)
if "stuck" in sys.argv:
    engine.close = lambda: time.sleep(60)
with stop_signals_raise():
    sock = listen("127.0.0.1", 0)
    if "loading" in sys.argv:
        print(url_of(sock), flush=True)
        time.sleep(60)
    app = create_app(engine, ServeOptions(model_name="fake", answer_tokens=150_000, paced=False))
    code = run(app, engine, sock, lambda: print(url_of(sock), flush=True))
sys.exit(code)
"""

ASK = {"messages": [{"role": "user", "content": "How much?"}], "stream": True}


@contextmanager
def server(*words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server process and its address, once it is ready."""
    command = [sys.executable, "-c", SCRIPT, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def ends_within(process: subprocess.Popen[str], seconds: float) -> tuple[int, str]:
    """Exit code and stderr; fails when the process lives longer."""
    _, stderr = process.communicate(timeout=seconds)
    return process.returncode, stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGHUP, 0), (signal.SIGINT, 130)])
def test_signal_in_mid_stream_ends_the_stream_and_the_process(number: int, code: int) -> None:
    with server() as (process, url):
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=ASK, timeout=10, trust_env=False) as response:
            lines = response.iter_lines()
            while '"word' not in next(lines):
                pass
            began = time.monotonic()
            process.send_signal(number)
            last = [line for line in lines if line.startswith("data: ")][-2:]
        assert json.loads(last[0][6:])["error"]["code"] == "shutting_down"
        assert last[1] == "data: [DONE]"
        assert ends_within(process, 5) == (code, "")
        assert time.monotonic() - began < 5


def test_signal_ends_a_whole_answer_with_503() -> None:
    with server() as (process, url):
        with httpx.Client(base_url=url, timeout=10, trust_env=False) as client:

            def stop_when_running() -> None:
                while httpx.get(f"{url}/health", trust_env=False).json()["running"] == 0:
                    pass
                process.send_signal(signal.SIGTERM)

            threading.Thread(target=stop_when_running).start()
            response = client.post("/v1/chat/completions", json={**ASK, "stream": False})
        assert (response.status_code, response.json()["error"]["code"]) == (503, "shutting_down")
        assert ends_within(process, 5)[0] == 0


def test_client_that_does_not_read_cannot_hold_the_server() -> None:
    with server("flood") as (process, url):
        host, port = url.removeprefix("http://").split(":")
        body = json.dumps(ASK).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        with socket.create_connection((host, int(port))) as client:
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            client.recv(1)
            while httpx.get(f"{url}/health", trust_env=False).json()["running"]:
                pass  # until all 40 MB are written, and most of them wait in the server
            process.send_signal(signal.SIGTERM)
            assert ends_within(process, 5)[0] == 0


def test_engine_that_does_not_close_cannot_hold_the_process() -> None:
    with server("stuck") as (process, _):
        process.send_signal(signal.SIGTERM)
        assert ends_within(process, 5)[0] == 1


def test_second_signal_ends_the_process_at_once() -> None:
    with server("stuck") as (process, url):
        process.send_signal(signal.SIGINT)
        _until_refused(url)
        process.send_signal(signal.SIGINT)
        assert ends_within(process, 2)[0] == 130


def _until_refused(url: str) -> None:
    try:
        while True:
            httpx.get(f"{url}/health", trust_env=False)
    except httpx.TransportError:
        return


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGHUP, 0), (signal.SIGINT, 1)])
def test_signal_while_loading_ends_the_process(number: int, code: int) -> None:
    with server("loading") as (process, _):
        process.send_signal(number)
        found, stderr = ends_within(process, 5)
        if code == 0:
            assert (found, stderr) == (0, "")
        else:
            assert "KeyboardInterrupt" in stderr  # the command line turns it into exit code 130


def test_port_in_use_is_named_with_the_next_step() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError) as caught:
            listen("127.0.0.1", port)
    assert str(port) in caught.value.what
    assert f"--port {port + 1}" in caught.value.next_step
    with listen("127.0.0.1", port) as again:  # and is free for the next start at once
        assert again.getsockname()[1] == port


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("0.0.0.0", "access token"),
        ("::", "access token"),
        ("192.168.1.10", "access token"),
        ("", "empty"),
        ("example.org", "no address"),
        ("fe80::1%lo", "No browser"),
        ("224.0.0.1", "No browser"),
    ],
)
def test_address_that_others_can_reach_is_not_listened_on_by_default(host: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        listen(host, 0)


def test_address_of_another_machine_is_named_with_those_of_this_one() -> None:
    with pytest.raises(UsageError, match="no address of this machine"):
        listen("192.0.2.1", 0, network=True)


def test_every_address_is_listened_on_with_ipv4_and_ipv6() -> None:
    with listen("::", 0, network=True) as sock, socket.create_connection(("127.0.0.1", sock.getsockname()[1])):
        accepted, peer = sock.accept()
        accepted.close()
        assert peer[0] == "::ffff:127.0.0.1"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.5"])
def test_loopback_is_accepted(host: str) -> None:
    with listen(host, 0) as sock:
        assert url_of(sock).startswith("http://127.0.0.")


@pytest.mark.parametrize("port", [-1, 65536, 10**9])
def test_number_that_is_no_port_is_refused(port: int) -> None:
    with pytest.raises(UsageError, match="no port number"):
        listen("127.0.0.1", port)
