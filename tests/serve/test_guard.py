"""Who may talk to the server, and what a browser may do with its pages."""

from __future__ import annotations

import json
import re
import socket

import pytest
from serving import Running, serving

from edgemed.engines.fake import FakeEngine

ASK = {"messages": [{"role": "user", "content": "How much?"}]}


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "localhost.evil.example", "10.0.0.1", "[::2]", ""])
def test_foreign_host_name_is_refused(running: Running, host: str) -> None:
    response = running.http.get("/", headers={"Host": host})
    assert (response.status_code, response.json()["error"]["code"]) == (403, "host_refused")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9", "127.0.0.1:1", "[::1]:8080", "[::1]", "::1"])
def test_this_machine_is_accepted_under_any_port(running: Running, host: str) -> None:
    assert running.http.get("/health", headers={"Host": host}).status_code == 200


def test_two_host_headers_are_refused(running: Running) -> None:
    address, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((address, int(port))) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        assert client.recv(100).startswith((b"HTTP/1.1 400", b"HTTP/1.1 403"))


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://[", "http://localhost:1", "http://127.0.0.1"]
)
def test_request_from_another_sites_page_is_refused(running: Running, origin: str) -> None:
    before = len(running.engine.requests)
    response = running.http.post("/v1/chat/completions", json=ASK, headers={"Origin": origin})
    assert (response.status_code, response.json()["error"]["code"]) == (403, "origin_refused")
    assert len(running.engine.requests) == before


def test_two_origins_are_refused(running: Running) -> None:
    headers = [("Origin", running.url), ("Origin", "https://evil.example")]
    response = running.http.post("/v1/chat/completions", json=ASK, headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (403, "origin_refused")


def test_own_origin_is_accepted(running: Running) -> None:
    assert running.http.post("/v1/chat/completions", json=ASK, headers={"Origin": running.url}).status_code == 200


def test_no_cors_header_is_ever_sent(running: Running) -> None:
    for response in (
        running.http.get("/", headers={"Origin": running.url}),
        running.http.options("/v1/chat/completions", headers={"Access-Control-Request-Method": "POST"}),
    ):
        assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", ["/", "/app.js", "/style.css", "/health", "/nowhere", "/v1/models"])
def test_every_response_carries_the_security_headers(running: Running, path: str) -> None:
    headers = running.http.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "server" not in headers


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_body_that_a_form_could_send_is_refused(running: Running, kind: str) -> None:
    response = running.http.post("/v1/chat/completions", content=json.dumps(ASK), headers={"Content-Type": kind})
    assert (response.status_code, response.json()["error"]["code"]) == (415, "invalid_content_type")


def test_large_body_is_refused_by_its_declared_size() -> None:
    with serving(FakeEngine(), body_limit_bytes=1000) as server:
        response = server.chat("x" * 2000)
        assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")
        assert server.chat().status_code == 200


def test_large_body_without_a_declared_size_is_refused_while_it_comes() -> None:
    with serving(FakeEngine(), body_limit_bytes=1000) as server:
        chunks = (b"x" * 100 for _ in range(50))
        headers = {"Content-Type": "application/json"}
        response = server.http.post("/v1/chat/completions", content=chunks, headers=headers)
        assert response.status_code == 413


@pytest.mark.parametrize("declared", [True, False])
def test_large_body_is_refused_and_not_reset_on_a_connection_that_closes(declared: bool) -> None:
    body = b"x" * 10_000_000
    chunk = body if declared else b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    size = f"Content-Length: {len(body)}" if declared else "Transfer-Encoding: chunked"
    head = f"Host: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n{size}"
    with serving(FakeEngine()) as server:
        address, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((address, int(port))) as client:
            client.sendall(f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n\r\n".encode() + chunk)
            assert client.recv(100).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("before", [b"", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"])
def test_half_a_request_is_given_up(before: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgemed.serve.connection._HEAD_S", 0.2)
    with serving(FakeEngine()) as server:
        address, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((address, int(port)), timeout=20) as client:
            client.sendall(before + b"GET /health HTTP/1.1\r\nHost: local")
            while client.recv(1000):
                pass


def test_answer_outlives_the_time_for_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgemed.serve.connection._HEAD_S", 0.05)
    with serving(FakeEngine(seconds_per_token=0.05)) as server:
        assert server.chat().json()["usage"]["completion_tokens"] == 8


def test_body_that_never_ends_is_given_up() -> None:
    with serving(FakeEngine(), body_timeout_s=0.05) as server:
        address, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((address, int(port))) as client:
            client.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: 100\r\n\r\n{"
            )
            assert client.recv(100).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/web/app.js", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/health", 405),
        ("GET", "/v1/models/other", 404),
    ],
)
def test_every_miss_is_in_openai_error_form(running: Running, method: str, path: str, status: int) -> None:
    response = running.http.request(method, path)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_page_and_its_files_name_no_other_host() -> None:
    with serving(FakeEngine()) as server:
        for path in ("/", "/app.js", "/style.css", "/icon.svg"):
            text = server.http.get(path).text
            found = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"')]*", text))
            assert found <= {"http://www.w3.org/2000/svg"}, path  # the name of a namespace, never fetched


def test_status_tells_the_page_what_it_shows() -> None:
    with serving(FakeEngine(), demo_notice="Not for care.", offline=True) as server:
        status = server.http.get("/api/status").json()
        assert (status["demo"], status["demo_notice"], status["offline"]) == (True, "Not for care.", True)
        assert "clinician" in status["notice"]


def test_models_lists_the_one_that_is_served(running: Running) -> None:
    assert [model["id"] for model in running.http.get("/v1/models").json()["data"]] == ["fake"]
    assert running.http.get("/v1/models/fake").json()["object"] == "model"


def test_health_is_503_when_the_engine_has_failed(held: Running) -> None:
    assert held.http.get("/health").status_code == 200
    held.engine.break_down()
    response = held.http.get("/health")
    assert (response.status_code, response.json()["status"]) == (503, "failed")


def test_health_is_503_when_nothing_moves() -> None:
    with serving(FakeEngine(held=True), stall_s=0.0) as server:
        assert server.http.get("/health").json()["status"] == "ok"
        with server.stream():
            assert server.engine.wait_until_running()
            response = server.http.get("/health")
            assert (response.status_code, response.json()["status"]) == (503, "stalled")
            assert response.json()["running"] == 1
