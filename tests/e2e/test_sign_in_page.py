"""The way in from a phone: the access token, the page behind it, and the way out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from browser import ENTER, Browser
from pages import CONTRASTS, SMALL_TARGETS, ask, read_in
from serving import Running, serving

from edgemed.engines.fake import FakeEngine

TOKEN = "abcd-efgh-1234-5678"
WARNING = "This server is open to the network without encryption."


@contextmanager
def locked(browser: Browser, **options: Any) -> Iterator[Running]:
    """A server that asks for its token, and its address opened by a stranger."""
    browser.look(width=1280)
    with serving(FakeEngine(), access_token=TOKEN, **options) as server:
        browser.open(server.url)
        browser.until(lambda: browser.shown("#enter:enabled"), "the sign-in page")
        yield server
        browser.call("DELETE", "/cookie")
        browser.run("localStorage.clear()")


def sign_in(browser: Browser) -> None:
    """Type the token and press Enter."""
    browser.run("document.getElementById('token').focus()")
    browser.type(TOKEN + ENTER)
    browser.until(lambda: "Model:" in browser.text("#facts"), "the page")


def test_token_leads_to_the_page_and_signing_out_back(browser: Browser) -> None:
    with locked(browser):
        sign_in(browser)
        assert browser.shown("#sign-out")
        assert browser.role_and_name("#sign-out") == ("button", "Sign out")
        browser.click("#sign-out")
        browser.until(lambda: browser.shown("#enter:enabled"), "the sign-in page")


def test_wrong_token_is_told(browser: Browser) -> None:
    with locked(browser):
        browser.type("wrong" + ENTER)
        browser.until(lambda: "not the access token" in browser.text("#problem"), "what is wrong")
        assert browser.role_and_name("#problem")[0] == "alert"


def test_page_whose_sign_in_ended_leads_to_the_sign_in_page(browser: Browser) -> None:
    with locked(browser):
        sign_in(browser)
        browser.call("DELETE", "/cookie")
        ask(browser, "How much?")
        browser.until(lambda: browser.shown("#enter:enabled"), "the sign-in page")


def test_loopback_page_offers_no_signing_out(browser: Browser) -> None:
    with serving(FakeEngine()) as server:
        browser.open(server.url)
        browser.until(lambda: "Model:" in browser.text("#facts"), "the page")
        assert not browser.shown("#sign-out")
        assert not browser.shown("#insecure")


def test_unencrypted_network_is_warned_of_on_the_page(browser: Browser) -> None:
    with locked(browser, network_warning=WARNING):
        sign_in(browser)
        assert "everybody on the same network can read" in browser.text("#insecure")


def test_language_chosen_on_the_page_is_that_of_the_sign_in(browser: Browser) -> None:
    with locked(browser):
        sign_in(browser)
        read_in(browser, "sw")
        browser.click("#sign-out")
        browser.until(lambda: browser.shown("#enter:enabled"), "the sign-in page")
        assert browser.text("#enter") == "Ingia"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_way_in_fits_and_can_be_read(browser: Browser, width: int, dark: bool) -> None:
    with locked(browser, network_warning=WARNING):
        for _view in ("sign in", "page"):
            browser.look(width=width, height=640, dark=dark)
            assert browser.run("return document.documentElement.scrollWidth") <= width
            assert browser.run(CONTRASTS) == []
            assert browser.run(SMALL_TARGETS) == []
            if browser.shown("#token"):
                sign_in(browser)
