"""Numbers with their units, kinds and comparators in a sentence."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemed.medical.quantities.amounts import Amount
from edgemed.medical.quantities.finding import MAX_NUMBERS, amounts_of
from edgemed.medical.reading import read


def _said(text: str) -> list[str]:
    """Kind, value and unit of each amount: "dose 5-10 mg"."""
    return [_word(amount) for amount in amounts_of(read(text).plain)[0]]


def _word(amount: Amount) -> str:
    value = f"{amount.low}" if amount.low == amount.high else f"{amount.low}-{amount.high}"
    return f"{amount.kind} {amount.comparator}{value} {amount.unit}".rstrip()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("give 5-10 mg", ["dose 5-10 mg"]),
        ("between 5 and 10 mg", ["dose 5-10 mg"]),
        ("500 mg to 1 g", ["dose 500-1000 mg"]),
        ("reduced from 40 to 20 mg", ["dose 40 mg", "dose 20 mg"]),
        ("increase from 5 to 10 mg", ["dose 5 mg", "dose 10 mg"]),
        ("800/160 mg", ["dose 800 mg", "dose 160 mg"]),
        ("75/50/275 mg", ["dose 75 mg", "dose 50 mg", "dose 275 mg"]),
        ("5, 10 or 20 mg", ["dose 5 mg", "dose 10 mg", "dose 20 mg"]),
        ("1 or 2 tablets", ["dose 1-2 tablet"]),
        ("2 x 500 mg", ["count 2", "dose 500 mg"]),
        ("6 x 4 cm", ["measure 60 mm", "measure 40 mm"]),
        ("half of a 40 mg tablet", ["dose 1/2 tablet", "dose 40 mg"]),
        ("61 . 6 + / - 8 . 7 mg . l ( - 1 )", ["measure 77/1250 mg/mL"]),
        ("children over 12: 10 ml", ["age >144 month", "dose 10 mL"]),
        ("2.5 mg if under 5, 5 mg if over 5", ["dose 5/2 mg", "age <60 month", "dose 5 mg", "age >60 month"]),
        ("400 , 450 , and 500 mg / m2", ["dose 400 mg/m2", "dose 450 mg/m2", "dose 500 mg/m2"]),
        ("9.1% to 7.4%", ["measure 91/10 %", "measure 37/5 %"]),
        ("125 mg/5 mL", ["dose 25 mg/mL"]),
        ("8 tablets in 24 hours", ["dose 8 tablet/day"]),
        ("2 L over 24 hours", ["dose 2000 mL", "duration 1440 min"]),
        ("80 - 120 mg / m2BSA", ["dose 80-120 mg/m2"]),
        ("4 mL/kg/%", ["dose 4 mL/kg/%"]),
        ("20 ng . / ml", ["measure 1/50000 mg/mL"]),
        ("2,300 milligrams (mg) a day", ["dose 2300 mg/day"]),
        ("400IU / 2 microl", ["dose 200000 IU/mL"]),
        ("2 , 220 mg / m ( 2 )", ["dose 2220 mg/m2"]),
        ("days 0, 3, 7 and 14, 1 mL each", ["time 0 day", "time 3 day", "time 7 day", "time 14 day", "dose 1 mL"]),
        ("53 + / - 9 to 79 + / - 8 mmHg", ["measure 53-79 mmHg"]),
        ("haematocrit up from 36% to 45% in 24 hours", ["measure 36 %", "measure 45 %", "duration 1440 min"]),
        ("12 grams of lactose", ["measure 12000 mg"]),
        ("OR 7.7 , 95 % CI", ["measure 77/10", "measure 95 %"]),
        ("A [ - 27 . 4 % ]", ["measure -137/5 %"]),
        ("in 14 out of 16 patients", ["count 14", "count 16"]),
        ("73 jerks per min", ["measure 73 /min"]),
    ],
)
def test_doses_ranges_and_lists(text: str, said: list[str]) -> None:
    assert _said(text) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max 4 g", "dose <=4000 mg"),
        ("maximum daily dose of paracetamol 4 g, do not exceed 4 g", "dose <=4000 mg"),
        ("4 g maximum", "dose <=4000 mg"),
        ("not more than 2 mg", "dose <=2 mg"),
        ("more than 2 mg", "dose >2 mg"),
        ("at least 2 mg", "dose >=2 mg"),
        ("(about 2 mg)", "dose ~2 mg"),
        ("made up to 50 mL", "dose 50 mL"),
        ("infuse over 30 minutes", "duration 30 min"),
        ("children under 5 years", "age <60 month"),
        ("12+ years", "age >=144 month"),
        ("18 years and older", "age >=216 month"),
        ("< or = 12 weeks", "duration <=84 day"),
    ],
)
def test_comparators(text: str, said: str) -> None:
    assert _said(text)[-1] == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("three times a day", "frequency 3 /day"),
        ("2-3x/week", "frequency 2-3 /week"),
        ("once or twice daily", "frequency 1-2 /day"),
        ("every 4 to 6 hours", "frequency 240-360 min"),
        ("q8h", "frequency 480 min"),
        ("6-hourly", "frequency 360 min"),
        ("every other day", "frequency 2 day"),
        ("every day", "frequency 1 /day"),
        ("500 mg bd", "frequency 2 /day"),
        ("b . i . d .", "frequency 2 /day"),
        ("500 mg 1-0-1", "frequency 2 /day"),
        ("fortnightly", "frequency 14 day"),
        ("once every 3 days", "frequency 3 day"),
    ],
)
def test_frequencies(text: str, said: str) -> None:
    assert _said(text)[-1] == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no more than 2,300 mg of sodium a day", ["measure <=2300 mg", "frequency 1 /day"]),
        ("limit your sodium intake to 1,500 mg", ["measure 1500 mg"]),
        ("snacks with 20 grams of fat", ["measure 20000 mg"]),
        ("more than 100 milliliters (3 ounces) of urine", ["measure >100 mL", "measure 3 oz"]),
        ("albuminuria fell ( 617 + / - 50 vs . 570 + / - 47 mg / day )", ["measure 617 mg/day", "measure 570 mg/day"]),
        ("levels higher than 50 micrograms a day", ["measure >1/20 mg/day"]),
        ("flow was 45 ml / 100 g / min", ["measure 9/20 mL/g/min"]),
        ("run at 40 mL/min", ["dose 40 mL/min"]),
        ("plasma thymidine above 3 mmol/L", ["measure >3/1000 mmol/mL"]),
        ("(Ki = 39 nmol/L)", ["measure 39/1000000000 mmol/mL"]),
        ("proteinuria 1 . 2 ( 0 . 5 - 3 ) g / d", ["measure 1200 mg/day", "measure 500-3000 mg/day"]),
        ("30 ( 7 - 350 ) days", ["duration 30 day", "duration 7-350 day"]),
        ("3.2 g/dL (0.2 to 12)", ["measure 32 mg/mL", "measure 1/5-12"]),
        ("12 . 0 vs . 5 . 0 mg . per 100 Gm .", ["measure 3/25 mg/g", "measure 1/20 mg/g"]),
        ("2.5 micrograms / 50 nl", ["dose 50 mg/mL"]),
        ("4,000 IUs", ["dose 4000 IU"]),
        ("10 ( - 8 ) mol", ["dose 1/100000 mmol"]),
        ("3 x 10^-3 mol", ["dose 3 mmol"]),
        ("4 . 2 - to 13 - fold", ["measure 21/5-13"]),
        ("95 % CI , - 2 . 7 to 1 . 7", ["measure 95 %", "measure -27/10-17/10"]),
        ("0 . 97 / 1 , 000 admissions", ["measure 97/100-1000 ratio"]),
        ("aged 1 to younger than 10 years", ["age 12-120 month"]),
        ("23 582 patient - years", ["count 23582"]),
        ("half of those affected", ["measure 1/2"]),
        ("one of 16 patients", ["count 1", "count 16"]),
        ("the heart may beat 100 to 175 times a minute", ["measure 100-175 /min"]),
        ("at 1-minute intervals", ["frequency 1 min"]),
        ("10 mg selegiline per day", ["dose 10 mg", "frequency 1 /day"]),
        ("a day after the operation", []),
        (
            "between ages 10 and 14 for girls and ages 12 and 16 for boys",
            ["age 120-168 month", "age 144 month", "age 192 month"],
        ),
        ("begin before age 40", ["age <480 month"]),
        ("as high as 50 %", ["measure <=50 %"]),
        ("at 0 h, 4 h and 8 h", ["time 0 min", "time 240 min", "time 480 min"]),
        ("wait at least 50 minutes before you go", ["duration >=50 min"]),
        ("(Smith 1968)", ["time 1968"]),
        ("below 59 or 68 degrees Fahrenheit", ["measure <15 °C", "measure 20 °C"]),
        ("15 mcg/g body wt", ["dose 3/200 mg/g"]),
        ("4800 mmol / glomerulus", ["measure 4800 mmol"]),
        ("200 mg / sq m body surface area", ["dose 200 mg/m2"]),
        ("10 micro g was injected", ["dose 1/100 mg"]),
        ("8 . 4 mequiv L - 1", ["measure 21/2500 mEq/mL"]),
        ("less than 2 1 / 2 years old", ["age <30 month"]),
        ("[ 95 % CI , - 0 . 73 to - 0 . 22 ]", ["measure 95 %", "measure -73/100--11/50"]),
        ("on two occasions , once alone and once after it", ["count 2", "count 1", "count 1"]),
        ("on GD 9 and gestational day 11", ["age 9 day", "age 11 day"]),
        ("at 4000Hz", ["measure 4000"]),
        ("more than 4 years of college", ["duration >48 month"]),
        ("the average age of those is about 60", ["age ~720 month"]),
        ("nearly half ( n = 78 )", ["measure ~1/2", "count 78"]),
        ("those 65 or older", ["age >=780 month"]),
        ("P less than . 001", ["measure <1/1000"]),
        ("two, 3-year-old twins", ["count 2", "age 36 month"]),
        ("rats ( n = 90 and 260 - 290 g )", ["count 90", "weight 13/50-29/100 kg"]),
        ("1 mg kg ( - 1 ) week ( - 1 )", ["dose 1 mg/kg/week"]),
        ("after 1 hour, 2 hours, and possibly 3 hours later", ["time 60 min", "time 120 min", "time 180 min"]),
        ("a 10 ml venous blood sample", ["measure 10 mL"]),
    ],
)
def test_what_was_found_eaten_or_compared_is_no_dose(text: str, said: list[str]) -> None:
    assert _said(text) == said


@pytest.mark.parametrize("text", ["activities of daily living", "each year", "the od was fatal", "once you feel well"])
def test_words_that_only_look_like_a_frequency(text: str) -> None:
    assert _said(text) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a 2-year-old girl", ["age 24 month"]),
        ("45M with fever", ["age 540 month"]),
        ("3yo", ["age 36 month"]),
        ("in her sixties", ["age 720-828 month"]),
        ("34+2 weeks", ["age 240 day"]),
        ("born at 39 weeks", ["age 273 day"]),
        ("6, 10 and 14 weeks after birth", ["time 42 day", "time 70 day", "time 98 day"]),
        ("on days 1, 8 and 15", ["time 1 day", "time 8 day", "time 15 day"]),
        ("cough x 3/7", ["duration 3 day"]),
        ("x 5-7/7", ["duration 5-7 day"]),
        ("an hour and a half ago", ["time 90 min"]),
        ("three in five", ["measure 3-5 ratio"]),
        ("on 14 Dec 2025", ["time 20251214 date"]),
        ("at 2 pm", ["time 840 clock"]),
        ("at 09h30", ["time 570 clock"]),
        ("BP 120/80", ["measure 120-80 mmHg"]),
        ("1 in 3,500", ["measure 1-3500 ratio"]),
        ("weighs 3,200 g", ["weight 16/5 kg"]),
        ("101.3 °F", ["measure 77/2 °C"]),
        ("-20 °C", ["measure -20 °C"]),
        ("urine output 900 ml", ["measure 900 mL"]),
        ("12 of 40 children", ["count 12", "count 40"]),
        ("one of the drugs", []),
    ],
)
def test_ages_times_measures_and_counts(text: str, said: list[str]) -> None:
    assert _said(text) == said


@pytest.mark.parametrize(
    "text",
    [
        *("IL-6", "CYP3A4", "5-FU", "type 2", "SC - 48334 was given .", "H1N1", "the 2nd dose", "see [12]", "1. Wash"),
        *("22q11.2", "the locus q11.2", "spinocerebellar ataxia 2", "of BOS. [3150]", "the duodenum).1 Its"),
        *("C57BL / 6 mice .", "at levels 1 through 4", "mL . min ( - 1 )", "15 - F ( t ) ."),
    ],
)
def test_digits_of_names_ordinals_and_citations_are_kept_as_unread(text: str) -> None:
    amounts, unread = amounts_of(read(text).plain)
    assert amounts == []
    assert len(unread) >= 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("700 mL in 2 h 30 min", ["dose 700 mL", "duration 150 min"]),
        ("1 year and 6 months old", ["age 18 month"]),
        ("wkly", ["frequency 1 /week"]),
        ("5 days a week", ["frequency 5 /week"]),
        ("sputum at 2/12", ["time 2 month"]),
        ("Woman, 26, on valproate", ["age 312 month"]),
        ("cap refill > 3 s", ["measure >1/20 min"]),
        ("2 doses, six months apart", ["dose 2 dose", "time 6 month"]),
        ("under the age of 16", ["age <192 month"]),
        ("2.5 mg od -> 5 mg od", ["dose 5/2 mg", "frequency 1 /day", "dose 5 mg", "frequency 1 /day"]),
        ("WHZ <-3", ["count <-3"]),
    ],
)
def test_times_and_signs_of_short_notes(text: str, said: list[str]) -> None:
    assert _said(text) == said


def test_a_long_text_ends_in_one_unread_rest() -> None:
    amounts, unread = amounts_of("5 mg " * (MAX_NUMBERS + 50))
    assert len(amounts) == MAX_NUMBERS
    assert unread[-1].end == 5 * (MAX_NUMBERS + 50)


def test_capitals_tell_a_molar_strength_from_a_length() -> None:
    molar, _ = amounts_of("0.5 m nacl", written="0.5 M NaCl")
    length, _ = amounts_of("0.5 m tall", written="0.5 m tall")
    assert (_word(molar[0]), _word(length[0])) == ("dose 1/2 mmol/mL", "measure 500 mm")


_AMOUNTS = st.integers(1, 2000)


@given(_AMOUNTS, st.sampled_from(["mg", "mcg", "g", "mL", "IU", "mmol", "tablets", "puffs", "mg/kg", "mg/kg/day"]))
def test_a_number_with_a_unit_is_read_in_any_writing(number: int, unit: str) -> None:
    written = [f"{number} {unit}", f"{number}{unit}", f"{number:,} {unit}", f"{number}.0 {unit}", f"{number}-{unit}"]
    readings = {tuple(_said(f"give {text} now")) for text in written}
    assert len(readings) == 1
    assert len(next(iter(readings))) == 1


@given(_AMOUNTS, _AMOUNTS)
def test_the_spelling_of_a_unit_does_not_matter(low: int, high: int) -> None:
    low, high = sorted((low, high + 2001))
    forms = [f"{low} to {high} {unit}" for unit in ("mcg", "µg", "micrograms", "ug")]
    assert {tuple(_said(form)) for form in forms} == {(f"dose {Fraction(low, 1000)}-{Fraction(high, 1000)} mg",)}


@given(st.text(max_size=80) | st.text("0123456789.,/-x %mgkhd qodbi\n()[]:", max_size=80))
def test_amounts_and_unread_digits_do_not_overlap(text: str) -> None:
    plain = read(text).plain
    amounts, unread = amounts_of(plain)
    assert all(0 <= amount.start < amount.end <= len(plain) for amount in amounts)
    assert all(left.end <= right.start for left, right in pairwise(amounts))
    assert all(0 <= rest.start < rest.end <= len(plain) for rest in unread)


@pytest.mark.parametrize("written", ["one time a day", "two time a day", "four time a day", "one times a day"])
def test_times_without_or_with_a_wrong_plural_are_read(written: str) -> None:
    assert [amount.unit for amount in amounts_of(written)[0]] == ["/day"]
