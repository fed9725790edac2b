"""What a screen reader, a keyboard and a large print need, asked of every view of the page."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from browser import TAB, Browser
from pages import answered, ask, page, read_in
from serving import serving

from edgemed.demo.supported import checked_facts
from edgemed.engines.fake import FakeEngine

DANGER = "My child of 12 kg is convulsing now, MS QD. Dose of paracetamol for fever?"
ANSWER = "Paracetamol for fever, child, oral: 40 mg/kg every 6 hours. For 12 kg give 7 mL."

# Each fault of the document as a line of text.
FAULTS = """
const faults = [];
const ids = [...document.querySelectorAll('[id]')].map((e) => e.id);
for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) faults.push(`id twice: ${id}`);
for (const name of ['aria-describedby', 'aria-labelledby', 'for']) {
  for (const e of document.querySelectorAll(`[${name}]`)) {
    for (const id of e.getAttribute(name).split(' ')) {
      if (!document.getElementById(id)) faults.push(`${name}: ${id} is not there`);
    }
  }
}
let level = 0;
for (const e of document.querySelectorAll('h1, h2, h3, h4, h5, h6')) {
  if (!e.getClientRects().length) continue;
  const mine = Number(e.tagName[1]);
  if (mine > level + 1) faults.push(`heading jumps from ${level} to ${mine}: ${e.textContent}`);
  level = mine;
}
for (const e of document.querySelectorAll('svg')) {
  const silent = e.getAttribute('aria-hidden') === 'true';
  const named = e.getAttribute('role') === 'img' && e.getAttribute('aria-label');
  if (!silent && !named) faults.push('a picture without words');
}
for (const e of document.querySelectorAll('[tabindex]')) if (e.tabIndex > 0) faults.push('an order of its own');
for (const e of document.querySelectorAll('table')) {
  if (!e.querySelector('th[scope]')) faults.push('a table without headings');
}
if (document.querySelectorAll('main').length !== 1) faults.push('not one main part');
if (!document.title || !document.documentElement.lang) faults.push('no title or language');
return [...new Set(faults)];
"""

CONTROLS = """
const controls = [...document.querySelectorAll('button, a, input, select, textarea, summary, [role=button]')]
  .filter((e) => e.getClientRects().length && e.checkVisibility() && !e.closest('.unseen'));
controls.forEach((e, n) => e.setAttribute('data-n', n));
return controls.length;
"""


def faults(browser: Browser) -> list[str]:
    """What is wrong with the document now, controls without a name among it."""
    found = list(browser.run(FAULTS))
    for number in range(browser.run(CONTROLS)):
        role, name = browser.role_and_name(f"[data-n='{number}']")
        if not name.strip() or role in ("", "none", "generic"):
            found.append(f"{role} without a name: " + browser.text(f"[data-n='{number}']"))
    return found


def empty(_browser: Browser) -> None:
    """The first view."""


def answer(browser: Browser) -> None:
    """An answer with every kind of warning."""
    ask(browser, DANGER)
    answered(browser)


def slip(browser: Browser) -> None:
    """The slip of that answer."""
    answer(browser)
    browser.run("document.querySelector('.take').click()")


def calculators(browser: Browser) -> None:
    """Two calculators, open."""
    browser.click("#show-calculators")
    browser.until(lambda: browser.shown(".calculator"), "the forms")
    browser.run("[...document.querySelectorAll('.calculator')].slice(0, 2).forEach((each) => { each.open = true; })")


VIEWS = [empty, answer, slip, calculators]


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.__name__)
def test_every_view_has_names_headings_and_references_in_order(
    browser: Browser, view: Callable[[Browser], None]
) -> None:
    with page(browser, ANSWER, facts=checked_facts, offline=True):
        view(browser)
        assert faults(browser) == []


def test_status_page_has_names_headings_and_references_in_order(browser: Browser) -> None:
    with serving(FakeEngine()) as server:
        browser.look(width=1280)
        browser.open(server.url + "/status.html")
        browser.until(lambda: browser.shown(".plot"), "the plots")
        assert faults(browser) == []


LARGE_PRINT = "document.documentElement.style.fontSize = '200%';"
CUT = """
return [...document.querySelectorAll('button, label:not(.question-label), .choice, th, td, dd, h2')]
  .filter((e) => e.getClientRects().length && getComputedStyle(e).overflow === 'hidden')
  .filter((e) => e.scrollWidth > e.clientWidth + 1)
  .map((e) => e.textContent);
"""


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.__name__)
@pytest.mark.parametrize(("width", "large_print"), [(640, False), (320, False), (1280, True), (640, True)])
def test_zoom_and_large_print_lose_nothing_and_need_no_sideways_scrolling(
    browser: Browser, view: Callable[[Browser], None], width: int, large_print: bool
) -> None:
    with page(browser, ANSWER, facts=checked_facts, offline=True):
        view(browser)
        browser.look(width=width, height=512)
        if large_print:
            browser.run(LARGE_PRINT)
        read_in(browser, "fr")
        assert browser.run("return document.documentElement.scrollWidth") <= width
        assert browser.run(CUT) == []


def test_focus_can_be_seen_on_every_control(browser: Browser) -> None:
    with page(browser, ANSWER, facts=checked_facts):
        answer(browser)
        seen = "const s = getComputedStyle(document.activeElement); return [s.outlineStyle, parseFloat(s.outlineWidth)]"
        for _ in range(14):
            browser.type(TAB)
            if browser.run("return document.activeElement !== document.body"):
                style, width = browser.run(seen)
                assert style == "solid", browser.run("return document.activeElement.outerHTML")
                assert width >= 2


def test_focused_control_is_not_under_the_question_box(browser: Browser) -> None:
    with page(browser, ANSWER, facts=checked_facts):
        browser.look(width=360, height=640)
        answer(browser)
        for selector in (".again", ".copy", ".take"):
            browser.run("document.querySelector(arguments[0]).focus()", selector)
            below = "return document.querySelector(arguments[0]).getBoundingClientRect().bottom"
            assert browser.run(below, selector) <= browser.run(
                "return document.getElementById('form').getBoundingClientRect().top"
            )
