"""The access token: made at a first start, kept in a file of its owner's alone.

It is typed on a phone: small letters and digits without those that look alike (0 and o, 1, l and i), in groups of 5.
"""

from __future__ import annotations

import os
import secrets
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from edgemed.core.errors import UsageError
from edgemed.core.files import whole_file

TOKEN_FILE = "access-token"
SHORTEST_TOKEN = 20
"""Characters of a token that somebody chose."""

_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
_GROUPS, _GROUP = 7, 5  # 35 of 31 characters: 173 bits
_LONGEST_FILE = 4096


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token and where it lies."""

    path: Path
    value: str = field(repr=False)
    made: bool
    """Just now: the one time that it is shown."""


def read_token(path: Path) -> AccessToken:
    """The token in a file's first line. Raises UsageError when it cannot be read, is short, or open to others."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            text = file.read(_LONGEST_FILE).decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "it holds other characters than plain ASCII"
        raise UsageError(
            f"The access token file {path} cannot be read: {said}.",
            next_step="leave --access-token-file out to have one made, or name a file with a token in its first line",
        ) from error
    if os.name == "posix" and mode & 0o077:
        raise UsageError(
            f"Other users of this machine may read or change the access token file {path} (its mode is {mode:o}).",
            next_step=f"chmod 600 {shlex.quote(str(path))} (on a disk without access rights, such as a USB stick's: "
            "name a file on another one with --access-token-file)",
        )
    value = text.split("\n", 1)[0].strip()
    if len(value) < SHORTEST_TOKEN or not value.isprintable() or " " in value:
        raise UsageError(
            f"The access token in {path} has {len(value)} characters, or holds blanks; {SHORTEST_TOKEN} characters "
            "without blanks are the least.",
            next_step=f"remove {path}, and edgemed makes a good one in the data folder",
        )
    return AccessToken(path, value, made=False)


def made_or_read_token(folder: Path) -> AccessToken:
    """The token of a data folder, made when there is none. Raises UsageError as `read_token`, and for a full disk."""
    path = folder / TOKEN_FILE
    if path.exists():
        return read_token(path)
    groups = ("".join(secrets.choice(_ALPHABET) for _ in range(_GROUP)) for _ in range(_GROUPS))
    with whole_file(path, mode=0o600) as part:
        part.write_text("-".join(groups) + "\n", encoding="ascii")
    found = read_token(path)  # what lies there now counts: another server may have begun at the same moment
    return AccessToken(found.path, found.value, made=True)
