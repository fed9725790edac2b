"""The lists and how they are found: names, brands, salts, spellings, stems, look-alikes, boundaries, speed."""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import Any

import pytest
from cpu_time import fastest
from hypothesis import given
from hypothesis import strategies as st

from edgemed.core.errors import UsageError
from edgemed.medical.mentions import TermKind
from edgemed.medical.reading import read
from edgemed.medical.terms import lexicon as lexicon_module
from edgemed.medical.terms.lexicon import FoundTerm, find_terms, shipped_lexicon
from edgemed.medical.terms.term_forms import american, forms_of, sound_of


def found(text: str) -> list[FoundTerm]:
    return find_terms(read(text).plain)


def drugs(text: str) -> list[str]:
    return [term.name for term in found(text) if term.kind is TermKind.DRUG]


def kinds(text: str) -> set[tuple[str, str]]:
    return {(term.kind.value, term.name) for term in found(text)}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Coartem", "artemether-lumefantrine"),
        ("artemether/lumefantrine", "artemether-lumefantrine"),
        ("artemether and lumefantrine", "artemether-lumefantrine"),
        ("ARTEMETHER - LUMEFANTRINE", "artemether-lumefantrine"),
        ("amoxicillin trihydrate", "amoxicillin"),
        ("amoxycillin", "amoxicillin"),
        ("Augmentin", "amoxicillin-clavulanate"),
        ("acetaminophen", "paracetamol"),
        ("aspirin", "acetylsalicylic acid"),
        ("adrenaline", "epinephrine"),
        ("frusemide", "furosemide"),
        ("bactrim", "co-trimoxazole"),
        ("trimethoprim-sulfamethoxazole", "co-trimoxazole"),
        ("Ringer’s lactate", "ringer's lactate"),
        ("ringers lactate", "ringer's lactate"),
        ("Hartmann's solution", "ringer's lactate"),
        ("diclofenac sodium", "diclofenac"),
        ("sodium valproate", "valproic acid"),
        ("ORS", "oral rehydration salts"),
        ("vitamin B12", "vitamin b12"),
        ("normal saline", "sodium chloride"),
        ("MgSO4", "magnesium sulfate"),
        ("azythromicin", "azithromycin"),
        ("hidroxyzine", "hydroxyzine"),
        ("furosemde", "furosemide"),
        ("ciprofloxaciin", "ciprofloxacin"),
        ("zoliflucillin", "zoliflucillin"),
        ("pentavalent vaccine", "pentavalent vaccine"),
    ],
)
def test_a_written_drug_is_one_mention_with_its_generic_name(text: str, name: str) -> None:
    terms = found(text)
    assert [(term.kind, term.name, term.start, term.end) for term in terms] == [(TermKind.DRUG, name, 0, len(text))]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("prednisone", "prednisolone"),
        ("chlorpromazine", "chlorpropamide"),
        ("hydroxyzine", "hydralazine"),
        ("vincristine", "vinblastine"),
        ("carbamazepine", "oxcarbazepine"),
        ("dopamine", "dobutamine"),
        ("ephedrine", "epinephrine"),
        ("cefotaxime", "cefoxitin"),
        ("clonidine", "clonazepam"),
        ("glipizide", "glyburide"),
        ("lamotrigine", "lamivudine"),
        ("metformin", "metronidazole"),
        ("quinine", "quinidine"),
        ("tramadol", "trazodone"),
        ("amlodipine", "amiloride"),
        ("sulfadiazine", "sulfasalazine"),
        ("penicillamine", "penicillin"),
        ("chloroquine", "hydroxychloroquine"),
    ],
)
def test_look_alike_drugs_stay_apart(one: str, other: str) -> None:
    assert drugs(one) != drugs(other)
    assert len(drugs(f"{one} or {other}")) == 2
    assert sound_of(one) != sound_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("long-acting insulin", "rapid-acting insulin"), ("nph insulin", "regular insulin"), ("Mixtard", "Insulatard"),
        ("normal saline", "hypertonic saline"), ("d5w", "d50w"), ("haloperidol", "haloperidol decanoate"),
        ("liposomal amphotericin B", "amphotericin B"), ("nasal spray flu vaccine", "flu vaccine"),
        ("Mirena", "Postinor"),
        ("norethisterone", "norethisterone enanthate"), ("stop", "taper"), ("if", "unless"), ("increase", "reduce"),
        ("oligohydramnios", "polyhydramnios"), ("viral meningitis", "bacterial meningitis"),
        ("early pregnancy", "late pregnancy"),
        ("gonococcal conjunctivitis", "chlamydial conjunctivitis"), ("systolic", "diastolic"), ("fbs", "rbs"),
        ("opv", "ipv"),
        ("general anaesthesia", "spinal anaesthesia"), ("allergic to", "intolerant to"),
        ("penicillin G", "penicillin V"),
        ("type 1 diabetes", "type 2 diabetes"), ("hepatitis B", "hepatitis C"), ("first trimester", "third trimester"),
        ("hypokalaemia", "hyperkalaemia"), ("hypoglycaemia", "hyperglycaemia"), ("left", "right"), ("before", "after"),
    ],
)  # fmt: skip
def test_things_that_are_treated_otherwise_keep_other_names(one: str, other: str) -> None:
    assert found(one)
    assert found(other)
    assert kinds(one) != kinds(other)


