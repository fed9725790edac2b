"""The certificate that a server shows on the network: the clinic's own, checked, and the context it is used in."""

from __future__ import annotations

import datetime
import os
import shlex
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgemed.core.errors import UsageError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that can be served."""

    chain_file: Path
    key_file: Path
    fingerprint: str
    """SHA-256 of the certificate itself, as browsers show it: "AB:CD:..."."""
    names: tuple[str, ...]
    """DNS names and addresses that it was made for."""
    self_signed: bool
    """Made here: a phone cannot check it, so its user compares the fingerprint."""
    note: str = ""
    """What whoever starts the server should know: that it was made just now, or ends soon."""


def now_utc() -> datetime.datetime:
    """The wall clock; tests put another one in its place."""
    return datetime.datetime.now(datetime.UTC)


def own_certificate(chain_file: Path, key_file: Path) -> Certificate:
    """The clinic's own. Raises UsageError with every fault of both files together."""
    faults: list[str] = []
    leaf = _leaf(chain_file, faults)
    key = _key(key_file, faults)
    now = now_utc()
    if leaf is not None:
        if leaf.not_valid_after_utc <= now:
            faults.append(f"{chain_file} ended on {leaf.not_valid_after_utc:%d %B %Y}")
        if leaf.not_valid_before_utc > now:
            faults.append(
                f"{chain_file} begins on {leaf.not_valid_before_utc:%d %B %Y}, and this computer's clock says "
                f"{now:%d %B %Y}"
            )
        if key is not None and public_bytes(leaf.public_key()) != public_bytes(key.public_key()):
            faults.append(f"{key_file} is not the key of {chain_file}")
    if faults:
        raise UsageError("; ".join(faults) + ".", next_step="mend that, or leave --tls-cert and --tls-key out")
    assert leaf is not None
    left = leaf.not_valid_after_utc - now
    note = f"The certificate {chain_file} ends in {left.days} days." if left < 30 * _DAY else ""
    return Certificate(chain_file, key_file, fingerprint_of(leaf), names_of(leaf), self_signed=False, note=note)


def fingerprint_of(certificate: x509.Certificate) -> str:
    """SHA-256 in the form that browsers show."""
    from cryptography.hazmat.primitives.hashes import SHA256

    return certificate.fingerprint(SHA256()).hex(":").upper()


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The DNS names and addresses in its subjectAltName; clients look at nothing else."""
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    found = names.get_values_for_type(x509.DNSName)
    return (*(name.lower() for name in found), *map(str, names.get_values_for_type(x509.IPAddress)))


def public_bytes(key: object) -> bytes:
    """A public key in the one form in which two can be compared."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return bytes(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))  # type: ignore[attr-defined]


def tls_context(certificate: Certificate) -> ssl.SSLContext:
    """TLS 1.2 or newer, with forward secrecy. Raises UsageError when OpenSSL refuses the files."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")  # of TLS 1.2; those of 1.3 are all sound
    context.options |= ssl.OP_NO_RENEGOTIATION  # a client could make the server shake hands without end
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate.chain_file, certificate.key_file, password=lambda: b"")
    except (ssl.SSLError, OSError) as error:
        said = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise UsageError(
            f"{certificate.chain_file} cannot be used for TLS: {said}.",
            next_step="use an ECDSA P-256 key, or RSA with 2048 bits or more",
        ) from error
    return context


def _leaf(path: Path, faults: list[str]) -> x509.Certificate | None:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(path.read_bytes())[0]
    except OSError as error:
        faults.append(f"--tls-cert {path} cannot be read: {error.strerror}")
    except ValueError:
        faults.append(f"--tls-cert {path} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)")
    return None


def _key(path: Path, faults: list[str]) -> PrivateKeyTypes | None:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        mode = path.stat().st_mode & 0o777
        content = path.read_bytes()
    except OSError as error:
        faults.append(f"--tls-key {path} cannot be read: {error.strerror}")
        return None
    if os.name == "posix" and mode & 0o027:  # a group that may read is usual: Debian's ssl-cert
        faults.append(
            f"other users of this machine may read or change the key {path} (its mode is {mode:o}): "
            f"chmod 600 {shlex.quote(str(path))}"
        )
    try:
        return load_pem_private_key(content, password=None)
    except TypeError:
        faults.append(f"the key {path} has a passphrase, and nobody could type it at a start after a power cut")
    except (ValueError, UnsupportedAlgorithm):
        faults.append(f"--tls-key {path} holds no private key in PEM form")
    return None
