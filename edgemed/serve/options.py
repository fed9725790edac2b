"""How one server behaves: set by `edgemed serve`, or by a test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgemed.serve.turnstile import Shares

CARE_NOTICE = "Decision support: a clinician decides. Check doses before you give them."

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What a server is told once, when it starts."""

    model_name: str
    model_digest: str = ""
    """Names the model's file and its state: a saved answer is given only by the model that made it."""
    adapters: Mapping[str, str] = field(default_factory=dict)
    """Digest of each adapter's file by its name: what `model` of a request may say besides `model_name`."""
    languages: Path | None = None
    """The clinic's own language files."""
    notice: str = CARE_NOTICE
    """Shown under every answer."""
    demo_notice: str = ""
    """Not empty for the demonstration model: shown on top of the page and on every answer."""
    offline: bool = False
    max_waiting: int = 8
    """Questions that may wait for a slot; the next one gets 503."""
    deadline_s: float = 600.0
    """From its arrival, after which an unfinished answer ends with an error."""
    paced: bool = True
    """Whether length, sampling and thinking follow the question's class; without, every answer may be the longest."""
    answer_tokens: int = 1024
    """Longest answer when the request names no limit."""
    body_limit_bytes: int = 1024 * 1024
    body_timeout_s: float = 20.0
    send_timeout_s: float = 30.0
    """A client that reads nothing for so long is taken for gone: it must not keep its place."""
    stall_s: float = 60.0
    """Running without a token for so long is reported by /health as stalled."""
    session_idle_s: float = 1800.0
    """A session that was not used for so long is ended."""
    most_sessions: int = 256
    """With more, the one used longest ago is ended."""
    heartbeat_s: float = 10.0
    """A silent stream gets a comment so often, so that a lost client is noticed."""
    allowed_hosts: tuple[str, ...] = LOOPBACK_NAMES
    """Names a browser may know this server by, beside the address that it came to: any other is another site's name
    pointed at us (DNS rebinding)."""
    access_token: str = field(default="", repr=False)
    """Asked of everybody; "" asks for none."""
    shares: Shares | None = None
    """What each address may ask for; None on a server that only this machine can reach."""
    network_warning: str = ""
    """Not empty when patients' words cross the network in the clear: shown on the page."""
    hsts: bool = False
    """Tell browsers to come back by TLS alone."""

    @property
    def served(self) -> tuple[str, ...]:
        """Every name that a request may ask for: the model's own first."""
        return (self.model_name, *self.adapters)

    def adapter_of(self, model: str | None) -> str:
        """The adapter that a request for `model` (one of `served`, or None) means; "" for the model alone."""
        return model if model is not None and model in self.adapters else ""

    def name_of(self, model: str | None) -> str:
        """What answers to such a request: the adapter's name, or the model's own."""
        return self.adapter_of(model) or self.model_name

    @property
    def answer_notice(self) -> str:
        """What every answer of the interface carries: the demonstration's notice first, where there is one."""
        return " ".join(text for text in (self.demo_notice, self.notice) if text)
