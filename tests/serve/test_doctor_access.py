"""`edgemed doctor` on who may come in: token and certificate, and a server that asks for them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from network import FOREIGN, entrance, token_file
from serving import serving

from edgemed.engines.fake import FakeEngine
from edgemed.serve import certificate
from edgemed.serve.access_token import TOKEN_FILE, made_or_read_token
from edgemed.serve.doctor import service
from edgemed.serve.doctor.access import check_access
from edgemed.serve.doctor.record import Place
from edgemed.serve.doctor.service import check_server
from edgemed.serve.self_signed import CERTIFICATE_FILE, self_signed_certificate

posix = pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(folder=tmp_path, project=tmp_path, port=0)


def settings(place: Place, text: str) -> None:
    (place.project / "edgemed.toml").write_text(f"[serve]\n{text}\n")


def levels(place: Place) -> list[str]:
    return [finding.level for finding in check_access(place)]


def test_a_server_for_this_machine_alone_needs_nothing(place: Place) -> None:
    assert levels(place) == ["ok"]
    settings(place, 'host = "0.0.0.0"')
    assert levels(place) == ["ok"]
    assert not [path for path in place.folder.iterdir() if path.name != "edgemed.toml"], "something was made"


@posix
def test_a_token_that_others_may_read_is_a_fault_with_the_command(place: Place) -> None:
    made_or_read_token(place.folder)
    assert levels(place) == ["ok"]
    (place.folder / TOKEN_FILE).chmod(0o644)
    (finding,) = check_access(place)
    assert (finding.level, finding.next_step[:9]) == ("fault", "chmod 600")
    settings(place, 'access_token_file = "/nowhere"')
    assert levels(place) == ["fault"]


def test_a_certificate_made_here_is_looked_at_and_not_made_anew(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    made = self_signed_certificate(place.folder, ("clinic.local",))
    (finding,) = check_access(place)
    assert finding.level == "ok"
    assert made.fingerprint[:23] in finding.what
    later = certificate.now_utc() + certificate._DAY * 790
    monkeypatch.setattr(certificate, "now_utc", lambda: later)
    (finding,) = check_access(place)
    assert (finding.level, "ends in" in finding.what) == ("warn", True)
    later += certificate._DAY * 30
    (finding,) = check_access(place)
    assert (finding.level, "ended on" in finding.what) == ("warn", True)
    before = (place.folder / CERTIFICATE_FILE).read_bytes()
    (place.folder / CERTIFICATE_FILE).write_bytes(b"damaged")
    assert levels(place) == ["warn"]
    assert before != b"damaged"


def test_the_clinics_own_certificate_must_be_whole(place: Place) -> None:
    made = self_signed_certificate(place.folder, ("clinic.local",))
    settings(place, f'tls_cert = "{made.chain_file}"\ntls_key = "{made.key_file}"')
    assert levels(place) == ["ok"]
    settings(place, f'tls_cert = "{made.chain_file}"')
    assert levels(place) == ["fault"]
    settings(place, f'tls_cert = "{made.chain_file}"\ntls_key = "/nowhere"')
    assert levels(place) == ["fault"]


def test_a_network_without_encryption_is_said_aloud(place: Place) -> None:
    settings(place, "insecure_lan = true")
    (finding,) = check_access(place)
    assert (finding.level, "without encryption" in finding.what) == ("warn", True)


def test_an_address_that_this_machine_has_not_is_a_fault(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "own_addresses", lambda: ("192.0.2.7",))
    settings(place, 'host = "192.0.2.9"')
    (finding,) = check_server(place)
    assert (finding.level, "192.0.2.9" in finding.what) == ("fault", True)
    settings(place, 'host = "clinic"')
    assert [finding.level for finding in check_server(place)] == ["fault"]


def test_a_server_that_asks_for_a_token_says_how_it_is_without_one(place: Place) -> None:
    with serving(FakeEngine(), access_token="abcde-fghjk-mnpqr-stuvw") as server:
        here = Place(folder=place.folder, project=place.project, port=int(server.url.rpartition(":")[2]))
        (finding,) = check_server(here)
        assert (finding.level, finding.what) == ("ok", f"one runs on port {here.port} and answers")
        server.engine.lose_worker()
        (finding,) = check_server(here)
        assert (finding.level, "answers no question" in finding.what) == ("fault", True)


def test_a_server_behind_tls_is_asked_as_well(place: Place) -> None:
    with serving(FakeEngine(), entrance=entrance(place.folder, access_token_file=token_file(place.folder))) as server:
        port = int(server.url.rpartition(":")[2])
        settings(place, f'host = "{FOREIGN}"\naccess_token_file = "{token_file(place.folder)}"')
        (finding,) = check_server(Place(folder=place.folder, project=place.project, port=port))
    assert (finding.level, finding.what) == ("ok", f"one runs on port {port} and answers")
