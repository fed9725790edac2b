"""Connections: TLS handshakes that fail or never end, half requests, silent readers, floods; and that nothing of it is
logged with a traceback."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from network import TOKEN, bearer, connected, entrance, token_file, unverified
from serving import Running, serving, trusting

from edgemed.engines.fake import FakeEngine
from edgemed.serve.certificate import tls_context
from edgemed.serve.connection import ConnectionLimits, Connections
from edgemed.serve.entrance import Entrance
from edgemed.serve.rate_limits import Rate
from edgemed.serve.turnstile import Shares

HEAD = b"GET /health HTTP/1.1\r\nHost: 127.0.0.2\r\n"
WHOLE = HEAD + b"\r\n"
ASK = {"messages": [{"role": "user", "content": "How much?"}]}


@pytest.fixture
def way_in(tmp_path: Path) -> Entrance:
    return entrance(tmp_path, access_token_file=token_file(tmp_path))


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that a client does is worth a line in the log."""
    with caplog.at_level(logging.WARNING):
        yield
    assert [record.getMessage() for record in caplog.get_records("call")] == []


def limited(way_in: Entrance, **limits: int | Rate) -> Connections:
    """The entrance's connections with other limits."""
    assert way_in.certificate is not None
    chosen = ConnectionLimits(**{"opened": Rate(1000, 1000), **limits})  # type: ignore[arg-type]
    return Connections(tls_context(way_in.certificate), chosen)


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does; nothing there can call us."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def until_closed(client: socket.socket) -> bytes:
    """What comes before the end of the connection, however that comes."""
    got = b""
    with contextlib.suppress(ConnectionResetError, ssl.SSLError):
        while chunk := client.recv(65536):
            got += chunk
    return got


def test_certificate_is_checked_by_name_and_address(way_in: Entrance) -> None:
    with serving(FakeEngine(), entrance=way_in) as server:
        assert server.http.get("/health").status_code == 200
        other = server.url.replace("127.0.0.2", "127.0.0.3")
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{other}/health", verify=trusting(way_in), trust_env=False)
        with pytest.raises(httpx.ConnectError, match="verify"):
            httpx.get(f"{server.url}/health", trust_env=False)


@pytest.mark.parametrize(("highest", "works"), [("TLSv1_1", False), ("TLSv1_2", True), ("TLSv1_3", True)])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_tls_is_refused(way_in: Entrance, highest: str, works: bool) -> None:
    client = unverified()
    client.set_ciphers("ALL:@SECLEVEL=0")
    client.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    client.maximum_version = ssl.TLSVersion[highest]
    with serving(FakeEngine(), entrance=way_in) as server:
        if works:
            with connected(server, client) as secured:
                assert secured.version() == highest.replace("_", ".")
                assert secured.cipher()[0].startswith(("TLS_", "ECDHE-"))  # type: ignore[index]
        else:
            with pytest.raises((ssl.SSLError, ConnectionResetError)):
                connected(server, client)
        assert server.http.get("/health").status_code == 200


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\x00" * 100, b"\x00", b""])
def test_what_is_no_handshake_is_cut_without_a_word_in_the_log(way_in: Entrance, first: bytes) -> None:
    with serving(FakeEngine(), entrance=way_in) as server:
        with connected(server) as client:
            client.sendall(first)
            client.shutdown(socket.SHUT_WR)
            until_closed(client)
        assert server.http.get("/health").status_code == 200


