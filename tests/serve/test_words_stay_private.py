"""Marked words are sent in every part of a request, and errors provoked at every layer; then they are looked for.

In every file of the data folder, in the log at its most talkative, on both outputs, and in every route that tells of
the server. Each place has a word of its own, so that a leak says where it came from.
"""

from __future__ import annotations

import json
import logging
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from network import bearer, entrance, token_file
from serving import Running, serving

from edgemed.core.errors import EngineFailed
from edgemed.core.privacy import forbid_tracebacks
from edgemed.engines.fake import FakeEngine
from edgemed.serve import chat
from edgemed.serve.answer import Answer
from edgemed.serve.cache_disk import DiskLevel, DiskLimits
from edgemed.serve.cache_secret import Secret
from edgemed.serve.journal import JOURNAL_FILE, Journal
from edgemed.serve.recall import Recall
from edgemed.serve.response_cache import CACHE_FILE, CacheOptions, ResponseCache
from edgemed.serve.unfinished import UNFINISHED_FOLDER, Unfinished

MARK = "quopzil"
"""The beginning of every marked word; no language has it."""
KEPT_QUESTION = "How much paracetamol for a child with fever?"
KEPT_ANSWER = "Give it when the fever is high, and let the child drink."
TELLING = ("/metrics", "/api/live", "/health", "/api/status", "/v1/models", "/openapi.json")


def mark(place: str) -> str:
    """The word that is sent in this place."""
    return f"{MARK}{place}"