def facts() -> list[dict[str, Any]]:
    folder = resources.files("edgemed.demo") / "facts"
    return [
        fact
        for file in ("doses_general.toml", "doses_infection.toml")
        for fact in tomllib.loads((folder / file).read_text(encoding="utf-8"))["fact"]
    ]


AMBIGUOUS = {"AL", "SP", "T4"}
"""Short forms that mean other things too; terminology.py reports them."""


def test_every_drug_of_the_facts_is_found_whole() -> None:
    names = {name for fact in facts() for name in (fact["drug"], *fact["also"])} - AMBIGUOUS
    missed = {name for name in names if [(t.kind, t.end) for t in found(name)] != [(TermKind.DRUG, len(name))]}
    assert missed == set()


def test_the_names_of_one_fact_mean_one_drug() -> None:
    twins = [(fact["drug"], {drugs(name)[0] for name in fact["also"] if name not in AMBIGUOUS}) for fact in facts()]
    apart = {name: others for name, others in twins if others - set(drugs(name))}
    assert not {name: others for name, others in apart.items() if name not in ("ferrous sulfate", "iron", "vitamin D")}


def test_every_condition_of_the_facts_has_a_term() -> None:
    said = {TermKind.CONDITION, TermKind.FINDING, TermKind.PROCEDURE, TermKind.PREGNANCY, TermKind.ALLERGY}
    conditions = {fact["condition"] for fact in facts()}
    missed = {text for text in conditions if not said & {term.kind for term in found(text)}}
    assert missed <= {
        "routine supplementation", "daily supplementation where iodized salt is lacking", "tuberculosis treatment"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("a boy", {("sex", "male"), ("age_band", "child")}),
        ("an elderly man", {("age_band", "older adult"), ("sex", "male"), ("age_band", "adult")}),
        ("Parkinson's disease", {("condition", "parkinson's disease")}),
        ("parkinson disease", {("condition", "parkinson's disease")}),
        ("type 2 diabetes", {("condition", "type 2 diabetes")}),
        ("COVID-19", {("condition", "covid-19")}),
        ("CD4", {("test", "cd4 count")}),
        ("H. influenzae", {("organism", "haemophilus influenzae")}),
        ("anemias", {("condition", "anaemia")}),
        ("diarrhea", {("finding", "diarrhoea")}),
        ("can't breathe", {("finding", "shortness of breath")}),
        ("SpO2", {("test", "oxygen saturation")}),
        ("third trimester", {("pregnancy", "third trimester")}),
        ("breast-feeding", {("lactation", "breastfeeding")}),
        ("chronic kidney disease", {("renal", "chronic kidney disease")}),
        ("allergic to penicillin", {("allergy", "penicillin allergy")}),
        ("by mouth", {("route", "oral")}),
        ("left", {("laterality", "left")}),
        ("stop taking", {("action", "stop")}),
        ("instead of", {("relation", "instead of")}),
        ("severe", {("severity", "severe")}),
        ("environment", set()),
        ("asthmatoid", set()),
        ("I'm well", set()),
        ("", set()),
    ],
)
def test_a_term_has_its_kind_and_canonical_name(text: str, terms: set[tuple[str, str]]) -> None:
    assert kinds(text) == terms


