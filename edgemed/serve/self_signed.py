"""The certificate that edgemed makes itself: nobody vouches for it, its fingerprint is compared once on each phone.

It is no authority (CA:FALSE): a phone that trusts it trusts this one server, and a stolen laptop cannot pose as others.
Key and certificate lie in one file, so that no power cut leaves one without the other.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from pathlib import Path
from typing import TYPE_CHECKING

from edgemed.core.files import whole_file
from edgemed.serve.certificate import Certificate, fingerprint_of, names_of, now_utc, public_bytes

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import GeneralName

CERTIFICATE_FILE = "tls-certificate.pem"
DAYS = 800
"""Apple's devices refuse certificates of more than 825 days; one of them is before the start, for slow clocks."""

_RENEWED_BEFORE = datetime.timedelta(days=30)
_MOST_NAMES = 32


def self_signed_certificate(folder: Path, names: tuple[str, ...]) -> Certificate:
    """The one of a data folder: made at the first start, again when it ends soon or `names` has new ones.

    Addresses that it had stay in it, so that a laptop between two networks has one fingerprint, not a new one each day.
    Raises EdgemedError when it cannot be written.
    """
    path = folder / CERTIFICATE_FILE
    if not path.exists():
        return _certificate(path, _made(path, names), "The certificate was made just now.")
    old = _read(path)
    why = "its file was damaged, or open to other users" if old is None else _why_again(old, names)
    if old is not None and not why:
        return _certificate(path, old, "")
    known = names if old is None else tuple(dict.fromkeys((*names, *names_of(old))))[:_MOST_NAMES]
    before = f" It was {fingerprint_of(old)}." if old is not None else ""
    note = f"The certificate was made anew, because {why}. Its fingerprint has changed: every phone asks again.{before}"
    return _certificate(path, _made(path, known), note)


def _certificate(path: Path, leaf: x509.Certificate, note: str) -> Certificate:
    return Certificate(path, path, fingerprint_of(leaf), names_of(leaf), self_signed=True, note=note)


def _read(path: Path) -> x509.Certificate | None:
    """None for a file that is not a certificate with its key, or that others could read."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        content = path.read_bytes()
        leaf = x509.load_pem_x509_certificate(content)
        key = load_pem_private_key(content, password=None)
        opened = os.name == "posix" and path.stat().st_mode & 0o077
    except (OSError, ValueError, TypeError):
        return None
    return None if opened or public_bytes(leaf.public_key()) != public_bytes(key.public_key()) else leaf


def _why_again(old: x509.Certificate, names: tuple[str, ...]) -> str:
    """Nothing when it still serves."""
    now = now_utc()
    if now >= old.not_valid_after_utc - _RENEWED_BEFORE:
        return f"it ended, or would soon: on {old.not_valid_after_utc:%d %B %Y}"
    if now < old.not_valid_before_utc:
        return "this computer's clock went back to before it was made"
    new = [name for name in names if name not in names_of(old)]
    return f"this computer has new names or addresses: {', '.join(new)}" if new else ""


def _made(path: Path, names: tuple[str, ...]) -> x509.Certificate:
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = generate_private_key(SECP256R1())
    leaf = _signed(key, names)
    with whole_file(path, mode=0o600) as part:
        part.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + leaf.public_bytes(Encoding.PEM)
        )
    return leaf


def _signed(key: EllipticCurvePrivateKey, names: tuple[str, ...]) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edgemed, made on this computer")])
    begins = now_utc() - datetime.timedelta(days=1)
    usage = dict.fromkeys(_KEY_USES, False) | {"digital_signature": True}
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + datetime.timedelta(days=DAYS))
        .add_extension(x509.SubjectAlternativeName([_general_name(each) for each in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, SHA256())
    )


_KEY_USES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def _general_name(name: str) -> GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
