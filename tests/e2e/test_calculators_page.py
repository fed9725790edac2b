"""The calculators in a real browser: forms, faults beside their fields, results, the way into a question."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from browser import ENTER, Browser
from pages import CONTRASTS, SMALL_TARGETS, answered, ask, page
from serving import Running

FORM = "document.querySelector(`form[aria-label^='${arguments[0]}']`)"

FILL = f"""
const form = {FORM};
form.closest('details').open = true;
for (const [label, value] of Object.entries(arguments[1])) {{
  const field = [...form.querySelectorAll('.field')].find((each) => each.textContent.startsWith(label));
  const option = [...field.querySelectorAll('.choice')].find((each) => each.textContent === value);
  if (option) {{ option.querySelector('input').click(); continue; }}
  const box = field.querySelector('input');
  box.value = value;
  box.dispatchEvent(new Event('input', {{bubbles: true}}));
}}
"""

DOSE = {"Weight": "12", "Dose (": "15", "The dose": "per dose"}


@contextmanager
def calculators(browser: Browser, *args: Any, **options: Any) -> Iterator[Running]:
    """The page with its calculators open."""
    with page(browser, *args, **options) as server:
        browser.click("#show-calculators")
        browser.until(lambda: browser.shown(".calculator"), "the forms")
        yield server


def calculate(browser: Browser, title: str, values: dict[str, str]) -> None:
    """Fill a form and send it."""
    browser.run(FILL, title, values)
    browser.run(f"{FORM}.requestSubmit()", title)


def result(browser: Browser, title: str = "Dose by weight") -> str:
    """What stands below that form."""
    return str(browser.run(f"return {FORM}.nextElementSibling.innerText", title))


def dose(browser: Browser) -> None:
    """A dose by weight, calculated."""
    calculate(browser, "Dose by weight", DOSE)
    browser.until(lambda: "180 mg" in result(browser), "the dose")


def test_every_calculator_has_its_form_with_labels_units_and_ranges(browser: Browser) -> None:
    with calculators(browser) as server:
        forms = server.http.get("/api/calculators").json()["calculators"]
        assert browser.run("return document.querySelectorAll('.calculator').length") == len(forms)
        browser.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        for number, form in enumerate(forms, 1):
            text = browser.text(f".calculator:nth-of-type({number})")
            assert form["title"] in text
            for field in form["inputs"]:
                assert field["label"] in text
                assert all(choice in text for choice in field["choices"])
                assert field["unit"] in text
            assert form["limits"].split()[0] in text
        assert "0.3 to 300 kg" in browser.text(".calculator")
        assert browser.run("return document.querySelectorAll('.field input[type=date]').length") == 2
        assert browser.run("return document.querySelectorAll('.field input:checked').length") == browser.run(
            "return [...document.querySelectorAll('.choice')].filter((e) => e.textContent === 'not given').length"
        ), "nothing clinical is chosen beforehand"


def test_result_carries_what_is_needed_to_check_it(browser: Browser) -> None:
    with calculators(browser):
        dose(browser)
        told = result(browser)
        for part in ("one dose", "Formula:", "Source:", "Weight of the patient: 12 kg", "No maximum was given"):
            assert part in told
        assert "Decision support; the clinician decides." in told
        assert "one dose 180 mg" in browser.run("return document.getElementById('status').textContent")


def test_faults_stand_beside_their_fields_and_the_first_has_the_focus(browser: Browser) -> None:
    with calculators(browser):
        calculate(browser, "Dose by weight", {"Weight": "900", "Dose (": "fifteen"})
        browser.until(lambda: browser.shown(".field .fault"), "the faults")
        faults = "return [...document.querySelectorAll('.fault')].filter((e) => !e.hidden).map((e) => e.textContent)"
        weight, dose_per_kg, basis = browser.run(faults)
        assert "0.3 to 300 kg" in weight
        assert "write one number" in dose_per_kg.lower()
        assert "per dose" in basis
        assert browser.run("return document.activeElement.getAttribute('aria-invalid')") == "true"
        about = "return document.activeElement.getAttribute('aria-describedby').split(' ')"
        told = browser.run(f"{about}.map((id) => document.getElementById(id).textContent).join(' ')")
        assert weight in told
        assert result(browser) == ""
        calculate(browser, "Dose by weight", DOSE)
        browser.until(lambda: "180 mg" in result(browser), "the dose")
        assert browser.run(faults) == []


@pytest.mark.parametrize(
    ("written", "understood"),
    [
        ("12,5", "12.5 kg"),
        ("12.50", "12.5 kg"),
        ("012", "12 kg"),
        ("1,500", ""),
        (".5", ""),
        ("1e2", ""),
        ("1 200", ""),
    ],
)
def test_a_number_is_understood_in_one_way_only(browser: Browser, written: str, understood: str) -> None:
    with calculators(browser):
        calculate(browser, "Dose by weight", {**DOSE, "Weight": written})
        browser.until(lambda: browser.shown(".result .values") or browser.shown(".field .fault"), "an outcome")
        assert (f"Weight of the patient: {understood}" in result(browser)) is bool(understood)
        assert browser.shown(".field .fault") is not bool(understood)


def test_dates_and_yes_or_no_are_sent_as_such(browser: Browser) -> None:
    with calculators(browser):
        calculate(browser, "Due date", {"First day": "2026-03-01"})
        browser.until(lambda: "2026-12-06" in result(browser, "Due date"), "280 days later")
        values = {"Patient": "child of 6 to 59 months", "Mid-upper": "120", "Age": "12", "Oedema": "yes"}
        calculate(browser, "Mid-upper arm", values)
        browser.until(lambda: "Oedema of both feet: yes" in result(browser, "Mid-upper arm"), "the band")


def test_results_and_fields_stay_when_the_view_is_changed(browser: Browser) -> None:
    with calculators(browser):
        dose(browser)
        browser.click("#show-questions")
        assert not browser.shown(".calculator")
        ask(browser, "How much?")
        answered(browser)
        browser.click("#show-calculators")
        assert "180 mg" in result(browser)
        assert browser.run("return document.querySelector('.field input').value") == "12"


def test_changed_field_marks_the_result_as_of_other_values(browser: Browser) -> None:
    with calculators(browser):
        dose(browser)
        assert browser.shown(".use")
        browser.run(FILL, "Dose by weight", {"Weight": "15"})
        assert "changed after this result" in result(browser)
        assert "Weight of the patient: 12 kg" in result(browser)
        assert not browser.shown(".use")


def test_calculation_goes_with_the_next_question_alone_and_supports_its_number(browser: Browser) -> None:
    with calculators(browser, "Give 180 mg."):
        dose(browser)
        browser.click(".use")
        assert browser.text(".chip span") == "Dose by weight: one dose 180 mg"
        assert browser.run("return document.activeElement.id") == "question"
        ask(browser, "How much zinc for the child?")
        answered(browser)
        assert "one dose 180 mg" in browser.text("article .with")
        assert browser.text("article .tag").strip() == "from source"
        assert not browser.shown(".chip")
        ask(browser, "How much zinc for the child?")
        answered(browser, 2)
        assert browser.text("article:nth-of-type(2) .tag").strip() == "no source: check"


def test_calculation_taken_along_can_be_removed(browser: Browser) -> None:
    with calculators(browser, "Give 180 mg."):
        dose(browser)
        browser.click(".use")
        browser.click("#show-calculators")
        browser.click(".use")
        assert browser.run("return document.querySelectorAll('.chip').length") == 1
        assert browser.role_and_name(".chip button") == ("button", "Remove Dose by weight: one dose 180 mg")
        browser.click(".chip button")
        assert not browser.shown("#taken")
        ask(browser, "How much zinc for the child?")
        answered(browser)
        assert browser.text("article .tag").strip() == "no source: check"


def test_clear_removes_calculations_too(browser: Browser) -> None:
    with calculators(browser):
        dose(browser)
        browser.click(".use")
        browser.click("#clear")
        browser.call("POST", "/alert/accept", {})
        assert not browser.shown(".chip")
        browser.click("#show-calculators")
        assert result(browser) == ""
        assert browser.run("return [...document.querySelectorAll('.field > input')].every((box) => !box.value)")
        assert browser.run("return [localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


def test_server_that_is_gone_is_explained_in_the_calculators(browser: Browser) -> None:
    with calculators(browser) as server:
        server.server.stop()
        browser.until(lambda: browser.run("return fetch('/health').then(() => false, () => true)"), "it has ended")
        calculate(browser, "Dose by weight", DOSE)
        browser.until(lambda: browser.shown(".sheet > .fault"), "the words")
        assert "cannot be reached" in browser.text(".sheet > .fault")


def test_calculator_is_used_by_keyboard_alone(browser: Browser) -> None:
    with calculators(browser):
        browser.run("document.querySelector('.calculator summary').focus()")
        browser.type(ENTER)
        assert browser.shown(".field")
        for words in ("\ue00412", "\ue00415", "\ue004 "):
            browser.type(words)
        browser.type("\ue004" * 5 + ENTER)
        browser.until(lambda: "180 mg" in result(browser), "the dose")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_calculators_fit_and_can_be_read(browser: Browser, width: int, dark: bool) -> None:
    with calculators(browser):
        browser.look(width=width, height=640, dark=dark)
        browser.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        dose(browser)
        browser.run(FILL, "Dose by weight", {"Weight": "15"})
        calculate(browser, "Drip rate", {"Volume": "x"})
        browser.until(lambda: browser.run("return !!document.querySelector('[aria-invalid]')"), "the faults")
        assert browser.run("return document.documentElement.scrollWidth") <= width
        assert browser.run(CONTRASTS) == []
        assert browser.run(SMALL_TARGETS) == []
