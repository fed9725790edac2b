"""How well and how fast the parser reads drugs and quantities, against sentences labelled by hand (LABELS.md).

    python benchmarks/medical/bench_entities.py [--set own] [--split test [--half a|b]] [--show]
    python benchmarks/medical/bench_entities.py --set public --data DATA [--split test] [--show]
    python benchmarks/medical/bench_entities.py --speed [--data DATA]

DATA is the folder that public_sentences.py describes; without --set, everything of the split is measured for which
the text is there. Public sentences: all of `entities_public.jsonl` is dev (it has been read), and the test lines of
`entities_public_test.jsonl` are the test. Tables: precision, recall (Wilson) and F1 (bootstrap over sentences, 95 %) of

* drug: overlapping span, same generic name (SAME_DRUG below holds names that mean one medicine); "drug span":
  overlap alone;
* number: overlapping span, equal low, high and unit, whatever the kind;
* dose: the same among quantities of kind dose;

and among the numbers that agree, the share whose kind, comparator and (doses) owner agree too. Units are compared by
the table below and not by the parser's. Three things are equal here although written apart: an age labelled without
a unit and one in years, a year with and without the unit "year", a blood pressure with and without mmHg. Dates and
clock times, which are no number, agree when their spans cover the same digits. A unit that the labels do not have
(Da, W) counts as none; so where a label has none and the parser reads one of those that it knows besides (nM, nL,
pg), the numbers as written are compared.

The test lines of `entities_own.jsonl` are halved by their place among them: half a holds the even ones and has been
looked at since the first measurement of all; half b stays unread. --show prints what differs (dev and half a only).
--speed measures sentences per CPU minute and the CPU time of hostile texts.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from public_sentences import public_sentences, second_sentences, sentences_of, sha

from edgemed.evaluate.paired import wilson
from edgemed.medical.entities import parse
from edgemed.medical.mentions import TermKind

HERE = Path(__file__).parent
RESAMPLES = 1000

_TABLE = """
    mg: mg 1, g 1000, kg 1000000, mcg 1/1000, ng 1/1000000, pg 1/1000000000
    mL: mL 1, L 1000, dL 100, mcL 1/1000
    mmol: mmol 1, mol 1000, mcmol 1/1000, umol 1/1000, nmol 1/1000000, pmol 1/1000000000
    mm: mm 1, cm 10, m 1000, km 1000000
    month: month 1, year 12
    day: day 1, week 7
    min: min 1, h 60, s 1/60
    IU: IU 1, units 1, mIU 1/1000
    spoon: spoon 1, teaspoon 1, tablespoon 1
    mEq: mEq 1
"""
_ALONE = (
    *("tablet", "capsule", "drop", "puff", "sachet", "ampoule", "dose"),
    *("%", "mmHg", "°C", "°F", "kcal", "kPa", "m2", "ratio"),
)
_ATOMS: dict[str, tuple[str, Fraction]] = {name: (name, Fraction(1)) for name in _ALONE}
for line in _TABLE.strip().splitlines():
    target, _, sizes = line.strip().partition(": ")
    _ATOMS |= {name: (target, Fraction(size)) for name, size in (entry.split() for entry in sizes.split(", "))}


def plain_unit(unit: str) -> tuple[str, Fraction]:
    """A unit as atoms of the table joined by "/" and what one of it is; ("", 1) for one that the labels lack."""
    names, factor = [], Fraction(1)
    for place, part in enumerate(unit.split("/")):
        number, atom = re.fullmatch(r"([\d.]*) ?(.*)", part).groups()  # type: ignore[union-attr]
        if atom not in _ATOMS:
            if atom or (place == 0 and part):
                return "", Fraction(1)
            names.append("")
            continue
        name, size = _ATOMS[atom]
        if number == "24" and atom == "h":
            name, size, number = "day", Fraction(1), ""
        size *= Fraction(number or 1)
        names.append(name)
        factor = factor * size if place == 0 else factor / size
    return "/".join(names), factor


SAME_DRUG = {
    "aspirin": "acetylsalicylic acid",
    "valproate": "valproic acid",
    "sodium valproate": "valproic acid",
    "ors": "oral rehydration salts",
    "oral rehydration solution": "oral rehydration salts",
    "vitamin b12": "cyanocobalamin",
    "hydroxocobalamin": "cyanocobalamin",
    "vitamin c": "ascorbic acid",
    "vitamin d": "colecalciferol",
    "vitamin k": "phytomenadione",
    "folinic acid": "calcium folinate",
    "insulin nph": "isophane insulin",
    "insulin isophane": "isophane insulin",
    "insulin biphasic": "insulin",
    "insulin soluble": "insulin",
    "insulin regular": "insulin",
    "gentian violet": "methylrosanilinium chloride",
    "scopolamine": "hyoscine",
    "hyoscine hydrobromide": "hyoscine",
    "ringer's lactate": "compound sodium lactate",
    "ringer lactate": "compound sodium lactate",
    "adrenaline": "epinephrine",
    "acetaminophen": "paracetamol",
}
"""Other names of one medicine, so that a difference of naming is no error of reading."""
_STRENGTH_IN_NAME = re.compile(r" \d+(?:\.\d+)?%$")


def generic(name: str) -> frozenset[str]:
    """The parts of a medicine's name, in one naming: the order of a combination and a strength in it do not count."""
    name = _STRENGTH_IN_NAME.sub("", name.lower())
    return frozenset(SAME_DRUG.get(part, part) for part in SAME_DRUG.get(name, name).split("-"))


