"""Scopes of absence, past, family and doubt: a table of sentences written before the rules were tuned on it."""

from __future__ import annotations

import pytest
from cpu_time import fastest
from hypothesis import given
from hypothesis import strategies as st

from edgemed.medical.reading import read
from edgemed.medical.terms.negation import languages, scopes_of

# sentence | words=status: n negated, h past, f family, p possible, 0 none of them
TABLE = r"""
No fever, cough or rash. | fever,cough,rash=n
He denies chest pain. | chest pain=n
She denies fever, chills, night sweats, weight loss, or cough. | fever,chills,night sweats,weight loss,cough=n
Cough without fever. | fever=n, Cough=0
Not allergic to penicillin. | penicillin=n
He is not allergic to amoxicillin but reacts to sulfa. | amoxicillin=n, sulfa=0
Stop taking ibuprofen. | ibuprofen=0
Should she stop aspirin before surgery? | aspirin=0, surgery=0
Child has no fever but has a cough. | fever=n, cough=0
No convulsions, however the child is lethargic. | convulsions=n, lethargic=0
No vomiting except in the morning. | vomiting=n, morning=0
Not only fever but also a rash. | fever=0, rash=0
There was no increase in pain. | pain=0
No change in cough. | cough=0
Malaria cannot be excluded. | Malaria=p
We cannot exclude meningitis. | meningitis=p
Can't rule out appendicitis. | appendicitis=p
Not malaria but typhoid. | malaria=n, typhoid=0
Neither fever nor cough. | fever,cough=n
Negative for malaria. | malaria=n
Malaria test negative, fever for 3 days. | Malaria=n, fever=0
Pneumonia was ruled out. | Pneumonia=n
No evidence of pneumonia. | pneumonia=n
No signs of dehydration; mother worried about fever. | dehydration=n, fever=p
Patient without diabetes or hypertension takes aspirin. | diabetes,hypertension=n
He does not have asthma. | asthma=n
She doesn't have a fever. | fever=n
She doesn’t have a fever. | fever=n
He has never had a seizure. | seizure=n
No known drug allergies. | allergies=n
No history of asthma. | asthma=n
History of asthma. | asthma=h
H/o tuberculosis, now cough. | tuberculosis=h
Past medical history of diabetes and hypertension. | diabetes,hypertension=h
Previous stroke. | stroke=h
Convulsions as a child. | Convulsions=h
She had malaria last year. | malaria=h
Seizure two years ago, none since. | Seizure=h
He used to have asthma. | asthma=h
Three day history of fever and cough. | fever,cough=0
2 weeks history of cough. | cough=0
History of fever for 3 days. | fever=0
Family history of breast cancer. | breast cancer=f
His mother had tuberculosis. | tuberculosis=f
Mother had diabetes. | diabetes=f
Diabetes runs in the family. | Diabetes=f
No family history of diabetes. | diabetes=n
My father had a stroke just now. | stroke=0
My mother has chest pain. | chest pain=0
Suspected malaria. | malaria=p
?malaria | malaria=p
Child with fever, ?pneumonia, no rash | fever=0, pneumonia=p, rash=n
Rule out meningitis. | meningitis=p
Possible appendicitis, vomiting since morning. | appendicitis=p, vomiting=0
It might be dengue. | dengue=p
Could it be typhoid? | typhoid=p
Possible side effects of metformin | metformin=0
The baby is not breathing, has convulsions. | convulsions=0
Not able to drink, convulsions. | convulsions=0
The fever is not responding to paracetamol. | fever=0, paracetamol=0
Not improving on amoxicillin. | amoxicillin=0
No, she has fever. | fever=0
No fever. Cough for a week. | fever=n, Cough=0
No fever and he has a rash. | fever=n, rash=0
No fever and a rash. | fever=n, rash=0
No cough or fever and no rash. | cough,fever,rash=n
Fever: no. | Fever=n
Allergies: none | Allergies=n
Rash absent, fever present. | Rash=n, fever=0
She is not without pain. | pain=0
Pregnant or not, take folic acid. | folic acid=0
With or without food. | food=0
Do not give aspirin to children. | aspirin=n
Don't use ibuprofen. | ibuprofen=n
He is not pregnant-safe on valproate but on lamotrigine he is. | lamotrigine=0
Denies any history of seizures. | seizures=n
She no longer has a fever. | fever=n
No more than 4 g paracetamol a day. | paracetamol=0
Not more than two tablets of ibuprofen. | ibuprofen=0
No relief from paracetamol. | paracetamol=0
Free of pain. | pain=n
Absence of cough. | cough=n
Vomiting has not stopped. | Vomiting=0
Lack of appetite and weight loss with no fever | fever=n
The rash went away but the itching is back. | rash=h, itching=0
Fever (no rash) and cough | Fever=0, rash=n, cough=0
No fever (37.2) or cough | fever,cough=n
No H. influenzae or meningococcus. | influenzae,meningococcus=n
No fever\nCough present | fever=n, Cough=0
Non-severe pneumonia | pneumonia=0
Treated with amoxicillin, not ampicillin. | amoxicillin=0, ampicillin=n
Has asthma, no wheeze, takes salbutamol | asthma=0, wheeze=n
He can't breathe and has chest pain | chest pain=0
No pulse, give adrenaline | adrenaline=0
No headache, blurred vision or swelling, but abdominal pain | headache,blurred vision,swelling=n, abdominal pain=0
Not sure if she has malaria | malaria=0
Prior to surgery stop warfarin | surgery=0, warfarin=0
Previously well, now fever | fever=0
Old tuberculosis, new cough | tuberculosis=h, cough=0
Unlikely to be malaria? | -
Malaria is unlikely. | Malaria=n
Treated for gonorrhoea last month, now discharge | gonorrhoea=h, discharge=0
Her previous pregnancy ended with eclampsia. | pregnancy=h
Why does my child not eat when he has fever? | fever=0
Isn't this drug dangerous in pregnancy? | -
Diarrhoea, not bloody, no vomiting | Diarrhoea=0, bloody,vomiting=n
What if there is no oxygen and the child has pneumonia? | oxygen=n, pneumonia=0
Her HIV test is negative. | HIV=n
Cough, no fever or chest pain; history of asthma; mother had TB | Cough=0, fever,chest pain=n, asthma=h, TB=f
"""
LETTER = {"n": "negated", "h": "past", "f": "family", "p": "possible"}


