"""The secret of the disk cache and what is made of it: an index nobody can guess and sealed entries.

A secret is either 32 random bytes in the system's own key store (the optional package `keyring`), or a passphrase
from a file, stretched by scrypt. Without either there is no disk level.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import Field

from edgemed.core.errors import UsageError
from edgemed.core.records import Record
from edgemed.serve.cache_entry import DamagedEntry

KEYRING_SERVICE = "edgemed"
KEYRING_NAME = "answer cache"
SHORTEST_PASSPHRASE = 12
"""Characters."""

_NONCE_BYTES = 12


class SecretMaking(Record):
    """How the sealing keys are made of the secret; stored in the cache file in the clear. It holds no secret."""

    source: Literal["keyring", "passphrase"]
    salt: str = Field(pattern=r"^[0-9a-f]{32}$")
    """16 random bytes."""
    # scrypt, one of the settings of equal strength that OWASP's Password Storage Cheat Sheet names: 32 MiB, three times
    n: int = Field(default=2**15, ge=2**14, le=2**17)
    r: int = Field(default=8, ge=8, le=8)
    p: int = Field(default=3, ge=1, le=4)


@dataclass(frozen=True, slots=True)
class Secret:
    """The secret itself; never printed."""

    source: Literal["keyring", "passphrase"]
    value: bytes = field(repr=False)


class KeyStore(Protocol):
    """The two functions of `keyring` that are used."""

    def get_password(self, service_name: str, username: str, /) -> str | None: ...

    def set_password(self, service_name: str, username: str, password: str, /) -> None: ...


def passphrase_secret(path: Path) -> Secret:
    """The passphrase in a file's first line. Raises UsageError when it cannot be read, is short, or open to others."""
    try:
        text = path.read_text(encoding="utf-8")
        mode = path.stat().st_mode & 0o777
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"The passphrase file {path} of the answer cache cannot be read: {error}.",
            next_step="set EDGEMED_CACHE_PASSPHRASE_FILE to a readable file, or unset it",
        ) from error
    if os.name == "posix" and mode & 0o077:
        raise UsageError(
            f"Other users of this machine may read or change the passphrase file {path} (its mode is {mode:o}).",
            next_step=f"chmod 600 {shlex.quote(str(path))}",
        )
    line = text.split("\n", 1)[0].strip()
    if len(line) < SHORTEST_PASSPHRASE:
        raise UsageError(
            f"The passphrase in {path} has {len(line)} characters; {SHORTEST_PASSPHRASE} is the least.",
            next_step="write several words into its first line",
        )
    return Secret("passphrase", line.encode())


def keyring_secret(store: KeyStore | None = None) -> Secret | None:
    """The secret in the system's key store, made on first use; None where there is no such store, or it is locked.

    `store` defaults to the package `keyring`, if it is installed and finds a real store.
    """
    store = store or _system_store()
    if store is None:
        return None
    try:
        text = store.get_password(KEYRING_SERVICE, KEYRING_NAME)
        if text is None:
            store.set_password(KEYRING_SERVICE, KEYRING_NAME, os.urandom(32).hex())
            text = store.get_password(KEYRING_SERVICE, KEYRING_NAME)  # what another server may have put there first
        value = bytes.fromhex(text or "")
    except Exception:  # each store raises errors of its own: locked, no bus, refused by the user
        return None
    return Secret("keyring", value) if len(value) == 32 else None


def keyring_answers(store: KeyStore | None = None) -> bool:
    """Whether there is a key store, unlocked, that would give a secret. Makes none."""
    store = store or _system_store()
    if store is None:
        return False
    try:
        store.get_password(KEYRING_SERVICE, KEYRING_NAME)
    except Exception:  # as in keyring_secret
        return False
    return True


def _system_store() -> Any:
    try:
        import keyring
        from keyring.backends import fail, null
    except ImportError:
        return None
    found = keyring.get_keyring()
    return None if isinstance(found, fail.Keyring | null.Keyring) else found


class Sealer:
    """The keys of one cache file: HMAC-SHA256 for the index, ChaCha20-Poly1305 for everything else."""

    def __init__(self, secret: Secret, making: SecretMaking) -> None:
        """Takes about 0.3 s and 32 MiB for a passphrase, nothing to speak of for a secret of the key store."""
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        salt = bytes.fromhex(making.salt)
        master = secret.value
        if making.source == "passphrase":
            memory = 128 * making.r * (making.n + making.p + 2)
            master = hashlib.scrypt(
                secret.value, salt=salt, n=making.n, r=making.r, p=making.p, dklen=32, maxmem=2 * memory
            )
        keys = HKDF(SHA256(), length=64, salt=salt, info=b"edgemed answer cache 1").derive(master)
        self._index_key = keys[:32]
        self._cipher = ChaCha20Poly1305(keys[32:])

    def index(self, *parts: str) -> bytes:
        """32 bytes that stand for these texts and tell nothing of them without the key."""
        encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
        joined = b"".join(len(data).to_bytes(4, "little") + data for data in encoded)
        return hmac.digest(self._index_key, joined, "sha256")

    def seal(self, data: bytes, place: bytes) -> bytes:
        """Nonce and ciphertext, which opens only at the same `place`."""
        # 96 random bits: far below the 2**32 messages of one key that would make a repeat thinkable
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, data, place)

    def open(self, sealed: bytes, place: bytes) -> bytes:
        """What was sealed for this place. Raises DamagedEntry for anything else."""
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place)
        except (InvalidTag, ValueError) as error:
            raise DamagedEntry("An entry of the answer cache is damaged.") from error


def new_making(source: Literal["keyring", "passphrase"]) -> SecretMaking:
    """How the keys of a new file are made: with a salt of its own."""
    return SecretMaking(source=source, salt=os.urandom(16).hex())
