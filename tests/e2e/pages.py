"""The page, open in a browser over a server without a model, and what is asked of every view of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from browser import ENTER, Browser
from serving import Running, serving

from edgemed.engines.fake import AnswerOf, FakeEngine

ANSWER = "Give 15 mg/kg every 6 hours. Maximum 60 mg/kg per day."
DEMO = "Demonstration model, not for care."


@contextmanager
def page(browser: Browser, answer: str | AnswerOf = ANSWER, *, held: bool = False, **options: Any) -> Iterator[Running]:
    """The page, open in the browser, over an engine that gives `answer`."""
    n_slots = options.pop("n_slots", 1)
    context_length = options.pop("context_length", 512)
    engine = FakeEngine(answer, held=held, n_slots=n_slots, context_length=context_length)
    browser.look(width=1280)
    with serving(engine, **options) as server:
        browser.open(server.url)
        browser.until(lambda: "Model:" in browser.text("#facts"), "the page has asked for the status")
        browser.console()
        yield server


def ask(browser: Browser, question: str) -> None:
    """Type a question and press Enter."""
    browser.type(question + ENTER)


def answered(browser: Browser, number: int = 1) -> None:
    """Wait until the answer of that number is there as a whole."""
    card = f"article:nth-of-type({number})"
    browser.until(lambda: browser.shown(card) and not browser.shown(f"{card} .doing"), "the answer has ended")


def text_of_answer(browser: Browser, number: int = 1, *, kept: bool = False) -> str:
    """What that answer says, without the verdicts on its numbers; with plain blanks, unless `kept`."""
    text = str(browser.run(_WORDS, f"article:nth-of-type({number}) .text"))
    return text if kept else text.replace("\u00a0", " ")


def choose(browser: Browser, select: str, value: str) -> None:
    """Choose an option as the keyboard does."""
    script = "const s = document.getElementById(arguments[0]); s.value = arguments[1]; "
    browser.run(script + "s.dispatchEvent(new Event('change', {bubbles: true}));", select, value)


def read_in(browser: Browser, language: str) -> None:
    """Choose the page's own language, and wait until it is there."""
    choose(browser, "interface", language)
    browser.until(lambda: browser.run("return document.documentElement.lang") == language, f"the page in {language}")


def announced(browser: Browser) -> str:
    """What a screen reader was told last."""
    return str(browser.run("return document.getElementById('status').textContent"))


_WORDS = """
const copy = document.querySelector(arguments[0])?.cloneNode(true);
if (!copy) return '';
for (const each of copy.querySelectorAll('.tag, .tip')) each.remove();
return copy.textContent;
"""


# Texts whose contrast with the ground behind them is below 4.5 (WCAG 2.2, success criterion 1.4.3).
CONTRASTS = """
const light = (c) => c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4;
const rgb = (s) => s.match(/[\\d.]+/g).map(Number);
const lum = ([r, g, b]) => 0.2126 * light(r) + 0.7152 * light(g) + 0.0722 * light(b);
const ground = (e) => { for (; e; e = e.parentElement) {
  const c = rgb(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0.99) return c; } };
const TEXTS = 'h1, h2, h3, h4, p, li, b, a, td, th, dt, dd, span, summary, legend, button, label, textarea, input,'
  + 'select';
return [...document.querySelectorAll(TEXTS)]
  .filter((e) => e.getClientRects().length && !e.closest('.unseen'))
  .map((e) => { const [a, b] = [lum(rgb(getComputedStyle(e).color)), lum(ground(e))].sort((x, y) => y - x);
    return [e.textContent.slice(0, 30), (a + 0.05) / (b + 0.05)]; })
  .filter(([, ratio]) => ratio < 4.5);
"""

# Controls smaller than a finger needs (44 CSS pixels; WCAG 2.2, success criterion 2.5.5, which excepts those in a line
# of text).
SMALL_TARGETS = """
return [...document.querySelectorAll('button, textarea, select, summary, .choice, .field > input, header a')]
  .filter((e) => e.getClientRects().length)
  .filter((e) => e.getBoundingClientRect().height < 43.9 || e.getBoundingClientRect().width < 43.9)
  .map((e) => e.id || e.textContent);
"""