def cases() -> list[tuple[str, str, str]]:
    """(sentence, word, expected status or "")."""
    found = []
    for line in TABLE.strip().splitlines():
        sentence, *rest = (part.strip() for part in line.split("|"))
        waiting: list[str] = []
        for piece in ",".join(part for part in rest if part != "-").split(","):
            word, equals, letter = piece.strip().partition("=")
            waiting.append(word)
            if equals:
                found += [(sentence.replace("\\n", "\n"), word, LETTER.get(letter, "")) for word in waiting if word]
                waiting = []
    return found


def status_of(sentence: str, word: str, language: str = "en") -> set[str]:
    plain = read(sentence).plain
    start = plain.index(read(word).plain)
    end = start + len(word)
    return {scope.status for scope in scopes_of(plain, language) if scope.start <= start and end <= scope.end}


@pytest.mark.parametrize(("sentence", "word", "status"), cases(), ids=str)
def test_a_word_has_the_status_that_its_sentence_gives_it(sentence: str, word: str, status: str) -> None:
    assert status_of(sentence, word) == ({status} if status else set())


def test_the_table_has_eighty_sentences_or_more() -> None:
    assert len({sentence for sentence, _, _ in cases()}) >= 80


def test_a_language_without_cues_has_no_scopes() -> None:
    assert scopes_of("no fever", "xx") == []
    assert "en" in languages()


@given(st.text(max_size=400))
def test_any_text_gives_scopes_inside_it(text: str) -> None:
    plain = read(text).plain
    for scope in scopes_of(plain):
        assert 0 <= scope.start < scope.end <= len(plain)


@given(
    st.lists(
        st.sampled_from(["no", "not", "fever", ",", "and", "but", "history of", "?", "(", ")", ".", "\n", "without"])
    )
)
def test_any_order_of_cues_is_read(pieces: list[str]) -> None:
    scopes_of(" ".join(pieces))


@pytest.mark.parametrize(
    "text",
    [
        "no " * 33000,
        "no a " * 25000,
        "history of x " * 8000,
        "? a" * 30000,
        "absent " * 14000,
        "((((" * 25000,
        "a" * 100000,
    ],
)
def test_a_hostile_text_is_read_in_linear_time(text: str) -> None:
    assert fastest(lambda: scopes_of(text), 1) < 1
