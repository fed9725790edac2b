"""Who may come in to the server from other machines: its access token, its certificate, and how they are kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgemed.core.errors import UsageError
from edgemed.core.offline import is_loopback
from edgemed.core.settings import PROJECT_FILE, ServeSettings, project_settings
from edgemed.serve.access_token import TOKEN_FILE, read_token
from edgemed.serve.certificate import own_certificate
from edgemed.serve.doctor.record import Finding, Place, fault, ok, warn
from edgemed.serve.entrance import INSECURE
from edgemed.serve.self_signed import CERTIFICATE_FILE


def check_access(place: Place) -> Iterator[Finding]:
    """Token and certificate, those of the settings and those made here. Nothing is made."""
    settings = serve_settings(place)
    found = [*_token(place, settings), *_certificate(place, settings)]
    if settings.insecure_lan:
        found.append(warn("access", INSECURE, f"take insecure_lan out of {PROJECT_FILE}: edgemed makes a certificate"))
    if not found and is_loopback(settings.host):
        found = [ok("access", "this machine alone; token and certificate are made when it is served to a network")]
    yield from found or [ok("access", "token and certificate are made at the first start")]


def serve_settings(place: Place) -> ServeSettings:
    """The `[serve]` table; the defaults where the file is not understood, which another check says."""
    try:
        return project_settings(place.project).serve
    except UsageError:
        return ServeSettings()


def token_file(place: Place, settings: ServeSettings) -> Path | None:
    """Where the token is; None when there is none yet."""
    made = place.folder / TOKEN_FILE
    return settings.access_token_file or (made if made.exists() else None)


def _token(place: Place, settings: ServeSettings) -> Iterator[Finding]:
    path = token_file(place, settings)
    if path is None:
        return
    try:
        read_token(path)
    except UsageError as error:
        yield fault("access", error.what, error.next_step)
    else:
        yield ok("access", f"the access token in {path} is read by its owner alone")


def _certificate(place: Place, settings: ServeSettings) -> Iterator[Finding]:
    chain, key = settings.tls_cert, settings.tls_key
    if (chain is None) != (key is None):
        yield fault("access", "tls_cert and tls_key belong together, and one is missing.", f"mend it in {PROJECT_FILE}")
        return
    if chain is not None and key is not None:
        try:
            own = own_certificate(chain, key)
        except UsageError as error:
            yield fault("access", error.what, error.next_step)
            return
        if own.note:
            yield warn("access", own.note, "renew it; the server takes the new one at its next start")
        else:
            yield ok("access", f"the certificate {chain} can be used")
        return
    made = place.folder / CERTIFICATE_FILE
    if made.exists():
        yield _made_here(made)


def _made_here(path: Path) -> Finding:
    """The one that edgemed makes, and makes again by itself."""
    again = "nothing; the next start makes a new one, and every phone asks again whether it is right"
    try:
        own = own_certificate(path, path)
    except UsageError as error:
        return warn("access", error.what.replace("--tls-cert ", "").replace("--tls-key ", ""), again)
    if own.note:
        return warn("access", own.note, again)
    return ok("access", f"the certificate in {path} is sound (SHA-256 {own.fingerprint[:23]}...)")
