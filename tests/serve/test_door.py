"""The door: token, cookie, sign-in, wrong tokens, and what a stranger is shown, over real TLS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from network import TOKEN, bearer, entrance, token_file
from serving import Running, serving, trusting

from edgemed.engines.fake import FakeEngine
from edgemed.serve.door import OPEN_FILES
from edgemed.serve.page import page_routes
from edgemed.serve.sign_ins import LIFETIME_S, MOST_SIGN_INS, SignIns

ASK = {"messages": [{"role": "user", "content": "How much?"}]}


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server on a network, with TLS and a token; its client shows none."""
    folder = tmp_path_factory.mktemp("clinic")
    with serving(FakeEngine(), entrance=entrance(folder, access_token_file=token_file(folder))) as server:
        yield server


@pytest.fixture
def visitor(clinic: Running) -> Iterator[httpx.Client]:
    """Another client, whose cookies are its own."""
    with another(clinic) as client:
        yield client


def another(clinic: Running) -> httpx.Client:
    tls = clinic.http._transport._pool._ssl_context  # type: ignore[attr-defined]
    return httpx.Client(base_url=clinic.url, verify=tls, trust_env=False, timeout=10)


def sign_in(client: httpx.Client, token: str = TOKEN) -> httpx.Response:
    return client.post("/api/login", json={"token": token})


def every_address() -> list[tuple[str, str]]:
    files = {route.path for route in page_routes()} - OPEN_FILES
    return [
        *(("GET", path) for path in sorted(files)),
        ("GET", "/metrics"),
        ("GET", "/api/live"),
        ("POST", "/api/sessions"),
        ("GET", "/api/sessions/x"),
        ("GET", "/openapi.json"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/fake"),
        ("GET", "/api/status"),
        ("GET", "/api/calculators"),
        ("POST", "/api/calculators/bmi"),
        ("POST", "/api/logout"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/embeddings"),
        ("GET", "/nowhere"),
        ("DELETE", "/health"),
        ("POST", "/health"),
        ("GET", "/api/login"),
        ("POST", "//api/login"),
        ("GET", "/LOGIN.HTML"),
        ("GET", "/login.html/../api/status"),
    ]


@pytest.mark.parametrize(("method", "path"), every_address())
def test_stranger_is_refused_everywhere_in_openai_form(clinic: Running, method: str, path: str) -> None:
    before = len(clinic.engine.requests)
    response = clinic.http.request(method, path, json=ASK if method == "POST" else None)
    assert response.status_code == 401
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert "content-security-policy" in response.headers
    assert len(clinic.engine.requests) == before


@pytest.mark.parametrize("path", sorted(OPEN_FILES))
def test_stranger_is_shown_the_sign_in_page_and_its_files(clinic: Running, path: str) -> None:
    assert clinic.http.get(path).status_code == 200


def test_stranger_learns_of_health_one_word_and_who_may_all(clinic: Running) -> None:
    response = clinic.http.get("/health")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})
    assert "running" in clinic.http.get("/health", headers=bearer(TOKEN)).json()


def test_stranger_is_told_when_it_is_not_well(tmp_path: Path) -> None:
    with serving(FakeEngine(held=True), entrance=entrance(tmp_path)) as server:
        server.engine.break_down()
        response = server.http.get("/health")
        assert (response.status_code, response.json()) == (503, {"status": "not ok"})


def test_browser_is_led_to_the_sign_in_page(clinic: Running) -> None:
    response = clinic.http.get("/", headers={"Accept": "text/html,application/xhtml+xml"})
    assert (response.status_code, response.headers["location"]) == (303, "/login.html")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_token_opens_the_interface(clinic: Running, scheme: str) -> None:
    headers = {"Authorization": f"{scheme} {TOKEN}"}
    assert clinic.http.post("/v1/chat/completions", json=ASK, headers=headers).status_code == 200


def test_official_client_works_with_the_token_as_its_key(clinic: Running) -> None:
    from openai import AuthenticationError, OpenAI

    with another(clinic) as http:
        client = OpenAI(base_url=f"{clinic.url}/v1", api_key=TOKEN, http_client=http)
        assert [model.id for model in client.models.list()] == ["fake"]
    with another(clinic) as http:
        stranger = OpenAI(base_url=f"{clinic.url}/v1", api_key="unused", http_client=http, max_retries=0)
        with pytest.raises(AuthenticationError):
            stranger.models.list()
    assert clinic.http.get("/v1/models", headers=bearer(TOKEN)).status_code == 200  # and forgives what was wrong


@pytest.mark.parametrize(
    "headers",
    [
        [("Authorization", f"Basic {TOKEN}")],
        [("Authorization", TOKEN)],
        [("Authorization", "Bearer")],
        [("Authorization", f"Bearer {TOKEN}"), ("Authorization", f"Bearer {TOKEN}")],
        [("Authorization", f"Bearer {TOKEN[:-1]}")],
        [("Authorization", f"Bearer {TOKEN}x")],
        [("Authorization", f"Bearer {TOKEN.upper()}")],
        [("Authorization", "Bearer \xff\xfe".encode("latin-1"))],
        [("Cookie", f"__Host-edgemed={TOKEN}")],
        [("X-Api-Key", TOKEN)],
    ],
)
def test_anything_else_than_the_token_is_refused(clinic: Running, headers: list[tuple[str, str | bytes]]) -> None:
    raw = [(name.encode(), value.encode() if isinstance(value, str) else value) for name, value in headers]
    assert clinic.http.get("/v1/models", headers=raw).status_code == 401
    assert clinic.http.get("/v1/models", headers=bearer(TOKEN)).status_code == 200


def test_token_in_the_address_is_not_looked_at(clinic: Running) -> None:
    assert clinic.http.get("/v1/models", params={"token": TOKEN, "access_token": TOKEN}).status_code == 401


