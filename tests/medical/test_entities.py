"""Drugs, their doses and everything that holds a digit in a text."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from cpu_time import fastest
from hypothesis import given
from hypothesis import strategies as st

from edgemed.medical.entities import MAX_CHARACTERS, parse
from edgemed.medical.mentions import Entities, QuantityKind, TermKind

CLINICAL = st.lists(
    st.sampled_from(
        "amoxicillin paracetamol 500 15 1/2 ½ mg mg/kg tds every 6 hours no fever vitamin b12 , . ; - ( ) x / % "  # noqa: SIM905
        "µg é \u0301 \ud800 five half a BP 120/80 under 5 years max IL-6 2nd [3] 1. 10^9 \u0665 "
        "\u202f COVID-19 day 3 2/52 days".split(" ")
    ),
    max_size=25,
).map(" ".join)
ANY_TEXT = st.text(st.characters(), max_size=60) | CLINICAL


def _doses(text: str) -> list[tuple[str, Fraction, str]]:
    return [(q.of, q.low, q.unit) for q in parse(text).quantities if q.kind is QuantityKind.DOSE]


@pytest.mark.parametrize(
    ("text", "owners"),
    [
        ("Amoxicillin 500 mg and metronidazole 400 mg", ["amoxicillin", "metronidazole"]),
        ("Give 500 mg of amoxicillin and 400 mg of metronidazole", ["amoxicillin", "metronidazole"]),
        ("Amoxicillin and metronidazole 500 mg and 400 mg respectively", ["amoxicillin", "metronidazole"]),
        ("20 units of oxytocin in 1 L of saline at 60 drops per minute", ["oxytocin", "sodium chloride", "oxytocin"]),
        ("Crush captopril 25 mg in 5 ml of water", ["captopril", ""]),
        ("Lidocaine 1%, max 4.5 mg/kg without adrenaline", ["lidocaine", "lidocaine"]),
        ("Lidocaine 2% with adrenaline 1:200,000, maximum 7 mg/kg", ["lidocaine", "epinephrine", "lidocaine"]),
        ("Zinc 20 mg daily; 10 mg under 6 months", ["zinc", "zinc"]),
        ("Kaletra 2 tabs (200/50)", ["lopinavir-ritonavir"]),
        ("zidovudine, then SC-48334 (1000 mg)", [""]),
        ("Insulin: 50 units in 50 ml NaCl 0.9%", ["insulin", "sodium chloride", "sodium chloride"]),
        ("Augmentin 625 tds", ["amoxicillin-clavulanate"]),
        ("How much ibuprofen for him? Can I give 10 ml?", ["ibuprofen"]),
    ],
)
def test_a_dose_belongs_to_its_drug(text: str, owners: list[str]) -> None:
    assert [owner for owner, _, _ in _doses(text)] == owners


def test_a_value_belongs_to_what_was_measured() -> None:
    found = parse("Pulse 120, Hb 7 g/dL, creatinine was 2.1, SpO2 92%")
    assert [(q.of, str(q.low), q.unit) for q in found.quantities] == [
        ("heart rate", "120", ""),
        ("haemoglobin", "70", "mg/mL"),
        ("creatinine", "21/10", ""),
        ("oxygen saturation", "92", "%"),
    ]


def test_a_strength_in_percent_is_a_dose_and_a_share_is_a_measure() -> None:
    found = parse("Timolol 0.5% eye drops helped 40% of patients")
    assert [q.kind for q in found.quantities] == [QuantityKind.DOSE, QuantityKind.MEASURE]


def test_digits_inside_a_listed_name_are_the_name() -> None:
    found = parse("vitamin B12 1,000 mcg for type 2 diabetes")
    assert [(q.low, q.unit) for q in found.quantities] == [(Fraction(1), "mg")]
    assert found.unparsed == ()


def test_the_strength_after_a_name_is_no_part_of_it() -> None:
    assert ("glucose", Fraction(10), "%") in _doses("dextrose 10% 2 mL/kg")


def test_negation_past_and_family_are_on_the_terms() -> None:
    terms = {term.name: term for term in parse("No fever. Mother had asthma. History of malaria. Has a cough.").terms}
    assert terms["fever"].negated
    assert terms["malaria"].status == "past"
    assert not terms["cough"].negated


def _spans(found: Entities) -> list[tuple[int, int]]:
    return [(thing.start, thing.end) for thing in (*found.terms, *found.quantities, *found.unparsed)]


@given(ANY_TEXT)
def test_spans_are_bytes_between_characters(text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")
    for start, end in _spans(parse(text)):
        assert 0 <= start < end <= len(data)
        assert data[start:end].decode("utf-8", "surrogatepass") in text


@given(ANY_TEXT)
def test_every_run_of_digits_is_accounted_for(text: str) -> None:
    spans = _spans(parse(text))
    for run in re.finditer(r"\d+", text):
        start = len(text[: run.start()].encode("utf-8", "surrogatepass"))
        end = start + len(run[0].encode("utf-8", "surrogatepass"))
        covered = set()
        for first, last in spans:
            covered |= set(range(max(first, start), min(last, end)))
        assert covered == set(range(start, end))


@given(CLINICAL)
def test_case_does_not_change_what_is_read(text: str) -> None:
    if text.upper().lower() == text.lower():
        assert parse(text.upper()) == parse(text.lower())


@given(
    st.sampled_from(["amoxicillin", "ibuprofen", "zinc"]), st.integers(1, 999), st.sampled_from(["mg", "mg/kg", "mL"])
)
def test_words_around_a_dose_do_not_change_it(drug: str, number: int, unit: str) -> None:
    bare = _doses(f"{drug} {number} {unit}")
    assert bare == [(drug, Fraction(number), unit)]
    assert _doses(f"Please give {drug} {number} {unit}, then come back.") == bare
    assert _doses(f"\u0623\u0643\u0644 {drug} {number}\u00a0{unit} \U0001f600") == bare


@pytest.mark.parametrize(
    "seed",
    ["7", "7 ", "1,", "1-2-", "5 mg ", "every ", "no fever, ", "amoxicillin 500 mg tds ", "(", "\ud800", "e\u0301"],
)
def test_a_hostile_text_is_read_in_linear_time_and_reported(seed: str) -> None:
    text = (seed * 100_000)[:100_000]
    parse(seed)
    assert fastest(lambda: parse(text), 1) < 1  # 0.1 on a quiet machine
    found = parse(text)
    assert found.unparsed[-1].end == len(text.encode("utf-8", "surrogatepass"))
    assert f"more than {MAX_CHARACTERS}" in found.unparsed[-1].reason


def test_a_person_without_numbers_gives_no_quantity() -> None:
    found = parse("Can I take ibuprofen while breastfeeding?")
    assert found.quantities == ()
    assert [term.name for term in found.terms if term.kind is TermKind.DRUG] == ["ibuprofen"]


@pytest.mark.parametrize(
    ("text", "drugs"),
    [
        ("sirolimus (SRL) was stopped; SRL 2 mg", ["sirolimus", "sirolimus", "sirolimus"]),
        ("sirolimus ( SRL ) before SRL therapy", ["sirolimus", "sirolimus", "sirolimus"]),
        ("morphine (IV) then IV fluids", ["morphine"]),
        ("the dopamine receptor blocker haloperidol", ["haloperidol"]),
        ("dopamine 5 mcg/kg/min", ["dopamine"]),
        ("bicarb 9 mEq/L", []),
    ],
)
def test_short_names_and_substances_of_the_body(text: str, drugs: list[str]) -> None:
    assert [term.name for term in parse(text).terms if term.kind is TermKind.DRUG] == drugs


@pytest.mark.parametrize(
    ("text", "dose"),
    [
        ("cells were treated with 30 ng/ml ritonavir for 24 h", ["ritonavir"]),
        ("the serum samples contained 2 mg/l carbachol", []),
        ("digoxin level 2.5 ng/mL", []),
        ("ergotamine 1 mg / caffeine 100 mg tablets", ["ergotamine", "caffeine"]),
        ("American adults eat only 15 grams a day", []),
        ("131 mg/m2 for paclitaxel and 117 mg/m2 for cisplatin", ["paclitaxel", "cisplatin"]),
        ("400 IU of vitamin E and 15 mg of beta-carotene", ["vitamin e", ""]),
        ("amphetamine was given after MPEP ( 5 mg / kg )", [""]),
        ("the volume ranged between 67 and 131 ml", []),
        ("physiological saline (0.9 %)", ["sodium chloride"]),
        ("malathion* lotion 0.5% (brand*)", ["malathion"]),
        ("treated with methadone, 28 % men and 32 % women", []),
        ("nitrendipine raised albuminuria compared with 19 mg/24 h in controls", []),
        ("doses (40 mg/kg) of gentamicin", ["gentamicin"]),
        ("57 and 58 mg/kg for bupivacaine, 111 and 133 mg/kg for lidocaine", ["bupivacaine"] * 2 + ["lidocaine"] * 2),
        ("tropicamide (20 microL, 0.01 %)", ["tropicamide", "tropicamide"]),
    ],
)
def test_the_words_of_a_clause_say_what_is_a_dose_and_whose(text: str, dose: list[str]) -> None:
    assert [quantity.of for quantity in parse(text).quantities if quantity.kind is QuantityKind.DOSE] == dose


@pytest.mark.parametrize(
    "text",
    [
        "signs and symptoms of Charcot-Marie-Tooth disease type 2L",
        "the list of signs and symptoms for Dystonia 11.",
        "the gene makes a protein called connexin 26, which is a member of its family",
        "multiple neoplasia (MEN 1)",
        "on FK 506 - induced hypertension ( FK ) in rats .",
        "binding of [ 3H ] - naloxone",
        "drugs , 5 - MDOT and others",
        "call 1-800-Medicare",
        "half life ( t ( 1 / 2 ) ) was long",
        "3 alpha - hydroxy pregnane - 20 - ones",
        "N - ( 2 - propylpentanoyl ) urea",
        "increased ( 3 ) H - MK - 801 binding",
        "a selective 5 - HT ( 1B / 1D ) receptor agonist",
        "Mg + 2 ATPase levels",
        "a common change (mutation) called 20210G>A",
        "the glutamate 7 receptor subtype",
        "most cases,1 excluding those caused by drugs",
        "stage IV is divided into stages A and 4S",
    ],
)
def test_names_with_digits_are_no_quantities(text: str) -> None:
    assert parse(text).quantities == ()
