"""The page in a real browser, as a health worker uses it: by keyboard, on a small screen, when things go wrong."""

from __future__ import annotations

import re

import pytest
from browser import ENTER, ESCAPE, SHIFT, TAB, Browser
from pages import ANSWER, CONTRASTS, DEMO, SMALL_TARGETS, answered, ask, page, text_of_answer
from serving import serving

from edgemed.engines.fake import FakeEngine


def test_question_is_asked_and_answered_by_keyboard_alone(browser: Browser) -> None:
    with page(browser):
        ask(browser, "How much paracetamol?")
        answered(browser)
        assert browser.text("article h2") == "How much paracetamol?"
        assert text_of_answer(browser) == ANSWER
        assert "clinician decides" in browser.text("article footer")
        assert browser.run("return document.activeElement.id") == "question"
        assert browser.console() == []


def test_words_appear_as_they_come(browser: Browser) -> None:
    with page(browser, held=True) as server:
        ask(browser, "How much?")
        server.engine.release(2)
        browser.until(lambda: text_of_answer(browser) == "Give 15", "the first two words")
        assert browser.shown("#stop")
        assert not browser.shown("#ask")
        server.engine.run_free()
        answered(browser)
        assert browser.shown("#ask")


def test_number_and_unit_stay_on_one_line(browser: Browser) -> None:
    with page(browser, "Give 180 mg, then 5 mL or 2 drops in 3 spoons, 10 to 14 days."):
        ask(browser, "How much?")
        answered(browser)
        kept = "180\u00a0mg, then 5\u00a0mL or 2\u00a0drops in 3\u00a0spoons, 10\u00a0to 14\u00a0days."
        assert kept in text_of_answer(browser, kept=True)


@pytest.mark.parametrize("how", ["escape", "button"])
def test_stop_ends_the_answer_in_the_engine_and_says_it_is_incomplete(browser: Browser, how: str) -> None:
    with page(browser, held=True) as server:
        ask(browser, "How much?")
        server.engine.release(2)
        browser.until(lambda: text_of_answer(browser) == "Give 15", "two words")
        if how == "escape":
            browser.type(ESCAPE)
        else:
            browser.click("#stop")
        answered(browser)
        assert "incomplete" in browser.text(".problem")
        assert server.engine.wait_until_idle()
        assert len(server.engine.cancelled) == 1
        assert browser.run("return document.activeElement.id") == "question"


def test_shift_enter_makes_a_new_line(browser: Browser) -> None:
    with page(browser):
        browser.type("one")
        keys = [{"type": "keyDown", "value": SHIFT}, {"type": "keyDown", "value": ENTER}]
        browser.press([*keys, {"type": "keyUp", "value": ENTER}, {"type": "keyUp", "value": SHIFT}])
        browser.type("two")
        assert browser.run("return document.getElementById('question').value") == "one\ntwo"
        assert not browser.shown("article")


@pytest.mark.parametrize("words", ["", "   ", "\u200b\u2060"])
def test_empty_question_is_not_sent(browser: Browser, words: str) -> None:
    with page(browser) as server:
        browser.type(words + ENTER)
        browser.until(lambda: browser.run("return document.getElementById('status').textContent"), "a word about it")
        assert server.engine.requests == []


def test_an_answer_without_a_word_is_said_to_be_none(browser: Browser) -> None:
    with page(browser, " "):
        ask(browser, "How much?")
        answered(browser)
        assert "The model gave no answer" in browser.text(".problem")


@pytest.mark.parametrize("demo", [DEMO, ""])
def test_on_a_phone_the_empty_question_box_leaves_room_and_grows_with_the_first_letter(
    browser: Browser, demo: str
) -> None:
    height = "return document.getElementById('form').offsetHeight"
    with page(browser, demo_notice=demo):
        browser.look(width=360, height=640)
        assert browser.run(height) <= 160
        ask(browser, "How much?")
        answered(browser)
        assert browser.shown("#alone" if demo else "#follow-row")
        assert browser.run(height) <= 160
        assert browser.run(SMALL_TARGETS) == []
        assert browser.run("return document.documentElement.scrollWidth") <= 360
        before = browser.run("return document.getElementById('question').offsetHeight")
        browser.type("A")
        assert browser.run("return document.getElementById('question').offsetHeight") > before
        browser.run("const box = document.getElementById('question'); box.value = ''")
        for language in ("en", "es", "fr", "sw"):
            browser.run("const s = document.getElementById('language'); s.value = arguments[0];"
                        "s.dispatchEvent(new Event('change'))", language)  # fmt: skip
            assert browser.run(height) <= 160, language


