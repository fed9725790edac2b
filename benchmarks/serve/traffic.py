"""Questions with a canary word each, asked of a real server in every way; what came of each, judged.

http.client and threads: a client that costs little, and whose sockets can be dropped in mid-answer.
"""

from __future__ import annotations

import http.client
import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

CANARY = re.compile(r"zq[a-z]{14}")
"""A word that no text holds by chance."""

Kind = Literal["whole", "stream", "leaves", "malformed"]
TIMEOUT_S = 120.0
"""An answer that takes longer is called a hang."""

_STORY = (
    "the child has fever and a cough since three days, drinks little, weighs 12 kg, was given oral rehydration salts "
    "and zinc at home, no known allergy, lives far from the road"
)
_ASKED = ("What is the dose of paracetamol?", "How much zinc for how many days?", "Can amoxicillin be given?",
          "What are the signs of severe dehydration?", "When is referral needed?")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """One request before it is sent."""

    number: int
    kind: Kind
    canary: str
    body: bytes
    question: str
    leaves_after: int = 0
    """Events of its stream after which its client drops the connection."""


@dataclass(slots=True)
class Outcome:
    """What came of one request."""

    asked: Asked
    status: int = 0
    """0 where no answer came: the connection broke."""
    code: str = ""
    """Of the error, whole or in the stream."""
    answer_id: str = ""
    text: str = ""
    terminal_events: int = 0
    done_lines: int = 0
    whole: bool = False
    """The response came to its proper end."""
    hung: bool = False
    fault: str = ""
    session: str | None = None
    events: list[str] = field(default_factory=list)

    @property
    def acknowledged(self) -> bool:
        """A whole answer with 200, or a stream that told its end."""
        if self.asked.kind == "stream":
            return self.status == 200 and self.terminal_events > 0
        return self.asked.kind == "whole" and self.status == 200 and self.whole

    def foreign_canaries(self) -> set[str]:
        """Canary words of others in what this client was sent."""
        return set(CANARY.findall(self.text)) - {self.asked.canary}


def plan(number: int, seed: int, session: Callable[[], str | None] = lambda: None) -> tuple[Asked, str | None]:
    """The request of that number, the same for the same seed, and the session that it names."""
    rng = random.Random(f"{seed} {number}")
    canary = "zq" + "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=14))
    words = " ".join(rng.choices(_STORY.split(), k=rng.choice((3, 8, 20, 60, 150))))
    question = f"Chart {canary}: {words}. {rng.choice(_ASKED)}"
    chance = rng.random()
    kind: Kind = "malformed" if chance < 0.01 else "leaves" if chance < 0.06 else rng.choice(("whole", "stream"))
    key = session() if kind in ("whole", "stream") else None
    body: dict[str, Any] = {"messages": [{"role": "user", "content": question}], "cache": "use"}
    body |= {"max_tokens": rng.choice((1, 4, 8, 16, 32)), "stream": kind in ("stream", "leaves")}
    body |= {"session": key} if key is not None else {}
    if kind == "malformed":
        return Asked(number, kind, canary, _malformed(rng, body), question), None
    leaves = rng.choice((0, 1, 2, 4)) if kind == "leaves" else 0
    return Asked(number, kind, canary, json.dumps(body).encode(), question, leaves), key


def _malformed(rng: random.Random, body: dict[str, Any]) -> bytes:
    whole = json.dumps(body).encode()
    return rng.choice(
        (
            whole[: len(whole) // 2],
            b"\xff\xfe" + whole,
            b"[" * 50_000,
            json.dumps(body | {"messages": []}).encode(),
            json.dumps(body | {"messages": [{"role": "system", "content": body["messages"][0]["content"]}]}).encode(),
            json.dumps(body | {"max_tokens": -1}).encode(),
            json.dumps(body | {"session": "f" * 32}).encode(),
            json.dumps(body | {body["messages"][0]["content"]: 1}).encode(),
            json.dumps(body | {"stream": "yes"}).encode(),
        )
    )


def send(port: int, asked: Asked, session: str | None = None) -> Outcome:
    """What came of it; a connection that breaks is a fault of the outcome, never an exception."""
    outcome = Outcome(asked, session=session)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("POST", "/v1/chat/completions", asked.body, {"Content-Type": "application/json"})
        if asked.kind == "leaves" and asked.leaves_after == 0:
            return outcome
        response = connection.getresponse()
        outcome.status = response.status
        if "event-stream" in (response.getheader("content-type") or ""):
            _read_stream(response, outcome)
        else:
            _read_whole(response.read(), outcome)
        return outcome
    except TimeoutError:
        outcome.hung = True
        return outcome
    except (OSError, http.client.HTTPException, ValueError) as error:
        outcome.fault = type(error).__name__
        return outcome
    finally:
        connection.close()


def _read_whole(data: bytes, outcome: Outcome) -> None:
    outcome.text = data.decode(errors="replace")
    said = json.loads(data)
    outcome.code = str(said.get("error", {}).get("code", ""))
    outcome.answer_id = str(said.get("id", ""))
    outcome.whole = True


def _read_stream(response: http.client.HTTPResponse, outcome: Outcome) -> None:
    n_events = 0
    for line in response:
        if not line.startswith(b"data: "):
            continue
        n_events += 1
        data = line[6:].strip()
        if data == b"[DONE]":
            outcome.done_lines += 1
            outcome.whole = True
            continue
        _read_event(json.loads(data), outcome)
        if outcome.asked.kind == "leaves" and n_events >= outcome.asked.leaves_after:
            return


def _read_event(event: dict[str, Any], outcome: Outcome) -> None:
    if "error" in event:
        outcome.code = str(event["error"]["code"])
        outcome.terminal_events += 1
        return
    outcome.answer_id = outcome.answer_id or str(event.get("id", ""))
    for choice in event.get("choices", ()):
        outcome.text += choice["delta"].get("content") or ""
        outcome.terminal_events += choice.get("finish_reason") is not None


def call(port: int, method: str, path: str) -> tuple[int, Any]:
    """A plain request: its status and JSON; raises OSError."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        data = response.read()
        return response.status, json.loads(data) if data else None
    finally:
        connection.close()
