"""What the page shows of the medical layer: danger, notes on words, verdicts on numbers, saved answers, language."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import ENTER, ESCAPE, TAB, Browser
from pages import CONTRASTS, SMALL_TARGETS, answered, ask, choose, page, text_of_answer

import edgemed.medical
from edgemed.demo.supported import checked_facts
from edgemed.serve.response_cache import ResponseCache

QUESTION = "What is the dose of paracetamol for fever in a child?"
SAME = "How much paracetamol for a child with fever?"
DANGER = "My baby is not breathing, how many mg of paracetamol?"
RIGHT = "Paracetamol for pain or fever, child, oral: 15 mg/kg every 6 hours."
WRONG = "Paracetamol for pain or fever, child, oral: 40 mg/kg every 6 hours."

MARKS = """
return [...document.querySelectorAll('article:last-of-type .number')].map((mark) => {
  const tag = mark.querySelector('.tag').textContent.trim();
  const copy = mark.cloneNode(true); copy.querySelector('.tag').remove();
  return [copy.textContent.replaceAll('\\u00a0', ' '), tag, mark.querySelectorAll('.icon').length];
});
"""


def test_danger_is_shown_above_the_answer_before_its_first_word(browser: Browser) -> None:
    with page(browser, held=True) as server:
        ask(browser, DANGER)
        browser.until(lambda: browser.shown(".danger"), "the warning")
        assert text_of_answer(browser) == ""
        told = browser.text(".danger")
        assert "Possible danger sign: refer at once / follow your emergency protocol" in told
        assert "not breathing" in told
        assert "not a diagnosis" in told
        assert browser.text(".urgency") == "Urgency: urgent, possible danger sign."
        assert browser.role_and_name(".danger")[0] == "alert"
        server.engine.run_free()
        answered(browser)
        above = "const [a, b] = ['.danger', '.text'].map((s) => document.querySelector(s).getBoundingClientRect());"
        assert browser.run(above + "return a.bottom <= b.top")


def test_danger_can_be_seen_on_a_small_screen_without_scrolling(browser: Browser) -> None:
    with page(browser):
        browser.look(width=360, height=640)
        ask(browser, DANGER + " A pt with MI, got MS and Panadol 500 mg QD.")
        answered(browser)
        script = "return document.querySelector(arguments[0]).getBoundingClientRect()[arguments[1]]"
        assert browser.run(script, ".danger .title", "bottom") < browser.run(script, "#form", "top")


def test_ordinary_question_shows_its_kind_and_no_warning(browser: Browser) -> None:
    with page(browser):
        ask(browser, QUESTION)
        answered(browser)
        assert browser.text(".kind") == "Category: medication (dose)."
        assert browser.text(".urgency").startswith("Urgency: no danger sign found; the word lists can miss some")
        assert not browser.shown("article .danger")
        assert not browser.shown("article .unchecked")


def test_words_are_explained_beside_the_question_which_stays_as_it_was(browser: Browser) -> None:
    question = "Panadol for a pt with MI and fever: 500 mg QD?"
    with page(browser):
        ask(browser, question)
        answered(browser)
        assert browser.text("article h2") == question
        notes = browser.text(".notes")
        assert "Panadol: paracetamol" in notes
        assert "MI can mean myocardial infarction or mitral insufficiency: write it out" in notes
        assert "QD: once daily. Careful:" in notes
        assert browser.run("return document.querySelectorAll('.notes .care .icon').length") == 2


def test_many_notes_are_folded_but_warnings_never(browser: Browser) -> None:
    question = "Panadol, Augmentin, Flagyl, Ventolin, Lasix, Valium, Brufen, Zantac, Septrin: 5 mg QD?"
    with page(browser):
        ask(browser, question)
        answered(browser)
        assert browser.run("return document.querySelectorAll('.notes > ul > li').length") == 6
        assert "QD" in browser.text(".notes > ul > li")
        assert "more" in browser.text(".notes summary")


def test_each_number_of_the_finished_answer_has_its_verdict_in_word_and_icon(browser: Browser) -> None:
    answer = "Paracetamol for fever, child, oral: 15 mg/kg every 6 hours. For 12 kg give 7 mL."
    with page(browser, answer, held=True, facts=checked_facts) as server:
        ask(browser, QUESTION + " Weight 12 kg.")
        server.engine.release(8)
        browser.until(lambda: "mg/kg" in text_of_answer(browser), "the dose")
        assert browser.run(MARKS) == []
        server.engine.run_free()
        answered(browser)
        assert text_of_answer(browser) == answer
        assert browser.run(MARKS) == [
            ["15 mg/kg every 6 hours", "from source", 1],
            ["12 kg", "your number, no source", 1],
            ["7 mL", "no source: check", 1],
        ]
        told = "2 from source" in browser.text(".summary") and "1 without a source" in browser.text(".summary")
        assert told, browser.text(".summary")
        assert not browser.shown("article .danger")


def test_source_of_a_number_is_shown_on_focus_and_put_away_by_escape(browser: Browser) -> None:
    with page(browser, RIGHT, facts=checked_facts):
        ask(browser, QUESTION)
        answered(browser)
        assert not browser.shown(".tip")
        browser.run("document.querySelector('.number').focus()")
        assert browser.shown(".tip")
        assert "World Health Organization" in browser.text(".tip")
        role, name = browser.role_and_name(".number")
        assert role == "button"
        assert "from source" in name
        browser.type(ESCAPE)
        assert not browser.shown(".tip")
        browser.type(ENTER)
        assert browser.shown(".tip")
        browser.type(TAB)
        assert not browser.shown(".tip")
        browser.click(".number")
        assert browser.shown(".tip")


def test_note_of_a_number_is_not_hidden_by_the_question_box(browser: Browser) -> None:
    with page(browser, RIGHT, facts=checked_facts):
        browser.look(width=360, height=640)
        ask(browser, QUESTION)
        answered(browser)
        browser.run("document.querySelector('.number').focus()")
        script = "return document.querySelector(arguments[0]).getBoundingClientRect()[arguments[1]]"
        assert browser.run(script, ".tip", "bottom") <= browser.run(script, "#form", "top")


def test_number_that_contradicts_its_source_is_warned_of_above_the_answer(browser: Browser) -> None:
    with page(browser, WRONG, facts=checked_facts):
        ask(browser, QUESTION)
        answered(browser)
        told = browser.text(".danger").replace("\u00a0", " ")
        assert "contradicts its source" in told
        assert "40 mg/kg" in told
        assert "10 to 15 mg/kg" in told
        assert browser.role_and_name(".danger")[0] == "alert"
        assert browser.run(MARKS)[0] == ["40 mg/kg", "contradicts source", 1]
        assert "1 contradicting" in browser.run("return document.getElementById('status').textContent")


def test_a_dose_of_the_askers_own_without_support_is_told_above_the_answer(browser: Browser) -> None:
    with page(browser, "Yes, that is fine.", facts=checked_facts):
        ask(browser, "Is 500 mg/kg of paracetamol ok for a child?")
        answered(browser)
        told = browser.text(".asked-numbers")
        assert "Your 500\u00a0mg/kg is not what a checked source says" in told
        assert "15\u00a0mg/kg" in told
        assert "World Health Organization" in told


def test_places_of_numbers_count_code_points(browser: Browser) -> None:
    with page(browser, "  \U0001f489\U0001f489 Vaccine é: give 0.5 mL \U0001f476 and 2 mL."):
        ask(browser, "How much?")
        answered(browser)
        assert [mark[0] for mark in browser.run(MARKS)] == ["0.5 mL", "2 mL"]
        assert text_of_answer(browser) == "\U0001f489\U0001f489 Vaccine é: give 0.5 mL \U0001f476 and 2 mL."


def test_copied_answer_keeps_its_numbers(browser: Browser) -> None:
    with page(browser):
        ask(browser, "How much?")
        answered(browser)
        browser.run("getSelection().selectAllChildren(document.querySelector('.text'))")
        copied = browser.run("return getSelection().toString()").replace("\u00a0", " ")
        assert "15 mg/kg every 6 hours" in copied


def test_numbers_of_a_broken_answer_are_said_to_be_unchecked(browser: Browser) -> None:
    with page(browser) as server:
        server.engine.fail_next(after_tokens=3)
        ask(browser, "How much?")
        answered(browser)
        assert browser.run(MARKS) == []
        assert "were not checked" in browser.text(".problem")


_WITHOUT_VERDICTS = """
const [real, chunk] = [window.fetch, '{"choices":[{"delta":{"content":"Give 5 mL."},"finish_reason":"stop"}]}'];
const body = `data: ${chunk}\\n\\ndata: [DONE]\\n\\n`;
window.fetch = (path, how) => path.startsWith('/v1') ? Promise.resolve(new Response(body)) : real(path, how);
"""


def test_answer_that_comes_without_verdicts_is_said_to_be_unchecked(browser: Browser) -> None:
    with page(browser):
        browser.run(_WITHOUT_VERDICTS)
        ask(browser, "How much?")
        answered(browser)
        assert text_of_answer(browser) == "Give 5 mL."
        assert "were not checked" in browser.text("article .summary")


def test_saved_answer_says_so_and_can_be_asked_anew(browser: Browser) -> None:
    with page(browser, RIGHT, cache=ResponseCache(), facts=checked_facts) as server:
        ask(browser, QUESTION)
        answered(browser)
        assert not browser.shown(".saved")
        ask(browser, SAME)
        answered(browser, 2)
        assert browser.text(".saved p").startswith("Saved answer, made ")
        assert len(server.engine.requests) == 1
        assert browser.run(MARKS)[0][1] == "from source"
        browser.click(".saved button")
        answered(browser, 3)
        assert len(server.engine.requests) == 2
        assert browser.text("article:nth-of-type(3) h2") == SAME
        assert not browser.shown("article:nth-of-type(3) .saved")


@pytest.fixture
def unchecked(tmp_path: Path) -> Path:
    """A folder with a language whose danger signs nobody tested."""
    shipped = Path(edgemed.medical.__file__).parent / "languages" / "fr.toml"
    text = shipped.read_text(encoding="utf-8").replace("checked = true", "checked = false")
    (tmp_path / "fr.toml").write_text(text, encoding="utf-8")
    return tmp_path


def test_language_without_tested_danger_signs_says_so_all_the_time(browser: Browser, unchecked: Path) -> None:
    with page(browser, languages=unchecked):
        assert browser.role_and_name("#language") == ("combobox", "Language of the question")
        assert not browser.shown("#unchecked")
        choose(browser, "language", "fr")
        assert browser.text("#unchecked") == "Danger signs are not checked in this language."
        assert browser.run("return document.getElementById('question').lang") == "fr"
        browser.click("#question")
        ask(browser, "Quelle dose de paracétamol ?")
        answered(browser)
        assert browser.shown("article .unchecked")
        assert browser.run("return document.querySelector('article h2').lang") == "fr"
        assert browser.shown("#unchecked")
        assert browser.run("return document.getElementById('language').value") == "fr"


def test_language_chosen_is_the_one_asked_in(browser: Browser) -> None:
    with page(browser) as server:
        choose(browser, "language", "fr")
        browser.click("#question")
        ask(browser, "Quelle dose de paracétamol pour un enfant ?")
        answered(browser)
        prompt = server.engine.text_of(server.engine.requests[-1].prompt)
        assert "soignants" in prompt.split("<|im_end|>")[0]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_warnings_and_verdicts_fit_and_can_be_read(browser: Browser, width: int, dark: bool) -> None:
    answer = WRONG + " Maximum 60 mg/kg per day. For 12 kg give 7 mL."
    with page(browser, answer, cache=ResponseCache(), facts=checked_facts, offline=True):
        browser.look(width=width, height=640, dark=dark)
        ask(browser, DANGER + " Weight 12 kg, got MS QD, known MI.")
        answered(browser)
        browser.run("document.querySelector('.number').focus()")
        assert {mark[1] for mark in browser.run(MARKS)} >= {"contradicts source", "no source: check"}
        assert browser.run("return document.documentElement.scrollWidth") <= width
        assert browser.run(CONTRASTS) == []
        assert browser.run(SMALL_TARGETS) == []
        assert browser.console() == []
