"""A real browser, driven over the WebDriver protocol with plain HTTP: Chromium without a window."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

CHROMEDRIVER = shutil.which("chromedriver")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

ENTER, ESCAPE, SHIFT, TAB = "\ue007", "\ue00c", "\ue008", "\ue004"

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"

# Without these, Chromium looks up its maker's hosts at every start.
_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
]


class Browser:
    """One browser window."""

    def __init__(self, http: httpx.Client, session: str) -> None:
        self._http = http
        self._path = f"/session/{session}"

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """The value of one WebDriver command; raises AssertionError with the driver's message."""
        reply = self._http.request(method, self._path + path, json=body if method == "POST" else None)
        value = reply.json()["value"]
        assert reply.status_code == 200, f"{path}: {value}"
        return value

    def open(self, url: str) -> None:
        """Load a page."""
        self.call("POST", "/url", {"url": url})

    def run(self, script: str, *args: Any) -> Any:
        """The value a script returns."""
        return self.call("POST", "/execute/sync", {"script": script, "args": list(args)})

    def type(self, text: str) -> None:
        """Press keys, where the focus is."""
        keys: list[dict[str, str]] = []
        for key in text:
            keys += [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self.press(keys)

    def press(self, keys: list[dict[str, str]]) -> None:
        """Press keys in a given order of downs and ups."""
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": keys}]})

    def click(self, css: str) -> None:
        """Click what a CSS selector finds first."""
        self.call("POST", f"/element/{self._find(css)}/click", {})

    def text(self, css: str) -> str:
        """The visible text of what a CSS selector finds first; "" when nothing is there."""
        return str(self.run("const e = document.querySelector(arguments[0]); return e ? e.innerText : '';", css))

    def shown(self, css: str) -> bool:
        """Whether it is there and takes up room."""
        script = "const e = document.querySelector(arguments[0]); return !!e && e.getClientRects().length > 0;"
        return bool(self.run(script, css))

    def role_and_name(self, css: str) -> tuple[str, str]:
        """What a screen reader is told."""
        element = self._find(css)
        return (
            str(self.call("GET", f"/element/{element}/computedrole")),
            str(self.call("GET", f"/element/{element}/computedlabel")),
        )

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float = 30) -> None:
        """Wait for a condition; the browser cannot call us."""
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, f"waited {timeout_s} s for: {what}"
            time.sleep(0.02)

    def look(self, *, width: int, height: int = 800, dark: bool = False, calm: bool = False) -> None:
        """Set the window's size and the user's preferences."""
        self._devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if calm else "no-preference"},
        ]
        self._devtools("Emulation.setEmulatedMedia", features=features)

    def on_paper(self, paper: bool) -> None:
        """Show the page as it would be printed, or as on the screen again."""
        self._devtools("Emulation.setEmulatedMedia", media="print" if paper else "", features=[])

    def allow(self, *permissions: str) -> None:
        """Grant what a browser else asks its user for."""
        self._devtools("Browser.grantPermissions", permissions=list(permissions))

    def pages_printed(self) -> int:
        """How many sheets of A4 the page takes."""
        pdf = base64.b64decode(self.call("POST", "/print", {"page": {"width": 21.0, "height": 29.7}}))
        return len(re.findall(rb"/Type\s*/Page\b", pdf))

    def picture(self, path: Path) -> None:
        """Save what the window shows."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self.call("GET", "/screenshot")))

    def console(self) -> list[str]:
        """Warnings and errors of the page since the last call, refused resources among them."""
        return [str(entry["message"]) for entry in self.call("POST", "/se/log", {"type": "browser"})]

    def _devtools(self, command: str, **parameters: Any) -> None:
        self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def _find(self, css: str) -> str:
        return str(self.call("POST", "/element", {"using": "css selector", "value": css})[_ELEMENT])


@contextmanager
def browsing(*, any_certificate: bool = False) -> Iterator[Browser]:
    """A fresh browser, ended with the block; with `any_certificate` as if its user had gone past every warning."""
    assert CHROMEDRIVER is not None
    with (
        TemporaryDirectory() as profile,
        subprocess.Popen(
            [CHROMEDRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as driver,
    ):
        assert driver.stdout is not None
        try:
            with httpx.Client(base_url=_address(driver.stdout), timeout=60, trust_env=False) as http:
                options = {"binary": CHROMIUM, "args": [*_FLAGS, f"--user-data-dir={profile}"]}
                wanted = {
                    "goog:chromeOptions": options,
                    "goog:loggingPrefs": {"browser": "ALL"},
                    "acceptInsecureCerts": any_certificate,
                }
                made = http.post("/session", json={"capabilities": {"alwaysMatch": wanted}}).json()["value"]
                assert "sessionId" in made, made
                browser = Browser(http, made["sessionId"])
                try:
                    yield browser
                finally:
                    browser.call("DELETE", "")
        finally:
            driver.terminate()
            driver.stdout.close()


def _address(lines: Any) -> str:
    for line in lines:
        if found := re.search(r"started successfully on port (\d+)", line):
            return f"http://127.0.0.1:{found.group(1)}"
    raise AssertionError("chromedriver did not start")
