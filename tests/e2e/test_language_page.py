"""The page in another language: chosen, remembered, with the English beside what a clinician must not misread."""

from __future__ import annotations

import pytest
from browser import Browser
from pages import CONTRASTS, DEMO, SMALL_TARGETS, announced, answered, ask, page, read_in
from serving import serving

from edgemed.demo import DEMO_NOTICE
from edgemed.demo.supported import checked_facts
from edgemed.engines.fake import FakeEngine
from edgemed.serve import status
from edgemed.serve.status import Power

DANGER = "My baby is not breathing, how many mg of paracetamol?"
WRONG = "Paracetamol for pain or fever, child, oral: 40 mg/kg every 6 hours. For 12 kg give 7 mL."
OTHERS = ("es", "fr", "sw")

FORGET = "localStorage.clear(); sessionStorage.clear();"


@pytest.fixture(autouse=True)
def _forget_the_choice(browser: Browser) -> None:
    """Each test's server has a port of its own, and storage belongs to a port; only a port used again could carry."""
    browser.open("about:blank")


@pytest.mark.parametrize("code", OTHERS)
def test_whole_page_changes_at_once_with_what_stands_on_it(browser: Browser, code: str) -> None:
    with page(browser, WRONG, facts=checked_facts, offline=True):
        ask(browser, DANGER)
        answered(browser)
        english = browser.text("body")
        read_in(browser, code)
        assert browser.run("return document.documentElement.lang") == code
        told = browser.text("body")
        for line in ("Ask again", "Referral slip", "New patient", "Works offline", "Your question", "This computer"):
            assert line in english
            assert line not in told
        read_in(browser, "en")
        assert browser.text("body") == english
        assert [line for line in browser.console() if "/api/sessions" not in line] == []


@pytest.mark.parametrize("code", OTHERS)
def test_danger_and_dose_texts_have_the_english_beside_and_are_flagged(browser: Browser, code: str) -> None:
    with page(browser, WRONG, facts=checked_facts):
        read_in(browser, code)
        ask(browser, DANGER)
        answered(browser)
        for place, english in (
            (".danger .title", "Possible danger sign: refer at once / follow your emergency protocol."),
            (".urgency", "Urgency: urgent, possible danger sign."),
            (".tag", "contradicts source"),
            (".summary", "Numbers in this answer: "),
            ("article footer .notice", "a clinician decides"),
        ):
            beside = f"{place} .english"
            assert english in browser.text(beside), place
            assert browser.run("return document.querySelector(arguments[0]).lang", beside) == "en"
            own = browser.run("return document.querySelector(arguments[0]).firstChild.textContent", place)
            assert own.strip() != english
        assert browser.shown("article .not-reviewed")
        assert browser.run("return document.querySelector('article .text').lang") == code


def test_english_page_has_nothing_beside_and_no_flag(browser: Browser) -> None:
    with page(browser, WRONG, facts=checked_facts):
        ask(browser, DANGER)
        answered(browser)
        assert browser.run("return document.querySelectorAll('.english').length") == 0
        assert not browser.shown(".not-reviewed")


def test_choice_is_remembered_and_nothing_else(browser: Browser) -> None:
    with page(browser):
        read_in(browser, "sw")
        browser.call("POST", "/refresh", {})
        browser.until(lambda: browser.text("#ask") == "Uliza", "the page in Swahili")
        kept = "return Object.entries(localStorage).filter(([name]) => name !== 'edgemed.sessions')"
        assert browser.run(kept) == [["edgemed.language", "sw"]]
        assert browser.run("return [sessionStorage.length, document.cookie]") == [0, ""]
        browser.run(FORGET)


def test_who_reads_in_a_language_asks_in_it(browser: Browser) -> None:
    with page(browser) as server:
        read_in(browser, "fr")
        assert browser.run("return document.getElementById('language').value") == "fr"
        browser.click("#question")
        ask(browser, "Quelle dose de paracétamol pour un enfant ?")
        answered(browser)
        assert "soignants" in server.engine.text_of(server.engine.requests[-1].prompt)