def test_sign_in_gives_a_cookie_that_scripts_other_sites_and_plain_http_cannot_have(visitor: httpx.Client) -> None:
    response = sign_in(visitor)
    assert (response.status_code, response.json()) == (200, {"expires_s": LIFETIME_S})
    first, *flags = response.headers["set-cookie"].lower().split("; ")
    name, value = first.split("=", 1)
    assert name == f"__host-edgemed-{visitor.base_url.port}"
    assert len(value) >= 43
    assert TOKEN not in value
    assert set(flags) == {"httponly", "secure", "samesite=strict", "path=/", f"max-age={LIFETIME_S}"}


def test_signed_in_page_works_until_it_signs_out(visitor: httpx.Client) -> None:
    sign_in(visitor)
    assert visitor.get("/", headers={"Accept": "text/html"}).status_code == 200
    assert visitor.get("/api/status").json()["signed_in"] is True
    assert visitor.post("/v1/chat/completions", json=ASK).status_code == 200
    stolen = dict(visitor.cookies)
    gone = visitor.post("/api/logout")
    assert (gone.status_code, "max-age=0" in gone.headers["set-cookie"].lower()) == (200, True)
    assert visitor.get("/api/status").status_code == 401
    visitor.cookies.update(stolen)
    assert visitor.get("/api/status").status_code == 401  # the server itself has forgotten it


def test_two_devices_have_two_credentials_and_sign_out_alone(clinic: Running, visitor: httpx.Client) -> None:
    with another(clinic) as other:
        sign_in(visitor)
        sign_in(other)
        assert dict(visitor.cookies) != dict(other.cookies)
        other.post("/api/logout")
        assert visitor.get("/api/status").status_code == 200


@pytest.mark.parametrize(
    "body", [{}, {"token": ""}, {"token": 7}, {"token": TOKEN, "more": 1}, [], {"token": "x" * 2000}]
)
def test_sign_in_of_another_form_is_refused(visitor: httpx.Client, body: object) -> None:
    response = visitor.post("/api/login", json=body)
    assert response.status_code == 400
    assert TOKEN not in response.text


def test_sign_in_from_another_site_or_by_a_form_is_refused(clinic: Running, visitor: httpx.Client) -> None:
    headers = {"Origin": "https://evil.example"}
    assert visitor.post("/api/login", json={"token": TOKEN}, headers=headers).status_code == 403
    plain = {"Content-Type": "text/plain"}
    assert visitor.post("/api/login", content=json.dumps({"token": TOKEN}), headers=plain).status_code == 415
    same_host_in_the_clear = {"Origin": clinic.url.replace("https:", "http:")}
    assert visitor.post("/api/login", json={"token": TOKEN}, headers=same_host_in_the_clear).status_code == 403


def test_guessing_is_slowed_for_that_address_and_nobody_else(tmp_path: Path) -> None:
    way_in = entrance(tmp_path, access_token_file=token_file(tmp_path))
    with serving(FakeEngine(), entrance=way_in) as server, another(server) as signed_in:
        sign_in(signed_in)
        codes = [sign_in(server.http, f"guess-{number}").status_code for number in range(4)]
        assert codes == [401, 401, 401, 429]
        refused = server.http.get("/v1/models", headers=bearer(TOKEN))  # the right one is not even looked at
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_attempts")
        assert int(refused.headers["retry-after"]) >= 1
        assert signed_in.get("/api/status").status_code == 200
        elsewhere = httpx.HTTPTransport(local_address="127.0.0.3", verify=trusting(way_in))
        with httpx.Client(base_url=server.url, transport=elsewhere) as neighbour:
            assert neighbour.get("/v1/models", headers=bearer(TOKEN)).status_code == 200


def test_who_passes_on_another_address_gains_nothing(tmp_path: Path) -> None:
    way_in = entrance(tmp_path, access_token_file=token_file(tmp_path))
    with serving(FakeEngine(), entrance=way_in) as server:
        codes = []
        for number in range(4):
            forged = {"X-Forwarded-For": f"10.0.0.{number}", "Forwarded": f"for=10.0.0.{number}"}
            codes.append(server.http.get("/v1/models", headers=bearer("wrong") | forged).status_code)
        assert codes == [401, 401, 401, 429]


def test_loopback_asks_for_nothing_unless_a_token_file_is_given(tmp_path: Path) -> None:
    with serving(FakeEngine(), entrance=entrance(tmp_path, "127.0.0.1")) as server:
        assert server.url.startswith("http://")
        assert server.http.get("/v1/models").status_code == 200
        assert server.http.get("/api/status").json()["signed_in"] is False
    own = entrance(tmp_path, "127.0.0.1", access_token_file=token_file(tmp_path))
    with serving(FakeEngine(), entrance=own) as server:
        assert server.http.get("/v1/models").status_code == 401
        cookie = sign_in(server.http).headers["set-cookie"].lower()
        assert "secure" not in cookie  # there is no TLS, and nobody can listen
        assert "__host-" not in cookie
        assert server.http.get("/v1/models").status_code == 200


def test_sign_in_ends_with_the_shift_and_their_number_is_bounded() -> None:
    now = [1000.0]
    sign_ins = SignIns(lambda: now[0])
    first = sign_ins.begin()
    now[0] += LIFETIME_S - 1
    assert sign_ins.knows(first)
    now[0] += 1
    assert not sign_ins.knows(first)
    kept = [sign_ins.begin() for _ in range(MOST_SIGN_INS + 10)]
    assert len(sign_ins) == MOST_SIGN_INS
    assert not sign_ins.knows(kept[0])
    assert sign_ins.knows(kept[-1])
    assert not sign_ins.knows("")
