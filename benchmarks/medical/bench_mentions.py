"""Span F1 of chemical and disease mentions on BC5CDR: `python benchmarks/medical/bench_mentions.py --data FOLDER`.

FOLDER holds ner-bc5cdr/bc5cdr-iob.jsonl.gz and medquad-terms/medquad_terms.jsonl.gz. A mention counts as found when
its first and last character are the labelled ones. Chemical: drugs and substances; disease: conditions and findings,
kidney and liver states, allergies. Three readers are compared: a dictionary (the lists' own names, looked up by greedy
longest match on lower-case tokens, no rules), the lexicon (forms, salts, sounds, stems), and the lexicon with the
rules of morphology.py; each with the shipped lists, and with the lists widened by the local MedQuAD terms.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib import resources
from pathlib import Path

from edgemed.medical.mentions import TermKind
from edgemed.medical.reading import read
from edgemed.medical.terms.lexicon import Lexicon, find_terms, shipped_lexicon
from edgemed.medical.terms.morphology import mentions_of

DISEASE = frozenset([TermKind.CONDITION, TermKind.FINDING, TermKind.RENAL, TermKind.HEPATIC, TermKind.ALLERGY])
SPACELESS = frozenset("-/'")
Span = tuple[str, int, int]
Reader = Callable[[str], set[Span]]


def label_of(kind: TermKind) -> str:
    """The label of BC5CDR for a kind; "" for none."""
    return "Chemical" if kind is TermKind.DRUG else "Disease" if kind in DISEASE else ""


def sentences(path: Path, split: str) -> Iterator[tuple[str, set[Span]]]:
    """Each sentence, its tokens joined by blanks except around - / ', with its labelled spans."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    if split not in {row["split"] for row in rows}:
        raise SystemExit(f"{path} has no split {split!r}; it has: {sorted({row['split'] for row in rows})}")
    for row in rows:
        if row["split"] == split:
            yield sentence_of(row["tokens"], row["tags"])


def sentence_of(tokens: list[str], tags: list[str]) -> tuple[str, set[Span]]:
    text, spans, begun = "", set(), None
    for place, (token, tag) in enumerate(zip(tokens, tags, strict=True)):
        close = token in SPACELESS or (place and tokens[place - 1] in SPACELESS)
        end_before = len(text)
        text += token if close or not text else f" {token}"
        start = len(text) - len(token)
        if begun and not tag.startswith("I-"):
            spans.add((begun[0], begun[1], end_before))
            begun = None
        if tag.startswith("B-") or (tag.startswith("I-") and not begun):
            begun = (tag[2:], start)
    if begun:
        spans.add((begun[0], begun[1], len(text)))
    return text, spans


def list_names() -> Iterator[tuple[TermKind, str]]:
    """Every name that stands in the shipped files, as written."""
    folder = resources.files("edgemed.medical") / "lists"
    drugs = tomllib.loads((folder / "drugs.toml").read_text(encoding="utf-8"))["classes"]
    for names in (*drugs.values(), tomllib.loads((folder / "brands.toml").read_text(encoding="utf-8"))["brands"]):
        for name, others in names.items():
            yield from ((TermKind.DRUG, word) for word in (name, *others))
    for file in ("conditions.toml", "findings.toml", "patients.toml"):
        for kind, terms in tomllib.loads((folder / file).read_text(encoding="utf-8"))["terms"].items():
            for name, others in terms.items():
                yield from ((TermKind(kind), word) for word in (name, *others))


def local_terms(path: Path) -> list[tuple[TermKind, str, list[str]]]:
    """Diseases and drugs of the MedQuAD term list; it is not shipped."""
    kinds = {"Disease": TermKind.CONDITION, "Drug": TermKind.DRUG}
    found = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            words = [word for word in (row["term"], *row["synonyms"]) if 2 < len(word) <= 80]
            if words and (kind := kinds.get(row["category"])):
                found.append((kind, words[0], words[1:]))
    return found


def dictionary(names: Iterable[tuple[TermKind, str]]) -> Reader:
    """Greedy longest match of lower-case tokens, no rules."""
    table: dict[tuple[str, ...], str] = {}
    for kind, name in names:
        if label := label_of(kind):
            table.setdefault(tuple(name.lower().replace("-", " - ").replace("'", " ' ").split()), label)
    longest = min(10, max(map(len, table)))

    def spans(text: str) -> set[Span]:
        tokens, places, at = [], [], 0
        for token in text.lower().replace("-", " - ").replace("'", " ' ").replace("/", " / ").split():
            at = text.lower().index(token, at)
            tokens.append(token)
            places.append((at, at + len(token)))
            at += len(token)
        found, place = set(), 0
        while place < len(tokens):
            for size in range(min(longest, len(tokens) - place), 0, -1):
                if label := table.get(tuple(tokens[place : place + size])):
                    found.add((label, places[place][0], places[place + size - 1][1]))
                    place += size - 1
                    break
            place += 1
        return found

    return spans


def lexicon_reader(lexicon: Lexicon) -> Reader:
    def spans(text: str) -> set[Span]:
        terms = find_terms(read(text).plain, lexicon)
        return {(label_of(term.kind), term.start, term.end) for term in terms if label_of(term.kind)}

    return spans


def morphology_reader(lexicon: Lexicon) -> Reader:
    def spans(text: str) -> set[Span]:
        return {(mention.label.capitalize(), mention.start, mention.end) for mention in mentions_of(text, lexicon)}

    return spans


def score(reader: Reader, data: list[tuple[str, set[Span]]]) -> dict[str, tuple[float, float, float]]:
    """Precision, recall and F1 for each label."""
    hits: Counter[str] = Counter()
    said: Counter[str] = Counter()
    wanted: Counter[str] = Counter()
    for text, gold in data:
        found = reader(text)
        hits.update(label for label, _, _ in found & gold)
        said.update(label for label, _, _ in found)
        wanted.update(label for label, _, _ in gold)
    table = {}
    for label in ("Chemical", "Disease"):
        precision = hits[label] / max(1, said[label])
        recall = hits[label] / max(1, wanted[label])
        table[label] = (precision, recall, 2 * precision * recall / max(1e-9, precision + recall))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="devel", help="train was looked at while the rules were made, devel was not")
    arguments = parser.parse_args()
    data = list(sentences(arguments.data / "ner-bc5cdr" / "bc5cdr-iob.jsonl.gz", arguments.split))
    terms = local_terms(arguments.data / "medquad-terms" / "medquad_terms.jsonl.gz")
    wide = shipped_lexicon().widened(terms)
    names = list(list_names())
    more = [(kind, word) for kind, name, others in terms for word in (name, *others)]
    readers = {
        "dictionary": (dictionary(names), dictionary([*names, *more])),
        "lexicon": (lexicon_reader(shipped_lexicon()), lexicon_reader(wide)),
        "lexicon + morphology": (morphology_reader(shipped_lexicon()), morphology_reader(wide)),
    }
    print(
        f"BC5CDR {arguments.split}: {len(data)} sentences, {sum(len(gold) for _, gold in data)} mentions, exact spans"
    )
    for column, title in enumerate(("shipped lists", "widened with medquad-terms")):
        print(f"\n| {title} | label | precision | recall | F1 |\n|---|---|---|---|---|")
        for name, pair in readers.items():
            for label, figures in score(pair[column], data).items():
                print(f"| {name} | {label.lower()} | " + " | ".join(f"{figure:.3f}" for figure in figures) + " |")


if __name__ == "__main__":
    main()
