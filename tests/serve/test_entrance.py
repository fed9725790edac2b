"""What is settled before a model loads: addresses, token, certificate, and all faults in one error."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from network import FOREIGN, TOKEN, bearer, entrance, token_file
from own_certificates import write_own
from serving import serving

from edgemed.core.errors import UsageError
from edgemed.engines.fake import FakeEngine
from edgemed.serve import addresses
from edgemed.serve import entrance as entrance_module
from edgemed.serve.addresses import own_addresses, own_names, plain_address
from edgemed.serve.options import ServeOptions


@pytest.fixture(autouse=True)
def two_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two addresses and a name."""
    monkeypatch.setattr(entrance_module, "own_addresses", lambda: ("192.168.1.5", "10.0.0.7"))
    monkeypatch.setattr(entrance_module, "own_names", lambda: ("clinic-laptop", "clinic-laptop.local"))


def test_loopback_has_neither_token_nor_tls_and_makes_no_files(tmp_path: Path) -> None:
    for host in ("127.0.0.1", "localhost"):
        found = entrance(tmp_path, host)
        assert (found.token, found.certificate, found.network) == (None, None, False)
        assert found.urls(8080) == ("http://127.0.0.1:8080",)
        assert found.first_words() == found.last_words(8080) == ()
    assert list(tmp_path.iterdir()) == []


def test_network_has_both_and_the_token_is_shown_once(tmp_path: Path) -> None:
    first = entrance(tmp_path)
    assert first.token is not None
    assert first.urls(8080) == (f"https://{FOREIGN}:8080",)
    said = "\n".join(first.first_words())
    assert first.token.value in said
    assert f"cat {tmp_path / 'access-token'}" in said
    again = entrance(tmp_path)
    said = "\n".join((*again.first_words(), *again.last_words(8080)))
    assert first.token.value not in said
    assert f"cat {tmp_path / 'access-token'}" in said


def test_name_in_capitals_does_not_make_the_certificate_anew_at_every_start(tmp_path: Path) -> None:
    first, again = (entrance(tmp_path, names=("Edgemed.Clinic",)) for _ in range(2))
    assert again.fingerprint == first.fingerprint


def test_fingerprint_is_said_at_every_start_with_how_to_compare_it(tmp_path: Path) -> None:
    for _ in range(2):
        found = entrance(tmp_path)
        said = "\n".join(found.last_words(8080))
        assert found.fingerprint in said
        assert len(found.fingerprint) == 95
        assert "compare" in said


def test_wildcard_names_every_address_and_the_certificate_has_them(tmp_path: Path) -> None:
    found = entrance(tmp_path, "0.0.0.0")
    assert found.urls(8080) == ("https://192.168.1.5:8080", "https://10.0.0.7:8080")
    assert found.certificate is not None
    assert {"192.168.1.5", "10.0.0.7", "127.0.0.1", "localhost", "clinic-laptop.local"} <= set(found.certificate.names)
    assert "https://10.0.0.7:8080" in found.last_words(8080)[0]


def test_wildcard_without_any_network_still_has_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entrance_module, "own_addresses", lambda: ())
    assert entrance(tmp_path, "::").urls(1) == ("https://127.0.0.1:1",)


def test_insecure_is_said_aloud_and_still_asks_for_the_token(tmp_path: Path) -> None:
    found = entrance(tmp_path, insecure_lan=True)
    assert "without encryption" in found.first_words()[0]
    with serving(FakeEngine(), entrance=found) as server:
        assert server.url.startswith("http://")
        assert server.http.get("/api/status").status_code == 401
        assert found.token is not None
        status = server.http.get("/api/status", headers=bearer(found.token.value)).json()
        assert "can read" in status["network_warning"]


def test_secure_server_has_no_warning(tmp_path: Path) -> None:
    found = entrance(tmp_path)
    assert found.token is not None
    with serving(FakeEngine(), entrance=found) as server:
        assert server.http.get("/api/status", headers=bearer(found.token.value)).json()["network_warning"] == ""