def test_demonstration_is_named_on_the_page_and_on_every_answer(browser: Browser) -> None:
    with page(browser, demo_notice=DEMO):
        assert browser.text("#demo") == DEMO
        ask(browser, "First")
        answered(browser, 1)
        ask(browser, "Second")
        answered(browser, 2)
        for number in (1, 2):
            assert DEMO in browser.text(f"article:nth-of-type({number}) footer")


def test_other_models_are_not_called_a_demonstration(browser: Browser) -> None:
    with page(browser):
        assert not browser.shown("#demo")


def test_page_that_stays_open_learns_of_another_model(browser: Browser) -> None:
    with page(browser) as server:
        port = int(server.url.rpartition(":")[2])
        assert not browser.shown("#demo")
    with serving(FakeEngine(ANSWER), port=port, demo_notice=DEMO):
        ask(browser, "How much?")
        answered(browser)
        assert DEMO in browser.text("article footer")
        assert browser.text("#demo") == DEMO


def test_answer_is_text_never_markup(browser: Browser) -> None:
    nasty = '<img src=x onerror="document.title=1"><script>document.title=2</script><b>bold</b> end'
    with page(browser, nasty):
        ask(browser, "<i>How</i> much?")
        answered(browser)
        assert text_of_answer(browser) == nasty
        assert browser.text("article h2") == "<i>How</i> much?"
        assert browser.run("return document.querySelectorAll('article img, article b, article i').length") == 0
        assert browser.run("return document.title") == "edgemed"


def test_questions_stand_alone_unless_the_follow_up_is_ticked(browser: Browser) -> None:
    with page(browser) as server:
        assert not browser.shown("#follow")
        ask(browser, "First question")
        answered(browser, 1)
        ask(browser, "Second question")
        answered(browser, 2)
        browser.click("#follow")
        browser.click("#question")
        ask(browser, "Third question")
        answered(browser, 3)
        prompts = [server.engine.text_of(request.prompt) for request in server.engine.requests]
        assert "First question" not in prompts[1]
        assert "Second question" in prompts[2]
        assert "Give 15 mg/kg" in prompts[2]
        assert "First question" not in prompts[2]
        assert not browser.run("return document.getElementById('follow').checked")


def test_demonstration_offers_no_follow_up_and_says_why(browser: Browser) -> None:
    with page(browser, demo_notice=DEMO):
        assert not browser.shown("#alone")
        ask(browser, "First question")
        answered(browser)
        assert not browser.shown("#follow")
        assert "single questions" in browser.text("#alone")
    with page(browser):
        ask(browser, "First question")
        answered(browser)
        assert browser.shown("#follow")
        assert not browser.shown("#alone")


def test_follow_up_is_not_sent_to_a_demonstration_that_took_the_models_place(browser: Browser) -> None:
    with page(browser) as server:
        port = int(server.url.rpartition(":")[2])
        ask(browser, "First question")
        answered(browser)
        browser.click("#follow")
        browser.click("#question")
    with serving(FakeEngine(ANSWER), port=port, demo_notice=DEMO) as demo:
        ask(browser, "Second question")
        answered(browser, 2)
        assert "in full" in browser.text("article:nth-of-type(2) .problem")
        assert browser.run("return document.getElementById('question').value") == "Second question"
        assert demo.engine.requests == []


def test_broken_answer_says_what_to_do_and_can_be_asked_again(browser: Browser) -> None:
    with page(browser) as server:
        server.engine.fail_next(after_tokens=2)
        ask(browser, "How much?")
        answered(browser)
        assert "incomplete" in browser.text(".problem p")
        assert not browser.shown("#follow")
        browser.click(".problem button")
        answered(browser, 2)
        assert text_of_answer(browser, 2) == ANSWER


