"""The status page: what serves, how it does, and the last ten minutes as lines with a table beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from browser import Browser
from pages import CONTRASTS, SMALL_TARGETS, read_in
from serving import Running, serving

from edgemed.engines.fake import FakeEngine

SAMPLES = [
    {
        "t": 600.0 - 2 * n,
        "tokens_per_s": 4.0 + n % 3,
        "running": n % 3,
        "waiting": n % 5,
        "memory_bytes": None if n < 10 else 3 * 2**30 + n * 2**20,
        "kv_used": 100,
        "kv_cells": 2048,
        "cache_hits": n // 20,
        "questions": n // 10,
        "restarts": 0,
    }
    for n in range(300)
]

CANNED = """
const real = window.fetch;
const live = arguments[0];
window.fetch = (path, how) => path === "/api/live" ? Promise.resolve(live === null
  ? new Response('{"error": {"code": "not_found"}}', { status: 404 }) : new Response(live)) : real(path, how);
"""


@contextmanager
def status(browser: Browser, samples: list[dict[str, Any]] | None = SAMPLES, **options: Any) -> Iterator[Running]:
    """The status page over an engine without a model, with these samples; None: the server keeps none."""
    browser.look(width=1280)
    with serving(FakeEngine(n_slots=2), **options) as server:
        browser.open(server.url + "/status.html")
        browser.until(lambda: "fake" in browser.text("#figures"), "the page has asked for the status")
        browser.console()
        browser.run(CANNED, None if samples is None else json.dumps({"every_s": 2, "samples": samples}))
        line = "return document.querySelector('.plot .line')?.getAttribute('d').length"
        if samples:
            browser.until(lambda: (browser.run(line) or 0) > 1000, "the plots")
        yield server


def plot(browser: Browser, title: str) -> str:
    """A selector for the plot of that title."""
    titles = browser.run("return [...document.querySelectorAll('.plot figcaption b')].map((each) => each.textContent)")
    return f".plot:nth-of-type({titles.index(title) + 1})"


def test_page_tells_what_serves_and_how_it_does(browser: Browser) -> None:
    with status(browser, offline=True):
        told = browser.text("#figures")
        for part in (
            "answers questions",
            "normal",
            "fake",
            "512 tokens",
            "Questions at once\n2",
            "yes: edgemed is barred",
        ):
            assert part in told
        assert "Restarts of the engine\n0" in told
        assert "Running for" in told
        assert browser.run("return document.title") == "edgemed: this computer"


def test_plots_have_axes_units_and_the_same_figures_as_a_table(browser: Browser) -> None:
    with status(browser):
        speed = plot(browser, "Speed")
        assert "tokens per second" in browser.text(f"{speed} figcaption")
        assert browser.role_and_name(f"{speed} svg") in [
            (role, "Speed, tokens per second. Now 6, lowest 4, highest 6.") for role in ("image", "img")
        ]
        texts = "return [...document.querySelectorAll(arguments[0] + ' > svg text')].map((each) => each.textContent)"
        said = browser.run(texts, speed)
        assert {"0", "2", "10", "minutes ago"} <= set(said)
        browser.run("document.querySelector(arguments[0] + ' details').open = true", speed)
        rows = "return [...document.querySelectorAll(arguments[0] + ' tbody tr')].map((row) => row.innerText)"
        table = browser.run(rows, speed)
        assert len(table) == 11
        assert table[0] == "0\t6"
        assert browser.run("return document.querySelector(arguments[0] + ' caption').textContent", speed) == "Speed"


def test_missing_figures_leave_a_gap(browser: Browser) -> None:
    with status(browser):
        path = "return document.querySelector(arguments[0] + ' .line').getAttribute('d')"
        memory = browser.run(path, plot(browser, "Memory of edgemed"))
        speed = browser.run(path, plot(browser, "Speed"))
        assert speed.count("M") == memory.count("M") == 1
        assert speed.count("L") - memory.count("L") == 10


def test_lines_are_told_apart_without_colour(browser: Browser) -> None:
    with status(browser):
        queue = plot(browser, "Queue")
        assert browser.text(f"{queue} .legend").split() == ["being", "answered", "waiting"]
        dashes = "return getComputedStyle(document.querySelector(arguments[0])).strokeDasharray"
        assert browser.run(dashes, f"{queue} .line-0") == "none"
        assert browser.run(dashes, f"{queue} .line-1") != "none"


def test_open_table_stays_open_while_figures_come(browser: Browser) -> None:
    with status(browser):
        browser.run("document.querySelector('.plot details').open = true; document.querySelector('.plot').id = 'old'")
        browser.until(lambda: not browser.shown("#old"), "the next look")
        assert browser.run("return document.querySelector('.plot details').open")


def test_server_without_figures_says_so(browser: Browser) -> None:
    with status(browser, samples=None):
        browser.until(lambda: "keeps no figures" in browser.text("#plots"), "the words")


def test_first_seconds_have_plots_without_lines(browser: Browser) -> None:
    with status(browser, samples=[]):
        browser.until(lambda: "no figure yet" in browser.text("#plots"), "the words")


def test_server_that_is_gone_is_told(browser: Browser) -> None:
    with status(browser) as server:
        server.server.stop()
        browser.until(lambda: browser.shown("#condition"), "the words")
        assert "cannot be reached" in browser.text("#condition")


def test_page_asks_the_real_server_for_its_figures(browser: Browser) -> None:
    browser.look(width=1280)
    with serving(FakeEngine()) as server:
        assert server.chat().status_code == 200
        browser.open("about:blank")
        browser.console()
        browser.open(server.url + "/status.html")
        browser.until(lambda: browser.shown(".plot > svg"), "the plots")
        assert browser.console() == []


def test_link_to_it_leaves_the_conversation_alone(browser: Browser) -> None:
    with serving(FakeEngine()) as server:
        browser.open(server.url)
        browser.until(lambda: "Model:" in browser.text("#facts"), "the page")
        assert browser.role_and_name("#machine") == ("link", "This computer (opens in a new tab)")
        link = "const a = document.getElementById('machine'); return [a.target, a.getAttribute('href')]"
        assert browser.run(link) == ["_blank", "/status.html"]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_status_page_fits_and_can_be_read_in_every_language(browser: Browser, width: int, dark: bool) -> None:
    with status(browser, offline=True):
        browser.look(width=width, height=640, dark=dark)
        for code in ("es", "fr", "sw", "en"):
            read_in(browser, code)
            browser.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
            assert browser.run("return document.documentElement.scrollWidth") <= width, code
            assert browser.run(CONTRASTS) == [], code
            assert browser.run(SMALL_TARGETS) == [], code
