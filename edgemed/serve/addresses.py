"""The addresses and names under which this machine can be reached; nothing is looked up to find them."""

from __future__ import annotations

import ipaddress
import re
import socket

from edgemed.core.errors import UsageError

WILDCARDS = ("0.0.0.0", "::")

_DNS_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_MADE_UP = ("docker", "br-", "veth", "virbr", "vmnet", "vboxnet", "tun", "tap", "wg", "zt", "tailscale")
"""Beginnings of the names of network devices that no phone is on."""


def address_of(host: str) -> str:
    """The address that --host names, in its one form. Raises UsageError for a name or one that no browser can open."""
    if not host:
        raise UsageError("--host is empty.", next_step="leave --host out, or use --host 127.0.0.1")
    if host == "localhost":
        return "127.0.0.1"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise UsageError(
            f"--host {host} is no address; names are not looked up.", next_step=_try_one_of(own_addresses())
        ) from None
    if address.is_multicast or (address.version == 6 and address.is_link_local):
        raise UsageError(f"No browser can open {host}.", next_step=_try_one_of(own_addresses()))
    return str(address)


def own_addresses() -> tuple[str, ...]:
    """The IPv4 addresses that a phone may open, those of real network devices first.

    IPv6 is left out: many systems change such an address every day, and the certificate would change with it.
    """
    import psutil

    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    found = [
        (name.lower().startswith(_MADE_UP), each.address)
        for name, addresses in psutil.net_if_addrs().items()
        for each in addresses
        if each.family == socket.AF_INET and name in up
    ]
    usable = [pair for pair in found if not _is_of_no_use(pair[1])]
    return tuple(dict.fromkeys(address for _, address in sorted(usable, key=lambda pair: pair[0])))


def own_names() -> tuple[str, ...]:
    """What this machine calls itself, also in the form that phones find without a name server (mDNS)."""
    name = socket.gethostname().lower().partition(".")[0]
    return (name, f"{name}.local") if is_dns_name(name) and name != "localhost" else ()


def is_dns_name(name: str) -> bool:
    """Whether it can stand in a certificate and in a Host header."""
    return _DNS_NAME.fullmatch(name) is not None


def plain_address(host: str) -> str:
    """An address in its one form: an IPv4 one that came over an IPv6 socket, or with the name of a device, is plain."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def url(scheme: str, host: str, port: int) -> str:
    """What to type into a browser."""
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _is_of_no_use(text: str) -> bool:
    address = ipaddress.ip_address(text)
    return address.is_loopback or address.is_link_local or address.is_unspecified


def _try_one_of(addresses: tuple[str, ...]) -> str:
    return f"use --host 0.0.0.0, or this machine's address: {', '.join(addresses) or 'it has none now'}"