def test_handshake_that_never_ends_is_given_up(way_in: Entrance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgemed.serve.connection._HANDSHAKE_S", 0.2)
    connections = limited(way_in)
    with serving(FakeEngine(), entrance=way_in, connections=connections) as server:
        with connected(server) as client:
            client.sendall(b"\x16\x03\x01")
            until_closed(client)
        until(lambda: not connections.tasks and not connections._open)


def test_client_that_vanishes_in_mid_handshake_is_forgotten(way_in: Entrance) -> None:
    connections = limited(way_in)
    with serving(FakeEngine(), entrance=way_in, connections=connections) as server:
        for _ in range(20):
            client = connected(server)
            client.sendall(b"\x16\x03\x01")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # its end is a reset
            client.close()
        until(lambda: not connections._open and not connections.tasks)
        assert server.http.get("/health").status_code == 200


def test_request_in_the_same_flight_as_the_end_of_the_handshake_is_answered(way_in: Entrance) -> None:
    """It may arrive before the server has taken note that the handshake is over."""
    tls = unverified()
    with serving(FakeEngine(), entrance=way_in) as server:
        for _ in range(20):
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            client = tls.wrap_bio(incoming, outgoing, server_hostname="127.0.0.2")
            with connected(server) as plain:
                while True:
                    try:
                        client.do_handshake()
                        break
                    except ssl.SSLWantReadError:
                        plain.sendall(outgoing.read())
                        incoming.write(plain.recv(65536))
                client.write(WHOLE)
                plain.sendall(outgoing.read())  # the handshake's last message and the request together
                got = b""
                while b'"status"' not in got:
                    with contextlib.suppress(ssl.SSLWantReadError):
                        got += client.read()
                        continue
                    incoming.write(plain.recv(65536))
                assert got.startswith(b"HTTP/1.1 200")


def test_one_address_has_so_many_connections_and_others_still_come_in(way_in: Entrance) -> None:
    connections = limited(way_in, of_one_address=4)
    with serving(FakeEngine(), entrance=way_in, connections=connections) as server:
        kept = [connected(server, source="127.0.0.5") for _ in range(4)]
        until(lambda: connections._open["127.0.0.5"] == 4)
        with connected(server, source="127.0.0.5") as more:
            assert until_closed(more) == b""
        assert server.http.get("/health").status_code == 200
        for each in kept:
            each.close()
        until(lambda: "127.0.0.5" not in connections._open)
        with connected(server, unverified(), source="127.0.0.5") as again:
            again.sendall(WHOLE)
            assert again.recv(12) == b"HTTP/1.1 200"


def test_all_addresses_together_have_so_many_connections(way_in: Entrance) -> None:
    connections = limited(way_in, in_all=6)
    with serving(FakeEngine(), entrance=way_in, connections=connections) as server:
        with contextlib.ExitStack() as kept:
            for number in range(6):
                kept.enter_context(connected(server, source=f"127.0.1.{number + 1}"))
            until(lambda: connections._open.total() == 6)
            with connected(server, source="127.0.1.9") as more:
                assert until_closed(more) == b""
        until(lambda: not connections._open)
        assert server.http.get("/health").status_code == 200


def test_end_of_the_server_lets_go_of_those_who_do_not_answer(way_in: Entrance) -> None:
    """TLS ends with a word from both sides; one that shook hands and one that never will say nothing any more."""
    connections = limited(way_in)
    with contextlib.ExitStack() as kept:
        with serving(FakeEngine(), entrance=way_in, connections=connections) as server:
            kept.enter_context(connected(server, unverified())).sendall(HEAD)
            kept.enter_context(connected(server))
            until(lambda: connections._open.total() == 2)
        assert not connections._open
        assert not connections._raw


def test_end_of_the_server_in_mid_stream_over_tls_ends_the_stream_properly(way_in: Entrance) -> None:
    engine = FakeEngine("word " * 10_000, seconds_per_token=0.01, context_length=20_000)
    with serving(engine, entrance=way_in, answer_tokens=9_000, paced=False) as server:
        body = {**ASK, "stream": True}
        with server.http.stream("POST", "/v1/chat/completions", json=body, headers=bearer(TOKEN)) as response:
            lines = response.iter_lines()
            while '"word' not in next(lines):
                pass
            server.server.stop()
            last = [line for line in lines if line.startswith("data: ")][-2:]
    assert "shutting_down" in last[0]
    assert last[1] == "data: [DONE]"


def test_flood_of_connections_is_cut_and_leaves_nothing(way_in: Entrance) -> None:
    connections = limited(way_in, opened=Rate(0.001, 30))
    with serving(FakeEngine(), entrance=way_in, connections=connections) as server:
        for _ in range(200):
            connected(server, source="127.0.0.5").close()
        until(lambda: not connections._open and not connections.tasks)
        assert server.http.get("/health").status_code == 200


@pytest.mark.parametrize("secure", [True, False])
def test_half_a_head_behind_a_whole_request_has_the_time_of_heads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secure: bool
) -> None:
    """Not that of silence between two requests, which is shorter."""
    monkeypatch.setattr("edgemed.serve.connection._HEAD_S", 1.0)
    monkeypatch.setattr("edgemed.serve.server._KEEP_ALIVE_S", 0.2)
    found = entrance(tmp_path, access_token_file=token_file(tmp_path), insecure_lan=not secure)
    with serving(FakeEngine(), entrance=found) as server:
        with connected(server, unverified() if secure else None) as client:
            client.sendall(WHOLE + HEAD)
            began = time.monotonic()
            assert until_closed(client).count(b"HTTP/1.1 200") == 1
            assert 0.9 < time.monotonic() - began < 5
        with connected(server, unverified() if secure else None) as client:
            client.sendall(WHOLE + HEAD)
            client.sendall(b"\r\n")
            assert until_closed(client).count(b"HTTP/1.1 200") == 2


def test_head_that_comes_in_drops_has_no_more_time(way_in: Entrance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgemed.serve.connection._HEAD_S", 0.3)
    with serving(FakeEngine(), entrance=way_in) as server, connected(server, unverified()) as client:
        client.settimeout(0.05)
        began = time.monotonic()
        with contextlib.suppress(OSError):
            for _ in range(200):
                client.sendall(b"x")
                with contextlib.suppress(TimeoutError):
                    if not client.recv(100):
                        break
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("secure", [True, False])
def test_reader_who_takes_nothing_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secure: bool) -> None:
    """He asks again and again for the page, and reads none of it."""
    monkeypatch.setattr("edgemed.serve.connection._LOOK_S", 0.1)
    monkeypatch.setattr("edgemed.serve.server._KEEP_ALIVE_S", 60)
    found = entrance(tmp_path, access_token_file=token_file(tmp_path), insecure_lan=not secure)
    connections = limited(found) if secure else Connections(None, ConnectionLimits())
    with serving(FakeEngine(), entrance=found, connections=connections, shares=None) as server:
        client = connected(server, None, source="127.0.0.5")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client = unverified().wrap_socket(client) if secure else client
        client.settimeout(2)
        with client:
            page = b"GET /login.js HTTP/1.1\r\nHost: 127.0.0.2\r\n\r\n"
            with contextlib.suppress(OSError):
                for _ in range(2000):
                    client.sendall(page)
            until(lambda: "127.0.0.5" not in connections._open)