def test_too_long_question_comes_back_to_be_shortened(browser: Browser) -> None:
    with page(browser, context_length=200):
        browser.run("document.getElementById('question').value = 'word '.repeat(500).trim()")
        ask(browser, "")
        answered(browser)
        assert "too long" in browser.text(".problem")
        assert "175 are possible" in browser.text(".problem")
        assert browser.run("return document.getElementById('question').value").startswith("word word")


def test_answer_cut_at_its_length_says_so(browser: Browser) -> None:
    with page(browser, answer_tokens=3):
        ask(browser, "How much?")
        answered(browser)
        assert text_of_answer(browser) == "Give 15 mg/kg"
        assert "incomplete" in browser.text(".problem")


def test_waiting_question_shows_its_place(browser: Browser) -> None:
    with page(browser, held=True) as server, server.stream() as other:
        assert server.engine.wait_until_running()
        ask(browser, "How much?")
        browser.until(lambda: "yours is next" in browser.text(".doing"), "the place in the queue")
        server.engine.run_free()
        other.read()
        answered(browser)
        assert text_of_answer(browser) == ANSWER


def test_full_server_says_when_to_ask_again(browser: Browser) -> None:
    with page(browser, held=True, max_waiting=0) as server, server.stream():
        assert server.engine.wait_until_running()
        ask(browser, "How much?")
        answered(browser)
        assert "Ask again in about" in browser.text(".problem")


def test_server_that_ends_is_explained(browser: Browser) -> None:
    with page(browser, held=True) as server:
        ask(browser, "How much?")
        server.engine.release(2)
        browser.until(lambda: text_of_answer(browser) == "Give 15", "two words")
        server.server.stop()
        answered(browser)
        assert "edgemed was closed" in browser.text(".problem")
        browser.until(lambda: browser.run("return fetch('/health').then(() => false, () => true)"), "it has ended")
        ask(browser, "Again?")
        answered(browser, 2)
        assert "cannot be reached" in browser.text("article:nth-of-type(2) .problem")


def test_nothing_is_kept_in_the_browser(browser: Browser) -> None:
    with page(browser):
        ask(browser, "Secret question")
        answered(browser)
        assert browser.run("return [sessionStorage.length, document.cookie]") == [0, ""]
        kept = browser.run("return Object.entries(localStorage)")  # the conversation's key alone
        assert [name for name, _ in kept] == ["edgemed.sessions"]
        assert re.fullmatch(r'\["[0-9a-f]{32}"\]', kept[0][1])
        browser.call("POST", "/refresh", {})
        browser.until(lambda: "Model:" in browser.text("#facts"), "the page is loaded again")
        assert not browser.shown("article")
        assert browser.run("return document.getElementById('question').value") == ""


def test_clear_removes_every_question_and_answer(browser: Browser) -> None:
    with page(browser):
        ask(browser, "How much?")
        answered(browser)
        browser.click("#clear")
        browser.call("POST", "/alert/accept", {})
        assert not browser.shown("article")
        assert browser.shown("#welcome")
        assert "15" not in browser.run("return document.body.textContent")


def test_closing_the_page_cancels_its_answer(browser: Browser) -> None:
    with page(browser, held=True) as server:
        ask(browser, "How much?")
        assert server.engine.wait_until_running()
        browser.open("about:blank")
        assert server.engine.wait_until_idle()


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_page_fits_its_window_and_can_be_read(browser: Browser, width: int, dark: bool) -> None:
    with page(browser, ANSWER + " " + "Verylongword" * 20, demo_notice=DEMO, offline=True) as server:
        browser.look(width=width, height=640, dark=dark)
        ask(browser, "How much?")
        answered(browser)
        server.engine.fail_next()
        ask(browser, "And now?")
        answered(browser, 2)
        assert browser.run("return document.documentElement.scrollWidth") <= width
        assert browser.run(CONTRASTS) == []
        assert browser.run(SMALL_TARGETS) == []