_UNLABELLED = re.compile(r"(?<=[\d )])(?:[mnpuµμ]|micro)M\b|\bnl\b|\bpg\b|\bpmol\b|\bnmol\b|\bmOsm\b")
_VALUE = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Number:
    """A quantity of a label or of the parser, in one form."""

    kind: str
    low: Fraction | str
    high: Fraction | str
    unit: str
    comparator: str
    of: str
    start: int
    end: int
    digits: str
    is_bare_age: bool = False
    as_written: tuple[Fraction, ...] = ()
    """The numbers of a span whose unit the labels do not have."""

    def agrees(self, other: Number) -> bool:
        if not (self.start < other.end and other.start < self.end):
            return False
        if other.as_written and not self.unit:
            return (self.low, self.high) in ((other.as_written[0],) * 2, other.as_written[:2])
        if isinstance(self.low, str) or isinstance(other.low, str):
            return self.digits == other.digits
        if self.is_bare_age and (self.low, self.high) == (12 * other.low, 12 * other.high) and not other.unit:
            return True
        return (self.low, self.high, self.unit) == (other.low, other.high, other.unit)


def number(
    kind: str, low: str, high: str, unit: str, comparator: str, of: str, start: int, end: int, text: str
) -> Number:
    """One quantity with its values in the units of the table."""
    digits = "".join(re.findall(r"\d", text[start:end]))
    try:
        values = [Fraction(low), Fraction(high)]
    except ValueError:
        return Number(kind, low, high, unit, comparator, of, start, end, digits)
    written = (
        tuple(map(Fraction, _VALUE.findall(text[start:end].replace(" . ", "."))))
        if _UNLABELLED.search(text, start, end)
        else ()
    )
    is_bare_age = kind == "age" and unit == ""
    if is_bare_age:
        unit = "year"
    if kind == "time" and unit == "year" and values[0] >= 1000:
        unit = ""
    if kind == "measure" and unit == "" and values[0] > values[1]:
        unit = "mmHg"
    name, factor = plain_unit(unit)
    if unit == "°F":
        name, values = "°C", [(value - 32) * 5 / 9 for value in values]
    low_value, high_value = (value * factor for value in values)
    return Number(kind, low_value, high_value, name, comparator, of, start, end, digits, is_bare_age, written)