def test_reader_who_is_slow_but_reads_gets_all(way_in: Entrance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgemed.serve.connection._LOOK_S", 0.5)
    with serving(FakeEngine(), entrance=way_in, shares=None) as server:
        with connected(server, unverified()) as client:
            client.sendall(b"GET /login.js HTTP/1.1\r\nHost: 127.0.0.2\r\nConnection: close\r\n\r\n")
            assert len(until_closed(client)) > 4000


@pytest.mark.parametrize(
    "bytes_sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.2\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
        b"\x00" * 50 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.2\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.2\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
def test_what_is_no_http_gets_an_error_in_openai_form(way_in: Entrance, bytes_sent: bytes) -> None:
    with serving(FakeEngine(), entrance=way_in) as server, connected(server, unverified()) as client:
        client.sendall(bytes_sent)
        head, _, body = until_closed(client).partition(b"\r\n\r\n")
        if b"400" in head[:20]:
            assert body.startswith(b'{"error":{"message":')
            assert b"content-security-policy" in head
        else:
            assert head.startswith((b"HTTP/1.1 401", b"HTTP/1.1 403"))


def test_nonsense_behind_a_refused_request_is_no_fault_of_ours(way_in: Entrance) -> None:
    """The answer was given already, so there can be no second one."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.2\r\nTransfer-Encoding: chunked\r\n\r\n"
    with serving(FakeEngine(), entrance=way_in) as server:
        with connected(server, unverified()) as client:
            client.sendall(head)
            assert client.recv(65536).startswith(b"HTTP/1.1 401")
            client.sendall(b"this is no chunk\r\n")
            until_closed(client)
        assert server.http.get("/health").status_code == 200


def test_requests_beyond_the_share_are_429_with_a_time(way_in: Entrance) -> None:
    shares = Shares(requests=Rate(0.001, 5))
    with serving(FakeEngine(), entrance=way_in, shares=shares) as server:
        codes = [server.http.get("/v1/models", headers=bearer(TOKEN)).status_code for _ in range(6)]
        assert codes == [200] * 5 + [429]
        refused = server.http.get("/v1/models", headers=bearer(TOKEN))
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert int(refused.headers["retry-after"]) > 0
        elsewhere = httpx.HTTPTransport(local_address="127.0.0.3", verify=trusting(way_in))
        with httpx.Client(base_url=server.url, transport=elsewhere) as neighbour:
            assert neighbour.get("/v1/models", headers=bearer(TOKEN)).status_code == 200


def test_questions_beyond_the_share_are_slowed_and_answered(way_in: Entrance) -> None:
    shares = Shares(requests=Rate(0.001, 1), questions=Rate(20, 2))
    with serving(FakeEngine(), entrance=way_in, shares=shares) as server:
        began = time.monotonic()
        for _ in range(6):
            assert server.http.post("/v1/chat/completions", json=ASK, headers=bearer(TOKEN)).status_code == 200
        assert time.monotonic() - began >= 4 / 20 - 0.02


def test_nobody_is_slowed_on_loopback(tmp_path: Path) -> None:
    with serving(FakeEngine(), entrance=entrance(tmp_path, "127.0.0.1")) as server:
        assert {server.http.get("/login.css").status_code for _ in range(500)} == {200}


@pytest.mark.parametrize("secure", [True, False])
def test_engine_side_learns_the_true_address_of_a_client(tmp_path: Path, secure: bool) -> None:
    """Behind TLS too, in one form, and whatever a header says."""
    found = entrance(tmp_path, "::", access_token_file=token_file(tmp_path), insecure_lan=not secure)
    with serving(FakeEngine(), entrance=found) as server:
        seen = _clients_of(server)
        port = server.url.rpartition(":")[2]
        for source in ("127.0.0.1", "127.0.0.9"):
            transport = httpx.HTTPTransport(local_address=source, verify=trusting(found))
            with httpx.Client(base_url=f"http{'s' * secure}://127.0.0.1:{port}", transport=transport) as client:
                client.get("/health", headers={"X-Forwarded-For": "10.9.9.9"})
        assert seen == ["127.0.0.1", "127.0.0.9"]


def _clients_of(server: Running) -> list[str]:
    seen: list[str] = []
    guard = server.server._app.asgi
    inside = guard._app  # type: ignore[attr-defined]

    async def note(scope, receive, send):  # type: ignore[no-untyped-def]
        seen.append(scope["client"][0])
        await inside(scope, receive, send)

    guard._app = note  # type: ignore[attr-defined]
    return seen