def test_the_longest_term_wins_from_the_left() -> None:
    assert [term.name for term in found("severe acute malnutrition with heart failure")] == [
        "severe acute malnutrition", "with", "heart failure"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "word",
    [
        "cholesterol",
        "imidazole",
        "intercept",
        "secretion",
        "differing",
        "singular",
        "cotrimazole",
        "cockayne",
        "somatostatin",
        "concept",
        "april",
    ],
)
def test_a_word_that_only_ends_like_a_drug_is_none(word: str) -> None:
    assert drugs(word) == []


def test_the_lists_are_as_large_as_promised() -> None:
    lexicon = shipped_lexicon()
    names = {entry for entries in lexicon.forms.values() for entry in entries or ()}

    def count(kind: TermKind) -> int:
        return len({entry.name for entry in names if entry.kind is kind})

    assert len(lexicon.drugs) >= 900
    assert sum(len(drug.brands) for drug in lexicon.drugs.values()) >= 500
    assert count(TermKind.CONDITION) >= 1200
    assert count(TermKind.FINDING) >= 500
    assert "blood glucose" in lexicon.measures


def test_a_drug_is_known_by_brand_with_its_class() -> None:
    drug = shipped_lexicon().drug("Zithromax")
    assert drug
    assert (drug.name, drug.drug_class) == ("azithromycin", "macrolide")
    assert shipped_lexicon().drug("banana") is None


def test_a_local_list_widens_the_lexicon_and_keeps_shipped_meanings() -> None:
    wide = shipped_lexicon().widened([(TermKind.CONDITION, "Blue Foot Disease", ["malaria", "BFD"])])
    assert [(t.kind, t.name) for t in find_terms("bfd", wide)] == [(TermKind.CONDITION, "blue foot disease")]
    assert [t.name for t in find_terms("malaria", wide)] == ["malaria"]
    assert find_terms("bfd") == []


def test_american_spelling_and_plurals_follow_by_rule() -> None:
    assert american("haemorrhage and oedema") == "hemorrhage and edema"
    assert set(forms_of("anaemia", plural=True)) >= {"anaemia", "anemia", "anemias"}
    assert "diagnoses" in forms_of("diagnosis", plural=True)


@given(st.text(max_size=300))
def test_any_text_gives_terms_in_order_on_word_boundaries(text: str) -> None:
    plain = read(text).plain
    terms = find_terms(plain)
    for term in terms:
        assert 0 <= term.start < term.end <= len(plain)
        assert not (term.start and plain[term.start - 1].isalnum() and plain[term.start].isalnum())
    assert [term.start for term in terms] == sorted(term.start for term in terms)


@given(st.lists(st.sampled_from(sorted(shipped_lexicon().drugs)), min_size=1, max_size=5))
def test_drugs_in_a_list_are_all_found(names: list[str]) -> None:
    assert drugs("; ".join(names)) == names


@pytest.mark.parametrize(
    "text",
    [
        "a" * 100_000, "type 2 " * 14_000, "acute severe chronic " * 5_000, "\ud800" * 100_000, "١" * 100_000,
        " ".join(f"word{n}" for n in range(12_000)), "vitamin b " * 10_000, "ph" * 50_000, "(" * 100_000,
        " ".join("abcdefghij"[n % 10] * 7 + chr(97 + n % 26) + chr(97 + n // 26 % 26) for n in range(11_000)),
    ],
)  # fmt: skip
def test_a_hostile_text_is_read_in_linear_time(text: str) -> None:
    shipped_lexicon()
    assert fastest(lambda: find_terms(text), 1) < 1


def test_a_damaged_list_is_refused_with_file_and_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lexicon_module.tomllib, "loads", lambda text: {"source": "", "classes": {}})
    with pytest.raises(UsageError, match=r"(?s)drugs\.toml.*source"):
        lexicon_module._list("drugs.toml", lexicon_module.DrugList)
