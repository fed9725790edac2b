"""Who has signed in on the page: a random credential in a cookie stands for the token, which no browser keeps.

They live in memory: whoever restarts the server, or changes the token, signs everybody out.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

LIFETIME_S = 12 * 3600
"""A shift. By the wall clock: a laptop's other clock stands still while it sleeps."""
MOST_SIGN_INS = 256


class SignIns:
    """Credentials that were given, by their hash; the oldest goes first. Lives on the event loop."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._ends: OrderedDict[bytes, float] = OrderedDict()

    def begin(self) -> str:
        """A new credential of 256 random bits, safe in a cookie."""
        credential = secrets.token_urlsafe(32)
        self._ends[_hash(credential)] = self._clock() + LIFETIME_S
        if len(self._ends) > MOST_SIGN_INS:
            self._ends.popitem(last=False)
        return credential

    def knows(self, credential: str) -> bool:
        """Whether it was given and has not ended. Compared by hash: the time taken tells nothing of it."""
        key = _hash(credential)
        end = self._ends.get(key)
        if end is None:
            return False
        if self._clock() >= end:
            del self._ends[key]
            return False
        return True

    def end(self, credential: str) -> None:
        """Sign out."""
        self._ends.pop(_hash(credential), None)

    def __len__(self) -> int:
        return len(self._ends)


def _hash(credential: str) -> bytes:
    return hashlib.sha256(credential.encode("utf-8", "surrogateescape")).digest()