def test_errors_are_told_by_their_code_with_the_servers_english_as_detail(browser: Browser) -> None:
    with page(browser) as server:
        read_in(browser, "es")
        server.engine.fail_next(after_tokens=2)
        ask(browser, "How much?")
        answered(browser)
        assert "se paró" in browser.text(".problem p")
        assert browser.role_and_name(".problem summary")[1] == "Detalles para un técnico"
        browser.click(".problem summary")
        assert browser.text(".problem .detail p").strip()
        assert browser.run("return document.querySelector('.problem .detail p').lang") == "en"


def test_waiting_counts_and_times_follow_the_language(browser: Browser) -> None:
    with page(browser, held=True) as server, server.stream() as other:
        assert server.engine.wait_until_running()
        read_in(browser, "fr")
        ask(browser, "How much?")
        browser.until(lambda: "vous êtes le prochain" in browser.text(".doing"), "the place in the queue")
        assert "seconde" in browser.text(".doing") or "minute" in browser.text(".doing")
        read_in(browser, "sw")
        assert "Kusubiri" in browser.text(".doing")
        server.engine.run_free()
        other.read()
        answered(browser)
        assert "Jibu limekamilika" in announced(browser)


def test_slow_mode_and_the_demonstration_are_told_in_the_language(browser: Browser) -> None:
    with page(browser, demo_notice=DEMO_NOTICE) as server:
        read_in(browser, "fr")
        server.engine.report_pace(3.0, expected=9.0, slow=True)
        ask(browser, "How much?")
        answered(browser)
        assert "environ 3 fois plus de temps" in browser.text("#condition")
        assert "Modèle de démonstration" in browser.text("#demo")
        assert DEMO_NOTICE in browser.text("#demo .english")


def test_a_notice_of_the_clinics_own_stays_as_it_is(browser: Browser) -> None:
    with page(browser, demo_notice=DEMO):
        read_in(browser, "fr")
        assert browser.text("#demo") == DEMO
        assert browser.run("return document.querySelector('#demo span').lang") == "en"


def test_language_that_cannot_be_had_leaves_the_page_as_it_was(browser: Browser) -> None:
    with serving(FakeEngine()) as server:
        browser.look(width=1280)
        browser.open(server.url)
        browser.until(lambda: "Model:" in browser.text("#facts"), "the page")
    browser.run("const s = document.getElementById('interface'); s.value = 'fr'; s.dispatchEvent(new Event('change'));")
    browser.until(lambda: browser.run("return document.getElementById('interface').value") == "en", "English again")
    assert browser.text("#ask") == "Ask"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("code", OTHERS)
def test_page_fits_a_phone_in_every_language(browser: Browser, code: str, dark: bool) -> None:
    height = "return document.getElementById('form').offsetHeight"
    with page(browser, WRONG, facts=checked_facts, offline=True):
        browser.look(width=360, height=640, dark=dark)
        read_in(browser, code)
        assert browser.run(height) <= 70
        ask(browser, DANGER)
        answered(browser)
        assert browser.run(height) <= 130
        assert browser.run("return document.documentElement.scrollWidth") <= 360
        assert browser.run(CONTRASTS) == []
        assert browser.run(SMALL_TARGETS) == []
        browser.click("#show-calculators")
        browser.until(lambda: browser.shown(".calculator"), "the forms")
        browser.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        assert browser.run("return document.documentElement.scrollWidth") <= 360
        assert browser.run(CONTRASTS) == []
        assert browser.run("return document.querySelector('.calculator').lang") == "en"


@pytest.mark.parametrize(
    ("percent", "place", "words"),
    [
        (54.0, "#facts", "On battery: 54%."),
        (None, "#facts", "On battery."),
        (14.0, "#condition", "Battery at 14%: connect the charger"),
    ],
)
def test_battery_is_told_and_an_empty_one_warned_of(
    browser: Browser, monkeypatch: pytest.MonkeyPatch, percent: float | None, place: str, words: str
) -> None:
    monkeypatch.setattr(status, "power_now", lambda: Power(source="battery", percent=percent))
    with page(browser):
        assert words in browser.text(place)
        assert browser.shown("#condition") is (place == "#condition")
        read_in(browser, "fr")
        assert words not in browser.text(place)