def test_long_answer_is_left_at_its_start(browser: Browser) -> None:
    with page(browser, "One more line of the answer. " * 60, held=True) as server:
        browser.look(width=360, height=640)
        ask(browser, "Short question")
        for _ in range(30):
            server.engine.release(6)
        browser.until(lambda: text_of_answer(browser).count("line") == 30, "half of the answer")
        server.engine.run_free()
        answered(browser)
        top = "return document.querySelector('article h2').getBoundingClientRect().top"
        assert 0 <= browser.run(top) < 100


def test_screen_reader_is_told_names_roles_and_whole_sentences(browser: Browser) -> None:
    with page(browser, held=True) as server:
        assert browser.role_and_name("#question") == ("textbox", "Your question")
        assert browser.role_and_name("#ask") == ("button", "Ask")
        assert browser.run("return document.documentElement.lang") == "en"
        spoken = "return [...document.querySelectorAll('#spoken p')].map((p) => p.textContent)"
        ask(browser, "How much?")
        assert browser.role_and_name("#stop") == ("button", "Stop")
        server.engine.release(5)
        browser.until(lambda: text_of_answer(browser).endswith("6"), "five words")
        assert browser.run(spoken) == []
        server.engine.release(2)
        browser.until(lambda: browser.run(spoken) == ["Give 15 mg/kg every 6 hours."], "the first sentence")
        server.engine.run_free()
        answered(browser)
        assert browser.run(spoken)[-1] == "Maximum 60 mg/kg per day."
        told = browser.run("return document.getElementById('status').textContent")
        assert told == "The answer is complete. Numbers in this answer: 3 without a source (check)."


def test_slow_and_reduced_mode_are_said_in_plain_words_until_they_end(browser: Browser) -> None:
    with page(browser) as server:
        assert not browser.shown("#condition")
        server.engine.report_pace(3.0, expected=9.0, slow=True)
        ask(browser, "How much?")  # the page also looks by itself every 10 s
        answered(browser)
        assert "about 3 times longer" in browser.text("#condition")
        server.engine.report_pace(9.0, expected=9.0)
        server.engine.move_to_rung(1, "memory", context_length=256)
        ask(browser, "And now?")
        answered(browser, 2)
        assert "Reduced mode" in browser.text("#condition")
        assert browser.run(CONTRASTS) == []
        server.engine.move_to_rung(0, None, context_length=512)
        ask(browser, "And now?")
        answered(browser, 3)
        assert not browser.shown("#condition")
        assert browser.console() == []


ACTIONS = ["again", "copy", "take"]


def test_tab_goes_through_the_page_in_its_order(browser: Browser) -> None:
    with page(browser):
        ask(browser, "How much?")
        answered(browser)
        order = []
        while "question" not in order and len(order) < 20:
            browser.type(TAB)
            order.append(browser.run("return document.activeElement.id || document.activeElement.classList[0] || ''"))
        head = ["skip", "show-questions", "show-calculators", "clear", "machine", "interface"]
        # "": round through the browser's own bar
        assert order == ["language", "ask", "", *head, "number", "number", *ACTIONS, "follow", "question"]


def test_nothing_moves_for_who_asked_for_calm(browser: Browser) -> None:
    moving = "return getComputedStyle(document.querySelector('.doing'), '::before').animationName"
    with page(browser, held=True):
        ask(browser, "How much?")
        browser.until(lambda: browser.shown(".doing"), "the question is sent")
        assert browser.run(moving) == "pulse"
        browser.look(width=1280, calm=True)
        assert browser.run(moving) == "none"


def test_browser_itself_enforces_the_content_policy(browser: Browser) -> None:
    with page(browser):
        script = (
            "const s = document.createElement('script'); "
            "try { s.textContent = 'window.ran = 1'; document.body.append(s); } catch {} "
            "const i = new Image(); i.src = 'http://127.0.0.1:9/x.png'; document.body.append(i); "
            "return window.ran === undefined"
        )
        assert browser.run(script)
        browser.until(lambda: any("Content Security Policy" in line for line in browser.console()), "a refusal")
