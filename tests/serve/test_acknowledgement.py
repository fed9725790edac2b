"""What is told to a client stands in the journal first; and what was accepted is written down before it runs."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from edgemed.engines.base import GenerationRequest, OnEvent
from edgemed.engines.fake import FakeEngine
from edgemed.serve.app import create_app
from edgemed.serve.journal import Journal, JournalEntry, read_journal
from edgemed.serve.options import ServeOptions
from edgemed.serve.response_cache import ResponseCache


class Told:
    """A journal, an engine and a client that note in one list what happened to them."""

    def __init__(self, home: Path, engine: FakeEngine) -> None:
        self.notes: list[str] = []
        told, submit = self, engine.submit

        class Noting(Journal):
            def write(self, entry: JournalEntry, *, sync: bool = True) -> None:
                super().write(entry, sync=sync)
                told.notes.append(f"{entry.kind} {entry.ended}, synced {sync}")

            def sync(self) -> None:
                super().sync()
                told.notes.append("synced")

        def noting_submit(request: GenerationRequest, on_event: OnEvent) -> None:
            told.notes.append("submitted")
            submit(request, on_event)

        engine.submit = noting_submit  # type: ignore[method-assign]
        self.journal = Noting(home)
        self._app = create_app(
            engine, ServeOptions(model_name="fake"), journal=self.journal, cache=ResponseCache()
        ).asgi

    def ask(self, **fields: Any) -> list[str]:
        """The notes of one question, the client's among them."""
        self.notes.clear()
        asyncio.run(self._ask({"messages": [{"role": "user", "content": "How much zinc?"}], **fields}))
        return self.notes

    async def _ask(self, body: dict[str, Any]) -> None:
        left = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
        forever = asyncio.Event()

        async def receive() -> Any:
            if not left:
                await forever.wait()
            return left.pop()

        async def send(message: Any) -> None:
            data = message.get("body", b"")
            if message["type"] == "http.response.start":
                self.notes.append(f"headers {message['status']}")
            elif not message.get("more_body"):
                self.notes.append("last words")
            elif b'"content": "' in data and b'"content": ""' not in data:
                self.notes.append("text")

        headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers,
                 "query_string": b"", "client": ("127.0.0.1", 9)}  # fmt: skip
        await self._app(scope, receive, send)


def order(notes: list[str], *wanted: str) -> bool:
    places = [notes.index(want) for want in wanted]
    return places == sorted(places)


def test_a_whole_answer_is_sent_when_its_row_is_on_the_disk(tmp_path: Path) -> None:
    notes = Told(tmp_path, FakeEngine("Give zinc.")).ask()
    assert order(notes, "begun , synced False", "submitted", "ended stop, synced True", "headers 200", "last words")
    assert "synced" in notes


def test_a_stream_ends_when_its_row_is_on_the_disk_and_begins_without_waiting_for_it(tmp_path: Path) -> None:
    told = Told(tmp_path, FakeEngine("Give zinc."))
    notes = told.ask(stream=True)
    assert order(notes, "submitted", "headers 200", "text", "ended stop, synced True", "last words")
    assert sum(note.startswith("ended") for note in notes) == 1
    assert [row.kind for row in read_journal(told.journal.files()).entries] == ["begun", "ended"]


@pytest.mark.parametrize("stream", [True, False])
def test_an_error_too_is_told_when_it_is_on_the_disk(tmp_path: Path, stream: bool) -> None:
    engine = FakeEngine("Give zinc.")
    engine.fail_next(after_tokens=1)
    notes = Told(tmp_path, engine).ask(stream=stream)
    (ended,) = (note for note in notes if note.startswith("ended"))
    assert ended.startswith("ended engine_")
    assert order(notes, ended, "last words")


def test_a_saved_answer_has_its_row_too(tmp_path: Path) -> None:
    told = Told(tmp_path, FakeEngine("Give zinc."))
    told.ask()
    notes = told.ask()
    assert "submitted" not in notes
    assert order(notes, "ended stop, synced True", "headers 200")