@pytest.mark.skipif(sys.platform == "win32", reason="access rights of POSIX")
def test_all_faults_are_said_together_and_nothing_is_made(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with pytest.raises(UsageError) as caught:
        entrance(
            data,
            "no-address",
            access_token_file=token_file(tmp_path, mode=0o644),
            tls_cert=tmp_path / "none.crt",
            insecure_lan=True,
            names=("under_score",),
        )
    for fault in ("no-address", "its mode is 644", "go together", "--insecure-lan", "under_score"):
        assert fault in caught.value.what
    assert "chmod 600" in caught.value.next_step
    assert not data.exists()


@pytest.mark.parametrize("given", ["tls_cert", "tls_key"])
def test_certificate_and_key_go_together(tmp_path: Path, given: str) -> None:
    with pytest.raises(UsageError, match="go together"):
        entrance(tmp_path, "127.0.0.1", **{given: tmp_path / "one"})


def test_own_certificate_gives_its_names_to_the_address_and_to_the_guard(tmp_path: Path) -> None:
    chain_file, key_file = write_own(tmp_path, names=("localhost", "*.clinic.example"))
    found = entrance(tmp_path, tls_cert=chain_file, tls_key=key_file, access_token_file=token_file(tmp_path))
    assert found.urls(8443) == ("https://localhost:8443",)
    assert "*.clinic.example" not in found.names
    assert found.fingerprint == ""
    with serving(FakeEngine(), entrance=entrance(tmp_path, "127.0.0.1", tls_cert=chain_file, tls_key=key_file)) as it:
        response = it.http.get("/health")
        assert response.headers["strict-transport-security"].startswith("max-age=")


def test_own_certificate_of_another_machine_is_said(tmp_path: Path) -> None:
    chain_file, key_file = write_own(tmp_path, names=())
    found = entrance(tmp_path, tls_cert=chain_file, tls_key=key_file)
    assert found.urls(1) == (f"https://{FOREIGN}:1",)
    assert any("browsers warn" in words for words in found.first_words())
    chain_file, key_file = write_own(tmp_path, names=("clinic.example",))
    found = entrance(tmp_path, tls_cert=chain_file, tls_key=key_file)
    assert found.urls(1) == ("https://clinic.example:1",)
    assert not any("browsers warn" in words for words in found.first_words())


def test_self_signed_server_sends_no_hsts(tmp_path: Path) -> None:
    with serving(FakeEngine(), entrance=entrance(tmp_path)) as server:
        assert "strict-transport-security" not in server.http.get("/health").headers


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:443", "clinic-laptop.evil.example", "192.168.1.6", "localhost", "[::1]", ""]
)
def test_name_of_another_site_pointed_at_this_machine_is_refused(tmp_path: Path, host: str) -> None:
    found = entrance(tmp_path, access_token_file=token_file(tmp_path))
    with serving(FakeEngine(), entrance=found) as server:
        response = server.http.get("/v1/models", headers={"Host": host, **bearer(TOKEN)})
        assert (response.status_code, response.json()["error"]["code"]) == (403, "host_refused")


@pytest.mark.parametrize("host", [FOREIGN, f"{FOREIGN}:1", "clinic-laptop", "CLINIC-LAPTOP.local:8080", "in.clinic"])
def test_own_address_and_names_are_accepted(tmp_path: Path, host: str) -> None:
    found = entrance(tmp_path, access_token_file=token_file(tmp_path), names=("in.clinic",))
    with serving(FakeEngine(), entrance=found) as server:
        assert server.http.get("/v1/models", headers={"Host": host, **bearer(TOKEN)}).status_code == 200


def test_wildcard_answers_under_the_address_a_connection_came_to_even_a_new_one(tmp_path: Path) -> None:
    found = entrance(tmp_path, "0.0.0.0", access_token_file=token_file(tmp_path), insecure_lan=True)
    options = ServeOptions(model_name="fake")
    assert "127.0.0.9" not in entrance_module.let_in(found, options).allowed_hosts
    import httpx

    with serving(FakeEngine(), entrance=found) as server:
        port = server.url.rpartition(":")[2]
        with httpx.Client(base_url=f"http://127.0.0.9:{port}", trust_env=False, headers=bearer(TOKEN)) as client:
            assert client.get("/v1/models").status_code == 200
            assert client.get("/v1/models", headers={"Host": "127.0.0.8"}).status_code == 403


def test_addresses_are_of_real_devices_first_and_names_can_stand_in_a_certificate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from types import SimpleNamespace as Some

    import psutil

    inet = addresses.socket.AF_INET
    found = {
        "docker0": ["172.17.0.1"],
        "lo": ["127.0.0.1"],
        "wlan0": ["192.168.1.5"],
        "eth1": ["169.254.3.3"],
        "eth0": ["10.0.0.7"],
    }
    listed = {name: [Some(family=inet, address=each) for each in each_of] for name, each_of in found.items()}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: listed)
    monkeypatch.setattr(psutil, "net_if_stats", lambda: {name: Some(isup=name != "eth0") for name in found})
    assert own_addresses() == ("192.168.1.5", "172.17.0.1")
    monkeypatch.setattr(addresses.socket, "gethostname", lambda: "Clinic-Laptop.fritz.box")
    assert own_names() == ("clinic-laptop", "clinic-laptop.local")
    for bad in ("localhost", "my_laptop", "büro", "-x", ""):
        monkeypatch.setattr(addresses.socket, "gethostname", lambda bad=bad: bad)
        assert own_names() == ()


@pytest.mark.parametrize(
    ("given", "plain"),
    [("::ffff:10.0.0.1", "10.0.0.1"), ("fe80::1%eth0", "fe80::1"), ("2001:DB8:0::5", "2001:db8::5"), ("x", "x")],
)
def test_one_address_has_one_form(given: str, plain: str) -> None:
    assert plain_address(given) == plain