@dataclass
class Tally:
    """Hits, labels and finds by sentence."""

    rows: list[tuple[int, int, int]] = field(default_factory=list)

    def line(self, name: str) -> str:
        hits, labels, found = (sum(row[n] for row in self.rows) for n in range(3))
        rng = random.Random(1)
        scores = sorted(_f1(rng.choices(self.rows, k=len(self.rows))) for _ in range(RESAMPLES))
        low, high = scores[RESAMPLES // 40], scores[-RESAMPLES // 40]
        return (
            f"{name:10} {labels:6} {found:6} {hits:6}  P {_share(hits, found)}  R {_share(hits, labels)}"
            f"  F1 {_f1(self.rows):.3f} [{low:.3f}, {high:.3f}]"
        )


def _f1(rows: list[tuple[int, int, int]]) -> float:
    hits, labels, found = (sum(row[n] for row in rows) for n in range(3))
    return 2 * hits / (labels + found) if labels + found else 1.0


def _share(part: int, whole: int) -> str:
    """A share with its Wilson interval."""
    if not whole:
        return "   -                 "
    found = wilson(part, whole)
    return f"{part / whole:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _placed(surfaces: Iterable[str], text: str) -> list[tuple[int, int]]:
    """Where each surface lies, reading from left to right."""
    places, done = [], 0
    for surface in surfaces:
        start = text.index(surface, done)
        done = start + len(surface)
        places.append((start, done))
    return places


def _matched(ones: list[Any], twos: list[Any], agree: Callable[[Any, Any], bool]) -> list[tuple[Any, Any]]:
    """Pairs that agree, each thing in one pair at most."""
    left, pairs = list(twos), []
    for one in ones:
        for two in left:
            if agree(one, two):
                pairs.append((one, two))
                left.remove(two)
                break
    return pairs


class Measured:
    """The tallies over one file."""

    def __init__(self, show: bool) -> None:
        self.show = show
        self.tallies = {name: Tally() for name in ("drug", "drug span", "number", "dose")}
        self.shares: Counter[str] = Counter()

    def add(self, label: dict[str, Any], text: str) -> None:
        found = parse(text)
        place = _characters(text)
        drugs = [(place[t.start], place[t.end], t.name) for t in found.terms if t.kind is TermKind.DRUG]
        wanted_drugs = [
            (start, end, name)
            for (start, end), (_, name) in zip(
                _placed((d[0] for d in label["drugs"]), text), label["drugs"], strict=True
            )
        ]
        numbers = [
            number(q.kind, str(q.low), str(q.high), q.unit, q.comparator, q.of, place[q.start], place[q.end], text)
            for q in found.quantities
        ]  # fmt: skip
        wanted = [
            number(*q[1:], start, end, text)
            for (start, end), q in zip(
                _placed((q[0] for q in label["quantities"]), text), label["quantities"], strict=True
            )
        ]
        self._count("drug", wanted_drugs, drugs, lambda a, b: _overlap(a, b) and generic(a[2]) == generic(b[2]), text)
        self._count("drug span", wanted_drugs, drugs, _overlap, "")
        pairs = self._count("number", wanted, numbers, Number.agrees, text)
        doses = self._count(
            "dose", [n for n in wanted if n.kind == "dose"], [n for n in numbers if n.kind == "dose"], Number.agrees, ""
        )
        for name, agreeing in (("kind", pairs), ("comparator", pairs), ("of", doses)):
            for one, two in agreeing:
                self.shares[name] += 1
                is_same = (
                    generic(one.of) == generic(two.of) if name == "of" else getattr(one, name) == getattr(two, name)
                )
                if is_same:
                    self.shares[f"{name} right"] += 1
                elif self.show:
                    said, read = getattr(one, name), getattr(two, name)
                    print(f"  {name}: {text[one.start : one.end]!r} is {said!r}, read as {read!s}: {text}")

    def _count(
        self, name: str, wanted: list[Any], found: list[Any], agree: Callable[[Any, Any], bool], text: str
    ) -> list[Any]:
        pairs = _matched(wanted, found, agree)
        self.tallies[name].rows.append((len(pairs), len(wanted), len(found)))
        if self.show and text:
            missed = [w for w in wanted if not any(w is one for one, _ in pairs)]
            extra = [f for f in found if not any(f is two for _, two in pairs)]
            if missed or extra:
                print(f"  {name}: {text}\n      missed {[_short(m, text) for m in missed]}")
                print(f"      extra {[_short(e, text) for e in extra]}")
        return pairs

    def report(self, title: str) -> None:
        print(f"\n{title}\n{'':10} labels  found   hits")
        for name, tally in self.tallies.items():
            print(tally.line(name))
        for name in ("kind", "comparator", "of"):
            print(f"{name:10} {_share(self.shares[f'{name} right'], self.shares[name])} of {self.shares[name]}")


def _overlap(one: Any, two: Any) -> bool:
    return bool(one[0] < two[1] and two[0] < one[1])


def _short(thing: Any, text: str) -> str:
    if isinstance(thing, Number):
        return f"{text[thing.start : thing.end]!r} {thing.kind} {thing.low} {thing.high} {thing.unit}"
    return f"{text[thing[0] : thing[1]]!r} {thing[2]}"


def _characters(text: str) -> dict[int, int]:
    """Character place of each byte offset between characters."""
    places, offset = {}, 0
    for place, character in enumerate(text):
        places[offset] = place
        offset += len(character.encode("utf-8", "surrogatepass"))
    places[offset] = len(text)
    return places


def _labels(name: str, split: str, half: str = "") -> list[dict[str, Any]]:
    lines = (HERE / name).read_text(encoding="utf-8").splitlines()
    labels = [label for label in map(json.loads, lines) if label["split"] == split]
    return labels["ab".index(half) :: 2] if half else labels


def own_accuracy(split: str, half: str, show: bool) -> None:
    """The table of `entities_own.jsonl`."""
    measured = Measured(show)
    for label in _labels("entities_own.jsonl", split, half):
        measured.add(label, label["text"])
    measured.report(f"entities_own.jsonl, {split}, half {half}" if half else f"entities_own.jsonl, {split}")


def public_accuracy(data: Path, split: str, show: bool) -> None:
    """The table of the public sentences: the first sample is dev, the second has a few lines of dev and the test."""
    measured = Measured(show)
    labels = _labels("entities_public_test.jsonl", split)
    sentences = second_sentences(data)
    if split == "dev":
        labels += _labels("entities_public.jsonl", "dev") + _labels("entities_public.jsonl", "test")
        sentences |= public_sentences(data)
    for label in labels:
        text = sentences[label["id"]]
        if sha(text) != label["sha"]:
            raise SystemExit(f"{label['id']}: the sentence in {data} is not the one that was labelled")
        measured.add(label, text)
    measured.report(f"public sentences, {split}")


def speed(data: Path | None) -> None:
    """Sentences per CPU minute on one core, then the CPU time of texts of 100 kB."""
    own = [label["text"] for label in _labels("entities_own.jsonl", "dev")]
    sentences = list(own)
    if data:
        sentences = list(public_sentences(data).values())
        with gzip.open(data / "medquad" / "medquad.jsonl.gz", "rt", encoding="utf-8") as lines:
            for _, line in zip(range(600), lines, strict=False):
                sentences += sentences_of(json.loads(line)["answer"])
    parse(own[0])
    began = time.process_time()
    for sentence in sentences:
        parse(sentence)
    took = time.process_time() - began
    print(f"\n{len(sentences)} sentences in {took:.2f} s of CPU: {60 * len(sentences) / took:,.0f} a minute")
    for name, text in hostile_texts().items():
        began = time.process_time()
        parse(text)
        print(f"{1000 * (time.process_time() - began):8.1f} ms  {len(text)} characters: {name}")


def hostile_texts() -> dict[str, str]:
    """Texts of about 100 kB that are slow for a careless pattern."""
    ordinary = " ".join(label["text"] for label in _labels("entities_own.jsonl", "dev"))
    seeds = (
        *(
            "7",
            "7 ",
            "1,",
            "1.5.",
            "1/",
            "1-2-",
            "5, ",
            "paracetamol 500 mg tds ",
            "one hundred and ",
            "every ",
            "half a ",
        ),
        *(" ", ",", "a", "no fever, ", "mg/kg/", "per ", "up to ", "amoxicillin ", "e\u0301", "\ud800", "1 000 "),
        *("\u0623\u0643\u0644 5 \u0645\u0644 ", "1/2/20 ", "three times a ", "(", "5 mg and ", "x 5 ", "a.b.c. "),
    )
    named = {repr(seed): seed for seed in seeds} | {"ordinary text": ordinary}
    return {name: (seed * (100_000 // len(seed) + 1))[:100_000] for name, seed in named.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder that holds medquad/ and ner-bc5cdr/")
    parser.add_argument("--set", choices=("own", "public"), default="", help="measure this set alone")
    parser.add_argument("--split", choices=("dev", "test"), default="dev")
    parser.add_argument("--half", choices=("a", "b"), default="", help="half of the own test split")
    parser.add_argument("--show", action="store_true", help="print what differs (dev and half a of test only)")
    parser.add_argument("--speed", action="store_true", help="measure time instead")
    given = parser.parse_args()
    if given.half and (given.split != "test" or given.set == "public"):
        parser.error("only the own test split has halves: add --set own --split test")
    if given.show and given.split == "test" and given.half != "a":
        parser.error("these test sentences are not to be looked at: --show works on dev and on half a")
    if given.set == "public" and not given.data:
        parser.error("the text of public sentences is not shipped: add --data with the folder that holds it")
    if given.speed:
        speed(given.data)
        return
    if given.set != "own" and given.data and not given.half:
        public_accuracy(given.data, given.split, given.show)
    if given.set != "public":
        own_accuracy(given.split, given.half, given.show)


if __name__ == "__main__":
    main()