class Heard(logging.Handler):
    """Every line of every log, as `edgemed serve` would write it, but for those of the tests' own client."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []
        self.errors: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith(("httpx", "httpcore")):
            line = self.format(record)  # with the traceback, where there is one
            self.lines.append(line)
            if record.levelno >= logging.ERROR:
                self.errors.append(line)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Heard]:
    """All logs at their most talkative."""
    root, heard = logging.getLogger(), Heard()
    before = root.level
    root.setLevel(logging.DEBUG)
    root.addHandler(heard)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    forbid_tracebacks()
    yield heard
    root.removeHandler(heard)
    root.setLevel(before)


@dataclass
class Watched:
    """A server whose every word is heard."""

    server: Running
    folder: Path
    heard: Heard
    capfd: pytest.CaptureFixture[str]
    told: list[str] = field(default_factory=list)
    """What its routes said of it."""

    def post(self, body: Any, **more: Any) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json"} | more.pop("headers", {})
        return self.server.http.post("/v1/chat/completions", content=content, headers=headers, **more)

    def ask(self, place: str, **fields: Any) -> httpx.Response:
        question = f"What helps {mark(place)} against a cough?"
        return self.server.chat(question, **fields)

    def look(self) -> None:
        """Ask the routes that tell of the server."""
        self.told += [self.server.http.get(route).text for route in TELLING]

    def check(self) -> None:
        """Fail where a marked word is found."""
        output = self.capfd.readouterr()
        heard = {"log": self.heard.text, "stdout": output.out, "stderr": output.err, "routes": "\n".join(self.told)}
        heard |= {str(file): file.read_bytes().decode("latin-1") for file in self.folder.rglob("*") if file.is_file()}
        for where, text in heard.items():
            at = text.lower().find(MARK)
            assert at < 0, f"{where}: ...{text[max(0, at - 80) : at + 80]!r}"


@pytest.fixture
def watched(
    tmp_path: Path,
    heard: Heard,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Watched]:
    """A server with a journal and a sealed cache, whose answers hold a marked word as well."""
    secret = Secret("keyring", bytes(range(32)))
    cache = ResponseCache(CacheOptions(), DiskLevel(tmp_path / CACHE_FILE, secret, DiskLimits(100, 2**20, 86400.0)))
    unfinished = Unfinished(tmp_path, secret)
    engine = FakeEngine(lambda prompt: KEPT_ANSWER if KEPT_QUESTION in prompt else f"Rest, says {mark('answer')}.")
    kept = {"cache": cache, "journal": Journal(tmp_path), "unfinished": unfinished}
    with serving(engine, deadline_s=5.0, **kept) as server:
        watched = Watched(server, tmp_path, heard, capfd)
        yield watched
        watched.look()
    cache.close()
    unfinished.close()
    watched.check()


def test_the_search_finds_what_is_there(watched: Watched) -> None:
    for leak in ("log", "file", "route"):
        if leak == "log":
            logging.getLogger("some.library").debug("a word: %s", mark("log").upper())
        elif leak == "file":
            (watched.folder / "left.txt").write_text(mark("file"))
        else:
            watched.told.append(mark("route"))
        with pytest.raises(AssertionError, match=f"(?i){MARK}"):
            watched.check()
        watched.heard.lines.clear()
        watched.told.clear()
        (watched.folder / "left.txt").unlink(missing_ok=True)


def test_words_of_good_questions_leave_no_trace_but_a_sealed_one(watched: Watched) -> None:
    assert watched.ask("whole", user=mark("user")).status_code == 200
    with watched.server.stream(f"What helps {mark('stream')}?", stop=[mark("stop")]) as response:
        assert mark("answer") in response.read().decode()
    cited = [{"title": mark("title"), "text": f"{mark('cited')} takes 5 mg."}]
    assert watched.ask("sources", cited=cited, cache="retry").status_code == 200
    assert watched.server.http.get("/v1/models", params={"q": mark("query")}).status_code == 200
    assert watched.server.chat(KEPT_QUESTION).status_code == 200
    assert watched.server.chat(KEPT_QUESTION).json()["medical"]["cached"]
    kept = (watched.folder / CACHE_FILE).read_bytes() + (watched.folder / f"{CACHE_FILE}-wal").read_bytes()
    assert b"fever" not in kept
    assert b"paracetamol" not in kept
    journal = (watched.folder / JOURNAL_FILE).read_text()
    assert journal.count("\n") >= 4
    assert "fever" not in journal


def test_words_in_headers_names_and_paths_leave_no_trace(watched: Watched) -> None:
    body = {"messages": [{"role": "user", "content": "Hello?"}]}
    for name in ("user-agent", "authorization", "cookie", "x-session", "referer", "x-request-id", "content-language"):
        assert watched.post(body, headers={name: mark(name.replace("-", ""))}).status_code < 500
    watched.post(body, headers={"host": f"{mark('host')}.example"})
    watched.post(body, headers={"origin": f"http://{mark('origin')}.example"})
    watched.post(body, headers={"content-type": f"text/{mark('kind')}"})
    assert watched.server.http.get(f"/{mark('path')}").status_code == 404
    assert watched.server.http.request(mark("METHOD").upper(), "/").status_code >= 400
    for route in ("/v1/models/", "/api/calculators/"):
        assert watched.server.http.get(f"{route}{mark('name')}").status_code >= 400
    assert watched.ask("model", model=mark("model")).status_code == 404


JSON = {"content-type": "application/json"}
QUESTION = {"role": "user", "content": "Hello?"}
BAD_BODIES: dict[str, Any] = {
    "json": f'{{"messages": {MARK}json'.encode(),
    "utf8": f'{{"messages": "{MARK}utf'.encode() + b'\xff"}',
    "role": {"messages": [{"role": mark("role"), "content": mark("content")}]},
    "system": {"messages": [{"role": "system", "content": mark("system")}, QUESTION]},
    "field": {"messages": [QUESTION], mark("field"): mark("value")},
    "type": {"messages": [QUESTION], "temperature": mark("temperature")},
    "tools": {"messages": [QUESTION], "tools": [{"type": "function", "function": {"name": mark("tool")}}]},
    "format": {"messages": [QUESTION], "response_format": {"type": mark("format")}},
    "schema": {
        "messages": [QUESTION],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": mark("schema"), "schema": {"type": mark("kind"), "enum": [mark("enum")]}},
        },
    },
    "language": {"messages": [QUESTION], "language": mark("language")},
    "calculator": {"messages": [QUESTION], "calculations": [{"name": mark("sum"), "inputs": {mark("key"): mark("x")}}]},
    "session": {"messages": [QUESTION], "session": mark("session"), "session_id": mark("session")},
    "adapter": {"messages": [QUESTION], "adapter": mark("adapter")},
    "empty": {"messages": [{"role": "user", "content": ""}], "user": mark("user")},
    "large": {"messages": [{"role": "user", "content": mark("large") * 150_000}]},
    "long": {"messages": [{"role": "user", "content": f"{mark('long')} " * 2000}]},
}


@pytest.mark.parametrize("kind", BAD_BODIES)
def test_words_of_a_refused_body_leave_no_trace(watched: Watched, kind: str) -> None:
    assert 400 <= watched.post(BAD_BODIES[kind]).status_code < 500


def test_words_in_the_other_routes_leave_no_trace(watched: Watched) -> None:
    http = watched.server.http
    assert http.post("/v1/embeddings", json={"input": f"{mark('text')} coughs"}).status_code == 200
    assert http.post("/v1/embeddings", json={"input": [f"{mark('one')} " * 3000]}).status_code >= 400
    assert http.post("/v1/embeddings", json={"input": {mark("key"): 1}}).status_code == 400
    assert http.post("/v1/completions", json={"prompt": f"{mark('prompt')} coughs"}).status_code in (200, 400, 404)
    for inputs in ({"weight_kg": mark("weight")}, {mark("field"): 3}, mark("inputs")):
        assert http.post("/api/calculators/weight_based_dose", json={"inputs": inputs}).status_code == 400


def test_bytes_that_are_no_request_leave_no_trace(watched: Watched) -> None:
    host, port = watched.server.url.removeprefix("http://").split(":")
    for raw in (f"{MARK}raw {MARK}raw\r\n\r\n", f"GET /{MARK} HTTP/1.1\r\n{MARK}\r\n\r\n", f"POST / HTTP/9\r\n{MARK}"):
        with socket.create_connection((host, int(port)), timeout=5) as client:
            client.sendall(raw.encode())
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((host, int(port)), timeout=5) as client:
        client.sendall(f'{head}Content-Length: 900\r\n\r\n{{"messages": "{MARK}'.encode())


def test_words_of_questions_whose_engine_fails_leave_no_trace(watched: Watched) -> None:
    engine = watched.server.engine
    engine.fail_next(after_tokens=1)
    assert watched.ask("lost").status_code == 503
    engine.fail_next(after_tokens=1)
    with watched.server.stream(f"What helps {mark('loststream')}?") as response:
        assert "engine_lost" in response.read().decode()
    engine.lose_worker()
    watched.look()
    engine.restore_worker()
    assert watched.ask("after").status_code == 200


def test_an_interrupted_question_is_told_to_its_session_alone_and_the_key_to_nobody(watched: Watched) -> None:
    http = watched.server.http
    key = http.post("/api/sessions").json()["id"]
    assert watched.ask("whole", session=key).status_code == 200
    watched.server.engine.fail_next(after_tokens=1)
    assert watched.ask("interrupted", session=key).status_code == 503
    assert mark("interrupted") in http.get(f"/api/sessions/{key}").text
    assert http.get(f"/api/sessions/{mark('session')}").status_code == 404
    watched.look()
    kept = [path for path in (watched.folder / UNFINISHED_FOLDER).iterdir() if path.stat().st_size > 100]
    assert len(kept) == 1
    files = "".join(path.read_bytes().decode("latin-1") for path in watched.folder.rglob("*") if path.is_file())
    assert key not in files + watched.heard.text + "".join(watched.told)


def test_tokens_right_and_wrong_and_cookies_leave_no_trace(
    tmp_path: Path, heard: Heard, capfd: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    right = token_file(tmp_path, f"{MARK}-token-of-the-clinic")
    way_in = entrance(tmp_path, access_token_file=right)
    with serving(FakeEngine(), entrance=way_in, journal=Journal(data)) as server:
        watched = Watched(server, data, heard, capfd)
        assert server.http.post("/api/login", json={"token": mark("wrong")}).status_code == 401
        assert server.http.post("/api/login", content=mark("body"), headers=JSON).status_code == 400
        assert server.http.get("/metrics", headers=bearer(mark("bearer"))).status_code == 401
        assert server.http.get("/", headers={"cookie": f"__Host-edgemed={mark('cookie')}"}).status_code in (303, 401)
        assert server.http.post("/api/login", json={"token": right.read_text().strip()}).is_success
        assert server.http.cookies
        assert watched.ask("signedin").status_code == 200
        watched.look()
        cookie = next(iter(server.http.cookies.values()))
    watched.check()
    kept = (data / JOURNAL_FILE).read_text() + heard.text + "".join(watched.told)
    assert cookie not in kept


def test_words_of_a_client_that_leaves_and_of_one_that_is_late_leave_no_trace(
    tmp_path: Path, heard: Heard, capfd: pytest.CaptureFixture[str]
) -> None:
    journal = Journal(tmp_path)
    for deadline_s in (0.3, 60.0):
        with serving(FakeEngine(held=True), journal=journal, deadline_s=deadline_s) as server:
            watched = Watched(server, tmp_path, heard, capfd)
            if deadline_s < 1:
                assert watched.ask("late").status_code == 504
            else:
                with server.stream(f"What helps {mark('left')}?"):
                    assert server.engine.wait_until_running()
            watched.look()
        watched.check()


@pytest.mark.parametrize("layer", ["template", "tokenizer", "cache", "guard", "journal", "refused"])
def test_a_fault_that_repeats_the_question_leaves_no_trace(
    watched: Watched, layer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_args: Any, **_more: Any) -> Any:
        error = EngineFailed if layer == "refused" else ValueError
        raise error(f"{mark(layer)} cannot be read")

    care = "edgemed.serve.care.Care"
    where: dict[str, tuple[Any, str]] = {
        "template": (chat, "generation_of"),
        "tokenizer": (watched.server.engine, "tokenize"),
        "cache": (Recall, "find"),
        "guard": (f"{care}.check", ""),
        "journal": (f"{care}.finish", ""),
        "refused": (watched.server.engine, "tokenize"),
    }
    target, name = where[layer]
    if name:
        monkeypatch.setattr(target, name, fails)
    else:
        monkeypatch.setattr(target, fails)
    assert watched.ask(layer).status_code in (200, 500)
    with watched.server.stream(f"What helps {mark(layer)}?") as response:
        response.read()
    monkeypatch.undo()
    assert (layer == "refused") == (not watched.heard.errors)


def test_a_fault_in_a_callback_of_the_event_loop_is_told_by_its_place(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(_answer: Answer, event: Any) -> None:
        raise ValueError(f"{event} cannot be put")

    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    monkeypatch.setattr(Answer, "_put", put)
    with pytest.raises(httpx.ReadTimeout):
        watched.post({"messages": [QUESTION]}, timeout=0.5)
    monkeypatch.undo()
    assert "ValueError at" in watched.heard.text


def test_a_journal_that_cannot_be_written_and_a_damaged_cache_tell_no_word(watched: Watched) -> None:
    assert watched.server.chat(KEPT_QUESTION).status_code == 200
    assert watched.server.chat("Hello?").status_code == 200  # on the same connection: the one before is in the journal
    journal = watched.folder / JOURNAL_FILE
    journal.unlink()
    journal.mkdir()
    file = watched.folder / CACHE_FILE
    file.write_bytes(b"\x00" * file.stat().st_size)
    assert watched.ask("unkept").status_code == 200
    assert watched.server.chat(KEPT_QUESTION, cache="retry").status_code == 200
    assert "cannot be written" in watched.heard.text


def test_the_loop_of_a_server_is_never_in_debug_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    with serving(FakeEngine()) as server:
        assert server.server._loop is not None
        assert server.server._loop.get_debug() is False
