"""An answer taken away: the referral slip on paper, and the text on the clipboard, both with every number's mark."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from browser import ESCAPE, Browser
from pages import CONTRASTS, DEMO, SMALL_TARGETS, announced, answered, ask, page, read_in
from serving import Running

from edgemed.demo.supported import checked_facts
from edgemed.serve.response_cache import ResponseCache

QUESTION = "My child of 12 kg is convulsing now. Dose of paracetamol for fever?"
ANSWER = "Paracetamol for fever, child, oral: 40 mg/kg every 6 hours. For 12 kg give 7 mL."
SLIP_BUTTON = ".take"
COPY_BUTTON = ".copy"


@contextmanager
def slip(browser: Browser, answer: str = ANSWER, question: str = QUESTION, **options: Any) -> Iterator[Running]:
    """The slip of one answer, open."""
    with page(browser, answer, facts=checked_facts, **options) as server:
        ask(browser, question)
        answered(browser)
        browser.click(SLIP_BUTTON)
        browser.until(lambda: browser.shown("#slip h2"), "the slip")
        yield server


def said(browser: Browser) -> str:
    """What the slip says, with plain blanks."""
    return browser.text("#slip").replace("\u00a0", " ")


def test_slip_carries_question_answer_danger_marks_sources_model_and_time(browser: Browser) -> None:
    with slip(browser):
        told = said(browser)
        for part in (
            "Machine-generated, check",
            "The clinician decides",
            QUESTION,
            "Category: medication (dose).",
            "Urgency: urgent, possible danger sign.",
            "“convulsing” (convulsion)",
            "Do not use: a number contradicts its source.",
            "40 mg/kg: the source says 10 to 15 mg/kg every 4 to 6 hours.",
            "40 mg/kg [contradicts source 1]",
            "12 kg [your number, no source] give 7 mL [no source: check]",
            "World Health Organization",
            "Model: fake. Answer made: ",
        ):
            assert part in told
        rows = "return [...document.querySelectorAll('#slip tbody tr')].map((row) => row.cells[1].textContent)"
        marks = ["contradicts source", "from source", "your number, no source", "no source: check"]
        assert browser.run(rows) == marks
        year = browser.run("return String(new Date().getFullYear())")
        assert year in browser.text("#slip .made")


def test_lines_for_names_are_empty_and_take_no_typing(browser: Browser) -> None:
    with slip(browser):
        lines = browser.run("return [...document.querySelectorAll('#slip .blank')].map((line) => line.textContent)")
        assert lines == [
            *("Patient's name", "Age, sex, weight", "Facility", "Referred to"),
            *("Clinician's name and signature", "Date and time"),
        ]
        assert (
            browser.run("return document.querySelectorAll('#slip :is(input, textarea, [contenteditable])').length") == 0
        )


def test_printed_slip_is_one_sheet_with_nothing_else_on_it(browser: Browser) -> None:
    with slip(browser):
        browser.on_paper(True)
        try:
            for hidden in ("header", "#form", "#slip .toolbar", "#questions", "#machine"):
                assert not browser.shown(hidden), hidden
            assert browser.shown("#slip h2")
            assert browser.run("return getComputedStyle(document.querySelector('#slip td')).color") == "rgb(0, 0, 0)"
            assert browser.pages_printed() == 1
        finally:
            browser.on_paper(False)


def test_print_button_prints(browser: Browser) -> None:
    with slip(browser):
        browser.run("window.print = () => { window.printed = true; }")
        browser.click("#slip .main-button")
        assert browser.run("return window.printed")


def test_slip_is_opened_and_left_by_keyboard_and_the_focus_returns(browser: Browser) -> None:
    with slip(browser):
        assert browser.run("return document.activeElement.textContent") == "Print"
        browser.type(ESCAPE)
        assert not browser.shown("#slip")
        assert browser.run("return document.activeElement.textContent") == "Referral slip"
        assert browser.shown("#form")


def test_slip_of_a_cut_answer_says_incomplete(browser: Browser) -> None:
    with slip(browser, "Give 15 mg/kg every 6 hours. Then more.", answer_tokens=3):
        assert "INCOMPLETE" in said(browser)


def test_slip_of_a_saved_answer_tells_when_it_was_made(browser: Browser) -> None:
    question = "What is the dose of paracetamol for fever in a child?"
    right = "Paracetamol for pain or fever, child, oral: 15 mg/kg every 6 hours."
    with page(browser, right, cache=ResponseCache(), facts=checked_facts):
        for number in (1, 2):
            ask(browser, question)
            answered(browser, number)
        made = browser.text(".saved time")
        browser.click(f"article:nth-of-type(2) {SLIP_BUTTON}")
        assert made in browser.text("#slip .made")


def test_slip_of_a_follow_up_names_the_questions_before(browser: Browser) -> None:
    with page(browser):
        ask(browser, "Fever in a child of 3 years?")
        answered(browser)
        browser.click("#follow")
        browser.click("#question")
        ask(browser, "And how much?")
        answered(browser, 2)
        browser.click(f"article:nth-of-type(2) {SLIP_BUTTON}")
        assert "Asked before, about the same patient" in said(browser)
        assert "Fever in a child of 3 years?" in said(browser)


def test_broken_and_stopped_answers_have_no_slip(browser: Browser) -> None:
    with page(browser) as server:
        server.engine.fail_next(after_tokens=3)
        ask(browser, "How much?")
        answered(browser)
        assert not browser.shown(".actions")


def test_slip_in_another_language_has_the_english_beside(browser: Browser) -> None:
    with slip(browser):
        read_in(browser, "fr")
        told = said(browser)
        assert "Fiche de référence" in told
        assert "[contredit la source / contradicts source 1]" in told
        assert "Do not use: a number contradicts its source." in told
        assert "n’ont pas été relus" in told


def test_demonstrations_slip_says_what_it_is(browser: Browser) -> None:
    with slip(browser, demo_notice=DEMO):
        assert DEMO in said(browser)


def copied(browser: Browser) -> str:
    """What is on the clipboard, pasted into the question box."""
    browser.run("document.getElementById('question').focus()")
    browser.press(
        [
            {"type": "keyDown", "value": "\ue009"},
            {"type": "keyDown", "value": "v"},
            {"type": "keyUp", "value": "v"},
            {"type": "keyUp", "value": "\ue009"},
        ]
    )
    box = "return document.getElementById('question').value"
    browser.until(lambda: browser.run(box), "the pasted text")
    return str(browser.run(box))


NO_CLIPBOARD = "Object.defineProperty(navigator, 'clipboard', { value: undefined, configurable: true });"


@pytest.mark.parametrize("plain_http", [False, True])
def test_copied_answer_carries_the_same_marks_as_text(browser: Browser, plain_http: bool) -> None:
    with page(browser, ANSWER, facts=checked_facts):
        if plain_http:  # a page that comes over the clinic's Wi-Fi without TLS has no clipboard of its own
            browser.run(NO_CLIPBOARD)
        ask(browser, QUESTION)
        answered(browser)
        browser.click(COPY_BUTTON)
        browser.until(lambda: "Copied" in announced(browser), "word of the copy")
        assert browser.shown("#status:not(.unseen)")
        told = copied(browser)
        for part in (
            f"Question: {QUESTION}",
            "Urgency: urgent, possible danger sign.",
            "40 mg/kg [contradicts source 1]",
            "7 mL [no source: check]",
            "40 mg/kg: the source says 10 to 15 mg/kg every 4 to 6 hours.",
            "Source 1: ",
            "Machine-generated, check",
            "The clinician decides",
            "Model: fake.",
        ):
            assert part in told.replace("\u00a0", " ")


def test_browser_that_does_not_let_copy_says_what_to_do(browser: Browser) -> None:
    with page(browser):
        browser.run(NO_CLIPBOARD + "document.execCommand = () => false;")
        ask(browser, "How much?")
        answered(browser)
        browser.click(COPY_BUTTON)
        browser.until(lambda: "does not let the page copy" in announced(browser), "what to do instead")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_slip_fits_and_can_be_read(browser: Browser, width: int, dark: bool) -> None:
    with slip(browser):
        browser.look(width=width, height=640, dark=dark)
        assert browser.run("return document.documentElement.scrollWidth") <= width
        assert browser.run(CONTRASTS) == []
        assert browser.run(SMALL_TARGETS) == []
