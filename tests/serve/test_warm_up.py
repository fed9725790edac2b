"""A server is ready when its first question has nothing left to read."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edgemed.serve.care import WarmUp

_FIRST_QUESTION = """
import sys, threading
from edgemed.demo.supported import checked_facts
from edgemed.engines.fake import FakeEngine
from edgemed.serve.care import Care, WarmUp
from edgemed.serve.journal import Journal
from edgemed.serve.options import ServeOptions
from edgemed.serve.recall import Recall
from edgemed.serve.response_cache import ResponseCache
from edgemed.engines.base import DoneEvent
from edgemed.serve.generation import generation_of
from edgemed.serve.schemas import ChatMessage, ChatRequest, conversation_of

WarmUp(checked_facts).wait()
read = []
def note(event, arguments):
    if event == "open" and threading.current_thread() is threading.main_thread():
        if str(arguments[0]).endswith((".toml", ".txt", ".json", ".jsonl", ".gz")):
            read.append(arguments[0])
sys.addaudithook(note)
engine, options = FakeEngine(), ServeOptions(model_name="fake")
care = Care(Recall(ResponseCache(), engine, options), Journal(None), options, checked_facts)
asked = ChatRequest(messages=[ChatMessage(role="user", content="What is the dose of zinc for a child of 8 kg?")])
course = care.take_in(asked, conversation_of(asked))
generation_of(engine, engine.info, course.case, asked, options, "id")
course.texts.append("Zinc: 20 mg once daily.")
care.check(course, DoneEvent("stop", 1, 1, 0.0, 0.0, 0.0))
care.finish(course)
print(read)
"""


def test_after_the_warm_up_the_first_question_reads_no_list() -> None:
    done = subprocess.run([sys.executable, "-c", _FIRST_QUESTION], capture_output=True, text=True, timeout=100)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_a_list_that_cannot_be_read_does_not_keep_the_server_waiting(caplog: pytest.LogCaptureFixture) -> None:
    from edgemed.core.errors import UsageError

    def damaged(question: str) -> tuple[()]:
        raise UsageError("The list is damaged.")

    WarmUp(damaged).wait()
    assert "The list is damaged." in caplog.text
