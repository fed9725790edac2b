"""The certificate that is made here, when it is made anew, and what is refused of the clinic's own."""

from __future__ import annotations

import datetime
import ssl
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from own_certificates import DAY, now, write_own

from edgemed.core.errors import UsageError
from edgemed.serve import certificate, self_signed
from edgemed.serve.certificate import own_certificate, tls_context
from edgemed.serve.self_signed import CERTIFICATE_FILE, self_signed_certificate

NAMES = ("192.168.1.5", "clinic-laptop", "2001:db8::5")


def at(monkeypatch: pytest.MonkeyPatch, time: datetime.datetime) -> None:
    """Set this machine's clock."""
    for module in (certificate, self_signed):
        monkeypatch.setattr(module, "now_utc", lambda: time)


def leaf_of(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / CERTIFICATE_FILE).read_bytes())


def test_made_certificate_is_what_phones_take(tmp_path: Path) -> None:
    made = self_signed_certificate(tmp_path, NAMES)
    leaf = leaf_of(tmp_path)
    assert set(made.names) == set(NAMES)
    assert isinstance(leaf.public_key(), ec.EllipticCurvePublicKey)
    assert isinstance(leaf.public_key().curve, ec.SECP256R1)  # type: ignore[union-attr]
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc <= 825 * DAY
    assert leaf.not_valid_before_utc < now() < leaf.not_valid_after_utc
    constraints = leaf.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca) == (True, False)
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x509.ExtendedKeyUsageOID.SERVER_AUTH]
    assert made.fingerprint == leaf.fingerprint(hashes.SHA256()).hex(":").upper()
    leaf.verify_directly_issued_by(leaf)


@pytest.mark.skipif(sys.platform == "win32", reason="access rights of POSIX")
def test_made_key_is_its_owners_alone(tmp_path: Path) -> None:
    self_signed_certificate(tmp_path, NAMES)
    assert (tmp_path / CERTIFICATE_FILE).stat().st_mode & 0o777 == 0o600


def test_second_start_keeps_the_fingerprint_and_says_nothing(tmp_path: Path) -> None:
    first = self_signed_certificate(tmp_path, NAMES)
    again = self_signed_certificate(tmp_path, NAMES[:1])
    assert again.fingerprint == first.fingerprint
    assert (bool(first.note), again.note) == (True, "")


def test_new_address_makes_it_anew_and_the_old_fingerprint_is_said(tmp_path: Path) -> None:
    first = self_signed_certificate(tmp_path, ("192.168.1.5",))
    moved = self_signed_certificate(tmp_path, ("10.0.0.7",))
    assert moved.fingerprint != first.fingerprint
    assert first.fingerprint in moved.note
    assert "10.0.0.7" in moved.note
    back = self_signed_certificate(tmp_path, ("192.168.1.5",))
    assert (back.fingerprint, back.note) == (moved.fingerprint, "")


@pytest.mark.parametrize(("days", "anew"), [(0, False), (760, False), (775, True), (2000, True), (-3, True)])
def test_it_is_made_anew_near_its_end_and_when_the_clock_went_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int, anew: bool
) -> None:
    first = self_signed_certificate(tmp_path, NAMES)
    at(monkeypatch, now() + days * DAY)
    later = self_signed_certificate(tmp_path, NAMES)
    assert (later.fingerprint != first.fingerprint) is anew
    assert (first.fingerprint in later.note) is anew


@pytest.mark.parametrize("harm", ["cut", "no key", "other key", "open"])
def test_damaged_or_open_file_is_not_served(tmp_path: Path, harm: str) -> None:
    first = self_signed_certificate(tmp_path, NAMES)
    path = tmp_path / CERTIFICATE_FILE
    content = path.read_bytes()
    if harm == "open":
        path.chmod(0o644)
    elif harm == "other key":
        (tmp_path / "other").mkdir()
        self_signed_certificate(tmp_path / "other", NAMES)
        other = (tmp_path / "other" / CERTIFICATE_FILE).read_bytes()
        path.write_bytes(other[: other.index(b"-----BEGIN CERT")] + content[content.index(b"-----BEGIN CERT") :])
    else:
        path.write_bytes(content[:100] if harm == "cut" else content[content.index(b"-----BEGIN CERT") :])
    again = self_signed_certificate(tmp_path, NAMES)
    assert again.fingerprint != first.fingerprint
    assert "damaged" in again.note
    tls_context(again)


def test_hundred_networks_do_not_make_it_longer_and_longer(tmp_path: Path) -> None:
    for number in range(40):
        found = self_signed_certificate(tmp_path, (f"10.0.0.{number}",))
    assert len(found.names) == 32
    assert found.names[0] == "10.0.0.39"


def test_own_certificate_is_taken_as_it_is(tmp_path: Path) -> None:
    own = own_certificate(*write_own(tmp_path))
    assert (own.names, own.self_signed, own.note) == (("clinic.example",), False, "")
    assert tls_context(own).minimum_version is ssl.TLSVersion.TLSv1_2


def test_own_certificate_that_ends_soon_is_said(tmp_path: Path) -> None:
    assert "ends in" in own_certificate(*write_own(tmp_path, days=20)).note


@pytest.mark.skipif(sys.platform == "win32", reason="access rights of POSIX")
def test_all_faults_of_an_own_certificate_are_said_together(tmp_path: Path) -> None:
    chain_file, _ = write_own(tmp_path, begins=now() - 400 * DAY)
    (tmp_path / "other").mkdir()
    _, other_key = write_own(tmp_path / "other")
    other_key.chmod(0o644)
    with pytest.raises(UsageError) as caught:
        own_certificate(chain_file, other_key)
    for fault in ("ended on", "is not the key of", "other users", f"chmod 600 {other_key}"):
        assert fault in caught.value.what


@pytest.mark.parametrize(
    ("wish", "fault"), [({"begins": now() + 5 * DAY}, "begins on"), ({"passphrase": b"secret"}, "passphrase")]
)
def test_own_certificate_of_no_use_is_refused(tmp_path: Path, wish: dict[str, object], fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        own_certificate(*write_own(tmp_path, **wish))  # type: ignore[arg-type]


def test_files_that_are_missing_or_of_another_kind_are_refused_together(tmp_path: Path) -> None:
    chain_file, key_file = write_own(tmp_path)
    with pytest.raises(UsageError, match=r"no certificate in PEM form.*no private key in PEM form"):
        own_certificate(key_file, chain_file)
    with pytest.raises(UsageError, match=r"none\.crt cannot be read.*none\.key cannot be read"):
        own_certificate(tmp_path / "none.crt", tmp_path / "none.key")


def test_key_that_is_too_short_is_refused_with_a_better_one(tmp_path: Path) -> None:
    own = own_certificate(*write_own(tmp_path, bits=1024))
    with pytest.raises(UsageError, match="cannot be used for TLS") as caught:
        tls_context(own)
    assert "2048" in caught.value.next_step
