"""How one may come in to this server: address, access token, TLS; settled, and every fault said, before a model loads.

On a loopback address nothing is asked: whoever sits at this machine may. On any other one a token and TLS are
required, because everybody on the Wi-Fi can knock there, and can listen.
"""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from edgemed.core.errors import UsageError
from edgemed.core.offline import is_loopback
from edgemed.core.settings import ServeSettings
from edgemed.serve.access_token import TOKEN_FILE, AccessToken, made_or_read_token, read_token
from edgemed.serve.addresses import WILDCARDS, address_of, is_dns_name, own_addresses, own_names, url
from edgemed.serve.certificate import Certificate, own_certificate, tls_context
from edgemed.serve.connection import ConnectionLimits, Connections
from edgemed.serve.options import LOOPBACK_NAMES, ServeOptions
from edgemed.serve.self_signed import self_signed_certificate
from edgemed.serve.turnstile import Shares

_T = TypeVar("_T")

INSECURE = (
    "This server is open to the network without encryption (--insecure-lan): everybody on the same network can read "
    "what is asked about patients, the answers, and the access token."
)


@dataclass(frozen=True, slots=True)
class Entrance:
    """What was settled."""

    host: str
    """The address to listen on."""
    network: bool
    """Other machines can reach it."""
    token: AccessToken | None
    """None where none is asked for."""
    certificate: Certificate | None
    """None without TLS."""
    addresses: tuple[str, ...]
    """Where to open it, the likeliest first: addresses, and names of the clinic's own certificate."""
    names: tuple[str, ...]
    """For the Host header, beside the address that a connection came to."""

    @property
    def warning(self) -> str:
        """Empty unless patients' words cross the network in the clear."""
        return INSECURE if self.network and self.certificate is None else ""

    def urls(self, port: int) -> tuple[str, ...]:
        """What to open in a browser, the likeliest first; never empty."""
        scheme = "https" if self.certificate else "http"
        return tuple(url(scheme, address, port) for address in self.addresses)

    @property
    def fingerprint(self) -> str:
        """Of the certificate that was made here; "" without one."""
        return self.certificate.fingerprint if self.certificate is not None and self.certificate.self_signed else ""

    def first_words(self) -> tuple[str, ...]:
        """What whoever starts the server must know, to be said at once: the only time that a new token is shown."""
        words = [f"Warning: {self.warning}"] if self.warning else []
        if self.token is not None:
            place = f"it lies in {self.token.path}; to see it: cat {shlex.quote(str(self.token.path))}"
            words.append(
                f"Access token, shown this once: {self.token.value}\n  {place[0].upper()}{place[1:]}"
                if self.token.made
                else f"This server asks for its access token; {place}"
            )
        if self.certificate is not None and self.certificate.note:
            words.append(self.certificate.note)
        return tuple(words)

    def last_words(self, port: int) -> tuple[str, ...]:
        """What a person with a phone needs, to be said when it is ready."""
        words = []
        if self.network:
            words.append("Open on a phone or another computer: " + ", ".join(self.urls(port)))
        if self.certificate is not None and self.certificate.self_signed:
            words.append(
                f"Fingerprint of the certificate (SHA-256): {self.certificate.fingerprint}\n"
                "  The browser warns once, because nobody vouches for it. Before you go on, open the certificate's "
                "details there and compare: all of it, or at least the first and the last 8 pairs."
            )
        return tuple(words)


def open_entrance(wishes: ServeSettings, folder: Path, *, is_loopback: Callable[[str], bool] = is_loopback) -> Entrance:
    """The entrance that was wished for; token and certificate are made in the data folder when there are none.

    Raises UsageError with every fault together, before anything is made. `is_loopback` tells which addresses are this
    machine's alone.
    """
    faults: list[UsageError] = []
    host = _tried(lambda: address_of(wishes.host), faults) or ""
    network = not is_loopback(host)
    _check_wishes(wishes, faults)
    own = token = None
    if wishes.access_token_file is not None:
        token = _tried(lambda: read_token(wishes.access_token_file or Path()), faults)
    elif network and (folder / TOKEN_FILE).exists():
        token = _tried(lambda: made_or_read_token(folder), faults)
    if wishes.tls_cert is not None and wishes.tls_key is not None:
        own = _tried(lambda: _usable(own_certificate(wishes.tls_cert or Path(), wishes.tls_key or Path())), faults)
    if faults:
        raise _together(faults)
    if network and token is None:
        token = made_or_read_token(folder)
    return _settled(wishes, folder, host, network, token, own)


def let_in(entrance: Entrance, options: ServeOptions) -> ServeOptions:
    """The options of a server behind that entrance."""
    certificate = entrance.certificate
    return replace(
        options,
        allowed_hosts=entrance.names,
        access_token=entrance.token.value if entrance.token else "",
        shares=Shares() if entrance.network else None,
        network_warning=entrance.warning,
        hsts=certificate is not None and not certificate.self_signed,
    )


def connections_of(entrance: Entrance) -> Connections:
    """The connections of such a server. Raises UsageError when OpenSSL refuses the certificate."""
    tls = tls_context(entrance.certificate) if entrance.certificate else None
    return Connections(tls, ConnectionLimits() if entrance.network else None)


def _settled(
    wishes: ServeSettings, folder: Path, host: str, network: bool, token: AccessToken | None, own: Certificate | None
) -> Entrance:
    anywhere = host in WILDCARDS
    addresses = (own_addresses() or ("127.0.0.1",)) if anywhere else (host,)
    names = tuple(dict.fromkeys((*map(str.lower, wishes.names), *(own_names() if network else ()))))
    certificate = own
    if network and own is None and not wishes.insecure_lan:
        local = ("localhost", "127.0.0.1") if anywhere else ()
        certificate = self_signed_certificate(folder, (*addresses, *names, *local))
    if own is not None:
        named = tuple(name for name in own.names if not name.startswith("*"))
        names = tuple(dict.fromkeys((*names, *named)))
        usable = tuple(name for name in named if name in addresses or not _is_address(name))
        addresses = usable or addresses
        if not usable and not own.note:
            said = (
                f"The certificate names {', '.join(own.names) or 'nothing'}, not {', '.join(addresses)}: browsers warn."
            )
            certificate = replace(own, note=said)
    hosts = (*names, *(LOOPBACK_NAMES if anywhere or not network else ()))
    return Entrance(host, network, token, certificate, addresses, hosts)


def _check_wishes(wishes: ServeSettings, faults: list[UsageError]) -> None:
    if (wishes.tls_cert is None) != (wishes.tls_key is None):
        faults.append(UsageError("--tls-cert and --tls-key go together.", next_step="name both, or neither"))
    if wishes.insecure_lan and (wishes.tls_cert or wishes.tls_key):
        faults.append(
            UsageError("--insecure-lan and a certificate exclude each other.", next_step="leave one of them out")
        )
    for name in wishes.names:
        if not is_dns_name(name.lower()):
            faults.append(
                UsageError(f"{name!r} in [serve] names is no name.", next_step='write it like "clinic.example"')
            )


def _is_address(name: str) -> bool:
    """Not so for a DNS name; the numbers of an address would pass for one."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _usable(certificate: Certificate) -> Certificate:
    tls_context(certificate)
    return certificate


def _tried(do: Callable[[], _T], faults: list[UsageError]) -> _T | None:
    try:
        return do()
    except UsageError as error:
        faults.append(error)
        return None


def _together(faults: list[UsageError]) -> UsageError:
    if len(faults) == 1:
        return faults[0]
    return UsageError(
        " ".join(fault.what for fault in faults), next_step="; ".join(fault.next_step for fault in faults)
    )
