"""The sign-in page in a real browser, over TLS with the certificate that edgemed makes itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMEDRIVER, CHROMIUM, ENTER, TAB, Browser, browsing
from network import TOKEN, entrance, token_file
from pages import CONTRASTS, SMALL_TARGETS
from serving import Running, serving

from edgemed.engines.fake import FakeEngine


@pytest.fixture(scope="module")
def phone() -> Iterator[Browser]:
    """A browser whose user has compared the fingerprint and gone on."""
    if CHROMEDRIVER is None or CHROMIUM is None:
        pytest.skip("Chromium and chromedriver are not installed (Debian: apt install chromium chromium-driver)")
    with browsing(any_certificate=True) as made:
        yield made


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Running]:
    with serving(FakeEngine(), entrance=entrance(tmp_path, access_token_file=token_file(tmp_path))) as server:
        yield server


def open_login(phone: Browser, server: Running, *, width: int = 360, height: int = 640, dark: bool = False) -> None:
    phone.look(width=width, height=height, dark=dark)
    phone.open(server.url)
    phone.until(lambda: phone.shown("#token"), "the sign-in page")
    phone.until(lambda: phone.run("return document.activeElement.id") == "token", "the field has the focus")
    phone.until(lambda: refused(phone), "the page has asked whether it is signed in")


def refused(phone: Browser) -> bool:
    """Whether the browser has noted the one 401 that the page expects."""
    return any("/api/status" in line and "401" in line for line in phone.console())


def test_stranger_is_led_to_the_page_and_the_token_opens_it(phone: Browser, clinic: Running) -> None:
    open_login(phone, clinic)
    assert phone.run("return location.pathname") == "/login.html"
    phone.type(TOKEN + ENTER)
    phone.until(lambda: phone.shown("#question"), "the page behind")
    assert phone.run("return document.cookie") == ""  # no script can read it
    assert phone.console() == []
    phone.open(f"{clinic.url}/login.html")  # who is signed in is sent on
    phone.until(lambda: phone.shown("#question"), "the page again")


def test_sign_out_leads_back_and_the_back_button_shows_nothing(phone: Browser, clinic: Running) -> None:
    open_login(phone, clinic)
    phone.type(TOKEN + ENTER)
    phone.until(lambda: phone.shown("#sign-out"), "the page, with its way out")
    phone.click("#sign-out")
    phone.until(lambda: phone.shown("#token"), "the sign-in page")
    phone.call("POST", "/back", {})
    phone.until(lambda: phone.shown("#token"), "the sign-in page again")


def test_wrong_token_is_said_and_then_the_time_to_wait(phone: Browser, clinic: Running) -> None:
    open_login(phone, clinic)
    for _ in range(3):
        phone.run("document.querySelector('#token').value = ''")
        phone.type("wrong-token" + ENTER)
        phone.until(lambda: "not the access token" in phone.text("#problem"), "the refusal")
        phone.run("document.querySelector('#problem').hidden = true")
    phone.type(ENTER)
    phone.until(lambda: "seconds" in phone.text("#problem"), "the delay")
    assert phone.run("return document.activeElement.id") == "token"
    assert phone.role_and_name("#problem")[0] == "alert"


def test_it_works_without_a_mouse_and_with_a_screen_reader(phone: Browser, clinic: Running) -> None:
    open_login(phone, clinic)
    order = []
    for _ in range(2):
        phone.type(TAB)
        order.append(phone.run("return document.activeElement.id"))
    assert order == ["show", "enter"]
    assert phone.role_and_name("#token")[1] == "Access token"
    assert phone.role_and_name("#enter") == ("button", "Sign in")
    assert phone.run("return document.querySelector('#token').type") == "password"
    phone.click("#show")
    assert phone.run("return document.querySelector('#token').type") == "text"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_can_be_read_and_touched(
    phone: Browser, clinic: Running, tmp_path: Path, width: int, dark: bool
) -> None:
    open_login(phone, clinic, width=width, dark=dark)
    phone.run("const said = document.querySelector('#problem'); said.textContent = 'Wrong.'; said.hidden = false;")
    assert phone.run("return document.documentElement.scrollWidth") <= width
    assert phone.run(CONTRASTS) == []
    assert phone.run(SMALL_TARGETS) == []
    assert phone.run("return document.querySelector('#token').getBoundingClientRect().height") >= 44
    phone.picture(tmp_path / "login.png")
    assert (tmp_path / "login.png").stat().st_size > 1000


def test_unencrypted_page_says_so_before_anybody_types(phone: Browser, tmp_path: Path) -> None:
    open_to_all = entrance(tmp_path, access_token_file=token_file(tmp_path), insecure_lan=True)
    with serving(FakeEngine(), entrance=open_to_all) as server:
        open_login(phone, server)
        assert "not encrypted" in phone.text("#insecure")
        phone.type(TOKEN + ENTER)
        phone.until(lambda: phone.shown("#insecure"), "the page behind says so too")
        phone.until(lambda: phone.shown("#question"), "the page behind")


@pytest.mark.parametrize(("language", "words"), [("fr", "Jeton d'accès"), ("es", "Clave de acceso"), ("sw", "Msimbo")])
def test_it_speaks_the_language_of_the_browser(phone: Browser, clinic: Running, language: str, words: str) -> None:
    source = f"Object.defineProperty(navigator, 'languages', {{get: () => ['{language}-XX', 'en']}});"
    made = phone.call("POST", "/goog/cdp/execute", {
        "cmd": "Page.addScriptToEvaluateOnNewDocument", "params": {"source": source}
    })  # fmt: skip
    try:
        open_login(phone, clinic)
        assert words in phone.text("#label")
        assert phone.run("return document.documentElement.lang") == language
        assert phone.run("return document.documentElement.scrollWidth") <= 360
    finally:
        phone.call("POST", "/goog/cdp/execute", {"cmd": "Page.removeScriptToEvaluateOnNewDocument", "params": made})
