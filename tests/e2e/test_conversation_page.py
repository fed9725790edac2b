"""The page's conversations: a key for each patient, forgotten with them; what was cut off is shown, to ask it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from browser import Browser
from pages import ANSWER, CONTRASTS, SMALL_TARGETS, announced, answered, ask, page, read_in, text_of_answer
from serving import Running, serving

from edgemed.engines.fake import FakeEngine
from edgemed.serve.cache_secret import Secret
from edgemed.serve.unfinished import Unfinished

SECRET = Secret("keyring", bytes(range(32)))
KEPT = "return JSON.parse(localStorage.getItem('edgemed.sessions') || '[]')"


def keys_sent(server: Running) -> list[Any]:
    return [request.session for request in server.engine.requests]


def reload(browser: Browser) -> None:
    browser.call("POST", "/refresh", {})
    browser.until(lambda: "Model:" in browser.text("#facts"), "the page is loaded again")


def new_patient(browser: Browser) -> None:
    browser.click("#clear")
    browser.call("POST", "/alert/accept", {})


def test_questions_of_one_conversation_carry_one_key_and_the_next_patient_another(browser: Browser) -> None:
    with page(browser) as server:
        for number in (1, 2):
            ask(browser, "How much?")
            answered(browser, number)
        new_patient(browser)
        browser.until(lambda: browser.run(KEPT) == [], "the old key is gone")
        ask(browser, "How much?")
        answered(browser)
        first, second, third = keys_sent(server)
        assert first == second != third
        assert all(len(key) == 32 for key in (first, third))
        browser.until(lambda: server.http.get(f"/api/sessions/{first}").status_code == 404, "the first is forgotten")
        assert server.http.get(f"/api/sessions/{third}").status_code == 200


def test_closing_the_page_ends_its_conversation(browser: Browser) -> None:
    with page(browser) as server:
        ask(browser, "How much?")
        answered(browser)
        (key,) = keys_sent(server)
        browser.open("about:blank")
        browser.until(lambda: server.http.get(f"/api/sessions/{key}").status_code == 404, "it is forgotten")


def test_conversation_that_the_server_forgot_is_begun_anew_without_a_word(browser: Browser) -> None:
    with page(browser) as server:
        ask(browser, "How much?")
        answered(browser)
        (first,) = keys_sent(server)
        server.http.delete(f"/api/sessions/{first}")
        ask(browser, "And now?")
        answered(browser, 2)
        assert text_of_answer(browser, 2) == ANSWER
        assert not browser.shown(".problem")
        assert keys_sent(server)[1] not in (first, "")


WITHOUT_SESSIONS = """
const real = window.fetch;
const error = JSON.stringify({ error: { message: "", type: "", param: null, code: "not_found" } });
window.fetch = (path, how) => path.startsWith("/api/sessions")
  ? Promise.resolve(new Response(error, { status: 404 })) : real(path, how);
"""


def test_server_without_conversations_is_asked_without_a_key(browser: Browser) -> None:
    with page(browser) as server:
        browser.run(WITHOUT_SESSIONS)
        ask(browser, "How much?")
        answered(browser)
        assert text_of_answer(browser) == ANSWER
        assert keys_sent(server) == [""]
        assert browser.run("return localStorage.length") == 0


def cut_off(browser: Browser, home: Path, secret: Secret | None = SECRET) -> int:
    """A question that the engine's end cut off, its answer begun; the server is gone, and its port is returned."""
    with page(browser, unfinished=Unfinished(home, secret)) as server:
        server.engine.fail_next(after_tokens=2)
        ask(browser, "How much for a child of 12 kg?")
        answered(browser)
        assert browser.shown(".problem")
        return int(server.url.rpartition(":")[2])


def test_interrupted_question_is_shown_after_a_restart_and_asked_again(browser: Browser, tmp_path: Path) -> None:
    port = cut_off(browser, tmp_path)
    with serving(FakeEngine(ANSWER), port=port, unfinished=Unfinished(tmp_path, SECRET)) as server:
        reload(browser)
        browser.until(lambda: browser.shown("#interrupted li"), "the interrupted question")
        told = browser.text("#interrupted")
        assert "How much for a child of 12 kg?" in told
        assert "Interrupted, ask again." in told
        assert "Give" not in told, "no part of a cut answer"
        assert "1 question was interrupted" in announced(browser)
        (key,) = browser.run(KEPT)
        browser.click("#interrupted li button")
        answered(browser)
        assert browser.text("article h2") == "How much for a child of 12 kg?"
        assert text_of_answer(browser) == ANSWER
        assert not browser.shown("#interrupted")
        browser.until(lambda: key not in browser.run(KEPT), "the list is erased")
        assert server.http.get(f"/api/sessions/{key}").json().get("unfinished", []) == []
        reload(browser)
        assert not browser.shown("#interrupted")


def test_interrupted_question_that_was_not_kept_is_to_be_written_again(browser: Browser, tmp_path: Path) -> None:
    port = cut_off(browser, tmp_path, secret=None)
    with serving(FakeEngine(ANSWER), port=port, unfinished=Unfinished(tmp_path)):
        reload(browser)
        browser.until(lambda: browser.shown("#interrupted li"), "the interrupted question")
        assert "Write it again" in browser.text("#interrupted")
        browser.click("#interrupted > button")
        assert not browser.shown("#interrupted")
        browser.until(lambda: browser.run(KEPT) == [], "the list is erased")


def test_question_asked_again_by_hand_is_no_longer_listed(browser: Browser, tmp_path: Path) -> None:
    with page(browser, unfinished=Unfinished(tmp_path, SECRET)) as server:
        server.engine.fail_next(after_tokens=2)
        ask(browser, "How much?")
        answered(browser)
        browser.click(".problem button")
        answered(browser, 2)
        (key, _) = keys_sent(server)
        assert server.http.get(f"/api/sessions/{key}").json()["unfinished"] == []


def test_only_keys_are_kept_in_the_browser(browser: Browser, tmp_path: Path) -> None:
    cut_off(browser, tmp_path)
    kept = browser.run("return JSON.stringify([Object.entries(localStorage), Object.entries(sessionStorage)])")
    assert "child" not in kept
    assert [name for name, _ in json.loads(kept)[0]] == ["edgemed.sessions"]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_interrupted_questions_fit_and_can_be_read(browser: Browser, tmp_path: Path, width: int, dark: bool) -> None:
    port = cut_off(browser, tmp_path)
    with serving(FakeEngine(ANSWER), port=port, unfinished=Unfinished(tmp_path, SECRET)):
        reload(browser)
        browser.look(width=width, height=640, dark=dark)
        browser.until(lambda: browser.shown("#interrupted li"), "the interrupted question")
        read_in(browser, "sw")
        assert "Limekatizwa, uliza tena" in browser.text("#interrupted")
        assert browser.run("return document.documentElement.scrollWidth") <= width
        assert browser.run(CONTRASTS) == []
        assert browser.run(SMALL_TARGETS) == []
