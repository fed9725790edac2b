"""How often one address may come: token buckets, and a delay that grows with each wrong token. Bounded memory.

Addresses are whole ones, IPv6 too: on a clinic's link every phone shares one /64, so a share for each /64 would let one
phone shut out the others. Who changes address at every try gains nothing: a token of 160 bits is not found by trying.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

MOST_ADDRESSES = 4096
"""Remembered at once; the one that has been silent longest is forgotten first."""

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Rate:
    """So many at once, and so many a second in the long run."""

    per_s: float
    burst: float


@dataclass(slots=True)
class TokenBucket:
    """Full at first. In any time t it gives at most `burst + per_s * t`."""

    rate: Rate
    level: float
    at_s: float

    def take(self, now_s: float) -> float:
        """Takes one and returns 0, or takes none and returns the seconds until there is one."""
        self._fill(now_s)
        if self.level >= 1:
            self.level -= 1
            return 0.0
        return (1 - self.level) / self.rate.per_s

    def take_later(self, now_s: float, longest_s: float) -> float:
        """Takes one in advance and returns the seconds to wait for it; nobody waits longer than `longest_s`."""
        self._fill(now_s)
        self.level = max(self.level - 1, -longest_s * self.rate.per_s)
        return max(0.0, -self.level / self.rate.per_s)

    def _fill(self, now_s: float) -> None:
        gained = max(0.0, now_s - self.at_s) * self.rate.per_s
        self.level = min(self.rate.burst, self.level + gained)
        self.at_s = max(self.at_s, now_s)


class Buckets:
    """One bucket for each address. Lives on the event loop."""

    def __init__(self, rate: Rate, clock: Clock = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def take(self, address: str) -> float:
        """0 when the address may go on, else the seconds until it may."""
        return self._bucket(address).take(self._clock())

    def take_later(self, address: str, longest_s: float) -> float:
        """Seconds that the address has to wait for its turn, which is now reserved."""
        return self._bucket(address).take_later(self._clock(), longest_s)

    def __len__(self) -> int:
        return len(self._buckets)

    def _bucket(self, address: str) -> TokenBucket:
        bucket = self._buckets.get(address)
        if bucket is None:
            bucket = self._buckets[address] = TokenBucket(self._rate, self._rate.burst, self._clock())
        self._buckets.move_to_end(address)
        if len(self._buckets) > MOST_ADDRESSES:
            self._buckets.popitem(last=False)
        return bucket


_FREE_FAILURES = 3
"""Typing errors that cost nothing."""
_LONGEST_DELAY_S = 300.0
_FORGOTTEN_S = 3600.0


@dataclass(slots=True)
class _Failures:
    count: int
    last_s: float

    def until_s(self) -> float:
        """When the next try is heard: after 1 s, 2 s, 4 s and so on, at most 5 minutes."""
        beyond = self.count - _FREE_FAILURES
        return self.last_s + (min(_LONGEST_DELAY_S, 2.0**beyond) if beyond >= 0 else 0.0)


class FailedAttempts:
    """Wrong tokens by address. Lives on the event loop."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, _Failures] = OrderedDict()

    def wait_s(self, address: str) -> int:
        """Whole seconds until a try of this address is heard; 0: now."""
        found = self._failures.get(address)
        if found is None:
            return 0
        now = self._clock()
        if now - found.last_s > _FORGOTTEN_S:
            del self._failures[address]
            return 0
        return math.ceil(max(0.0, found.until_s() - now))

    def failed(self, address: str) -> None:
        """A wrong token came from there."""
        found = self._failures.setdefault(address, _Failures(0, 0.0))
        found.count = min(found.count + 1, 64)  # far beyond the longest delay
        found.last_s = self._clock()
        self._failures.move_to_end(address)
        if len(self._failures) > MOST_ADDRESSES:
            self._failures.popitem(last=False)

    def succeeded(self, address: str) -> None:
        """The right one: what came before were slips."""
        self._failures.pop(address, None)

    def __len__(self) -> int:
        return len(self._failures)
