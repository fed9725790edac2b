"""Digits that are no quantity: parts of names ("IL-6", "5-FU", "type 2"), ordinals, list numerals, citations."""

from __future__ import annotations

import re

from edgemed.medical.quantities.amounts import Unread
from edgemed.medical.quantities.kinds import is_measured
from edgemed.medical.quantities.numbers import NUMBER, joined
from edgemed.medical.quantities.unit_chains import CHAIN

_CITATION = re.compile(r"\d{1,5}(?: ?[,-] ?\d{1,5}){0,9} ?\]")
_RAISED = re.compile(r"\d{1,2}(?:,\d{1,2}){0,4}(?=$| [a-z(])")
_RAISED_BEHIND_COMMA = re.compile(r"\d{1,2}(?= [a-z]{3,})(?! (?:days?|weeks?|hours?|months?|years?|tab|cap|min))")
_ITEM_BEFORE = re.compile(r"(?:^|\n|[.;:] )[ (]*$")
_ITEM = re.compile(r"\d{1,2}[.)](?=\)?[ \t]+[a-z])")
_ITEM_CLOSED = re.compile(r"\d{1,2} ?\)(?= [a-z\d])")
_SHORT_NUMBER = re.compile(r"\d{1,3}[a-z]{0,2}(?![\w%/]|[.,:-]\d| ?[-/] ?\d| [.,] \d)")
_NAME_WORD = re.compile(r"\b([a-z]{4,}(?:-like)?),? $")
_NO_NAME = frozenset(
    "about around over under above below than least most only between within until after before since during from "  # noqa: SIM905
    "with without includes include contains contain having comprises exactly another other these those first last next "
    "every that when have were them they into age ages aged score number total position figure some also such just "
    "children adults patients people women days weeks months years hours following then take give and/or equals plus "
    "among amongst dose doses level levels stage grade class year page room chance risk versus hour minute".split()
)
_HEADING = re.compile(
    r"\b(?:symptoms|treatments?|outlook|inheritance|causes?|diagnos\w+) (?:for|of|related to) [^.?!]{3,150}$"
)
_SENTENCE_OVER = re.compile(r" ?[.?](?= |$)| ?$")
_NAME_OVER = re.compile(
    r" ?[,.);](?: |$)| ?\(| ?$| (?:is|are|was|were|has|genes?|protein|from|or|and|which|that|to|in|receptors?"
    r"|subunit|deficiency"
    r"|prevents?|can|may|also|using|with|by|in|at|on)\b"
)
_OF_GENES = re.compile(r"\b(?:genes?|proteins?|enzymes?|chromosomes?|mutations?|receptors?|subunits?|syndromes?)\b")
_ITEM_IN_BRACKETS = re.compile(r"\d ?\) [a-z]")
_LETTERED_PHONE = re.compile(r"1-8\d\d-(?=[a-z0-9-]{0,8}[a-z])[a-z0-9-]+")
_ORDINAL = re.compile(r"\d{1,4}(?:st|nd|rd|th)\b")
_KARYOTYPE_OR_DIMENSION = re.compile(
    r"\d{1,6}[acgt]>[acgt]\b|4[5-9],? ?x[xyo]*\b|[23][ -]?d(?= (?:gradient|images?|mri|ct|recon|view|map|data"
    r"|echo|ultra|imag|struct"
    r"|model|scan|conform|print))"
)
_CODE = re.compile(r"\d{3,6}\b(?! [.,] \d| ?[%:/]|-| - \d)")
_ISOTOPES = (
    "3H 11C 13C 14C 13N 15N 15O 18O 18F 32P 33P 35S 36Cl 45Ca 51Cr 57Co 59Fe 67Ga 82Rb 86Rb 90Y 99mTc 99Tc 111In 123I "
    "125I 127I 131I 133Xe 137Cs 153Sm 177Lu 201Tl"
)
_ISOTOPE_WRITTEN = re.compile(rf"(?:{_ISOTOPES.replace(' ', '|')})(?![a-z0-9])|3H ?\]")
_ISOTOPE_IN_BRACKETS = re.compile(r"(?:3|1[1348]|32|35|99m?|1[23]\d|133) ?\) ?[A-Z][a-z]?(?![a-z])")
_LOCANT_WRITTEN = re.compile(
    r"\d{1,2} - \( ?[a-zA-Z]+(?: -|yl)|\d{1,2} - (?:[A-Z]{2,}\d*|(?![MLFCGN])[A-Z])(?![\w])|\d{1,2} - \["
)
_SUBTYPE_WRITTEN = re.compile(r"[1-9][A-D](?= ?[)/,.]| [a-z]{4})")
_SYNDROME_BEFORE = re.compile(
    r"\((?!(?:GCS|ASA|NYHA|AUC|BMI|MMSE|WHO|ECOG|HR|OR|RR|CI|IQ|MELD|DAY|AGE|N) )[A-Z]{2,6} $"
)
_SYNDROME = re.compile(r"\d{1,2}[A-Z]?\)")
_CODE_LETTERS = re.compile(
    r"(?<![A-Za-z])(?!(?:AT|IN|OF|TO|BY|FOR|AND|OR|WITH|THE|OVER|UNDER|ABOUT|FROM|WAS|DAY|IS) )[A-Z]{2,5} $"
)
_GLUED = re.compile(r"(?P<word>[a-z][a-z.]*)(?P<dash>-?)$")
_GLUED_ALLOWED = frozenset(
    re.findall(
        r"\w+\.?",
        "about age aged ages and approx approx. at bmi bp bsl day dose first for gcs grade hb hgb high hr ht "
        "im inr iv low max max. mid min muac n non or over ph po post pr pre q rbs rr sats sc temp then to "
        "under vs week wt x",
    )
)
_WORD_END = re.compile(r"\w{0,60}(?:[.,]\d{1,9}(?:[pq]\d{1,2})?){0,4}(?:-\w{0,20}\d\w{0,20})?")
_UNIT_AFTER = re.compile(rf"{NUMBER}(?: ?- ?{NUMBER})?(?:[ -]| - )?(?P<unit>{CHAIN})")
_TEMPERATURE = re.compile(r"(?:3[4-9]|4[0-2])\.\d")
_NAMED_BEFORE = re.compile(
    joined(
        r"""\b(?:types?|alpha|beta|gamma|delta|kappa|omega|epsilon|theta|zeta|chromosomes?|trisomy|factors?|complement
            |component|position
            |interleukin
        |vitamin(?: [a-z])?|vit\.?(?: [a-z])?|coenzyme q|hepatitis|phase|figures?|figs?\.?|tables?|sections?|chapters?
        |appendix|version
        |exons?|introns?|codons?|domain|isoform|groups?|lamin|tier|hsv|hpv|hiv|il|htlv|interferon|subtypes?|genotypes?
        |serotypes?
        |mucolipidosis|mucopolysaccharidosis|influenza|caspase|cyclin|receptor|paragraph|residues?|amino acid|question
        |clone|strain|cohort|dose levels?|at levels?
        |box|annex|compounds?|patients? no\.|grants?)
        (?: ?- ?| )?(?:\d+[a-z]? ?(?:and|or|,|to|through|vs ?\.?|versus|-|/|&) ?){0,3}$"""
    )
)
_TYPE_BEFORE = re.compile(
    r"\b(?:types?|subtypes?|stages?|groups?|chromosomes?) (?:[a-z\d]{1,3} (?:and|or|to|through) )?$"
)
_SUBTYPE = re.compile(r"\d{1,2}[a-z](?![a-z0-9/])")
"""Of "type 2L"."""
_SPACED_NAME_BEFORE = re.compile(
    r"\b(?!(?:mg|ml|kg|mcg|years?|days?|weeks?|hours?|ph|p|n|to|and|or|by|of|versus|vs|is|was|than) )[a-z]+[0-9]* - $"
)
_IN_BRACKETS_BEFORE = re.compile(
    r"\b(?:[a-z]{1,2}|alpha|beta|gamma|delta|kappa|mu|omega|[a-z]{1,4}o|cacl|mgcl|nacl|hco|spo|pco|fev|pge|cd"
    r"|cyp) ?\( $"
)
_IN_BRACKETS = re.compile(r"\d{1,2} ?[+-]? \)")
_SUFFIX = joined(
    r"""(?:fu|ht|ht\d[a-z]?|htp|hiaa|asa|mp|tg|cis|trans|fc|dht|ala|ohda|dopa|oh|hete|azt|lo|cox|beta|alpha|me|pbn|apb
    |(?:n?or|iso|cyclo|di|tri)?(?:hydroxy|fluoro|methyl|mercapto|amino|deoxy|aza|benz|chloro|nitro|acetyl|phenyl|iodo
    |bromo
    |oxo|thio|dihydroxy|propano|butano|hexan|androst|azido|keto|lipox|nucleot|reductase|dimethyl|methoxy|ethyl|carbox
    |sulfo)\w*|[a-z]{2,}(?:yl|oyl|oxy|amine|amide|azine|azole|quinoline|idine|ethane|propane|folic|benzene|diol)
    |ones)"""
)
_CHEMICAL = re.compile(
    rf"5[ -]{{0,3}}fl[a-z]{{2,6}}uracil\b|\d{{1,2}}(?: ?, ?\d{{1,2}}){{0,3}}'? ?- ?{_SUFFIX}(?![a-z0-9])(?:-\w+)*"
)
_ION_BEFORE = re.compile(r"\b(?:ca|mg|zn|fe|cu|mn) ?\+ $")
_HALF_LIFE = re.compile(r"1 ?/ ?2(?= ?\))")
_HALF_LIFE_BEFORE = re.compile(r"\bt ?\( ?$")
_EXPONENT = re.compile(r"[12](?= ?\))")
_UNIT_BEFORE = re.compile(r"(?:^|[^a-z])(?:m?in|kg|hr?|days?|d|d?l|ml|g|mmol|s|m|cm|mm)\.? ?\( ?-? ?$")
"""Of a unit whose number is further off: "mL . min ( - 1 )"."""
_ISOTOPE = re.compile(r"\d{1,3}(?= ?\))")
"""Of a labelled compound: "[(3)H]norepinephrine"."""
_BAND_BEFORE = re.compile(r"(?:^|[\s(])(?:\d{1,2}|[xy])?[pq]$")
_BAND = re.compile(r"[1-9]\d?\.\d{1,3}(?!\d)")
"""Of a chromosome: "q11.2"."""
_GREEK = re.compile(r"\d{1,2} ?(?:alpha|beta)\b")
"""Of "3 alpha - hydroxy"."""
_LOCANT = re.compile(r"\d{1,2} - [a-cefijknopqrtuvxz](?= )")
"""Of a formula cut into words: "15 - F ( 2t ) - IsoP"."""
_STRAIN_BEFORE = re.compile(r"\b[a-z]{1,4}\d{1,3}[a-z]{1,3} ?/ ?$")
"""Of mice: "C57BL/6"."""
_DISEASE_BEFORE = re.compile(
    r"(?:ase|[a-z]osis|[a-z]asis|[a-z]{3}ia|pathy|trophy|trophies|plegia|atosis|[a-z]{3}oma|actinic|syndrome"
    r"|disease|deficiency"
    r"|disorder|protein|short form|familial|dominant|recessive|hla ?- ?[a-z]{1,2}|autosomal dominant"
    r"|autosomal recessive|x-linked) $"
)
_LAST_OF_NAME = re.compile(
    r"(?:\d{1,2}[a-z]?|\d{4})(?= ?,| these resources| - [a-z]| ?[.?](?: (?!\d)|$)| ?$| ?\(| (?:is|are|was|gene"
    r"|deficiency"
    r"|syndrome|disease|have|has)\b)"
)
"""Of a disease or an enzyme: "spinocerebellar ataxia 2"."""
_LETTER_AFTER = re.compile(r"\d{1,9}(?:[.,]\d{1,9}){0,3}[a-z]")
_NOT_NAMES = re.compile(
    r"\d{1,9}(?:[.,]\d{1,9}){0,3}(?:x|k\b|k/|e\d|[ap]\.?m\b|[ymwd]\.?/?o\b|[mf]\b|'?s\b|k?hz\b|[mk]?v\b|k?da\b"
    r"|c?gy\b|db\b|rpm\b|h\d\d|yr|hrly|hly)"
)


def name_at(plain: str, start: int, before: str, *, cut_in_words: bool) -> Unread | None:
    """The name, ordinal, list numeral or citation whose first digits are at this place."""
    if outside := _citation(plain, start, before) or _numeral(plain, start, before) or _gene_or_disease(plain, start):
        return outside
    if part := _part_of_formula(plain, start, before, cut_in_words=cut_in_words):
        return part
    if before.endswith("/ " if cut_in_words else "/") and _STRAIN_BEFORE.search(before):
        return _word(plain, start, start)
    return _glued(plain, start, before, cut_in_words=cut_in_words) or _named(plain, start, before)


def _citation(plain: str, start: int, before: str) -> Unread | None:
    """The numbers of "[12, 13]" and of "the kidney.3"."""
    if before.endswith(",") and before[-2:-1].isalpha() and (match := _RAISED_BEHIND_COMMA.match(plain, start)):
        return Unread(start, match.end(), "a citation")
    if before.endswith(("[", "[ ")) and (match := _CITATION.match(plain, start)):
        return Unread(start, match.end(), "a citation")
    if plain[start] == "." and before[-1:] in ")]\"'" and (match := _RAISED.match(plain, start + 1)):
        return Unread(start + 1, match.end(), "a citation")
    if before.endswith((").", "].", '".')) and (match := _RAISED.match(plain, start)):
        return Unread(start, match.end(), "a citation")
    return None


def _numeral(plain: str, start: int, before: str) -> Unread | None:
    """A list numeral or an ordinal."""
    if match := _LETTERED_PHONE.match(plain, start):
        return Unread(start, match.end(), "a number to call that is written in letters")
    if match := _ORDINAL.match(plain, start):
        return Unread(start, match.end(), "an ordinal")
    if (match := _ITEM.match(plain, start)) and _ITEM_BEFORE.search(before):
        return Unread(start, match.end() - 1, "a list numeral")
    if (match := _ITEM_CLOSED.match(plain, start)) and before.rfind("(") <= before.rfind(")"):
        wanted = ("1 ) ", "2 ) ") if " )" in match[0] else ("1) ", "2) ")
        if all(_holds_item(plain, item) for item in wanted):
            return Unread(start, match.end(), "a list numeral")
    if before.endswith(("(", "( ")) and _ITEM_IN_BRACKETS.match(plain, start) and _is_enumerated(plain):
        return Unread(start, start + 1, "a list numeral")
    return None


def _holds_item(plain: str, item: str) -> bool:
    place = plain.find(f" {item}")
    return place > 0 and plain[place - 1] not in "=<>(+-"


def _gene_or_disease(plain: str, start: int) -> Unread | None:
    """The number at the end of a name: "signs and symptoms for Dystonia 11", "a protein called connexin 26"."""
    match = _SHORT_NUMBER.match(plain, start)
    if match is None:
        return None
    before = plain[max(0, start - 160) : start]
    word = _NAME_WORD.search(before)
    if word is None or word[1] in _NO_NAME or word[1].endswith(("ly", "ing", "ed")):
        return None
    is_last = _SENTENCE_OVER.match(plain, match.end()) and _HEADING.search(before)
    is_gene = (
        _NAME_OVER.match(plain, match.end())
        and not word[1].endswith("s")
        and not is_measured(before)
        and _OF_GENES.search(before + plain[start : start + 100])
    )
    return Unread(start, match.end(), "digits inside a name") if is_last or is_gene else None


def _part_of_formula(plain: str, start: int, before: str, *, cut_in_words: bool) -> Unread | None:
    """Digits of a unit, an isotope, a chromosome, a chemical or the name of a disease."""
    if (
        before.endswith(("(", "( ", "-", "- "))
        and (match := _EXPONENT.match(plain, start))
        and _UNIT_BEFORE.search(before)
    ):
        return Unread(start, match.end(), "digits inside a unit")
    if before.endswith(("[ ( ", "[(")) and (match := _ISOTOPE.match(plain, start)):
        return Unread(start, match.end(), "digits inside a name")
    if before.endswith(("(", "( ")) and (match := _HALF_LIFE.match(plain, start)) and _HALF_LIFE_BEFORE.search(before):
        return Unread(start, match.end(), "digits inside a name")
    if before.endswith("+ ") and _ION_BEFORE.search(before):
        return Unread(start, start + 1, "digits inside a name")
    if match := _KARYOTYPE_OR_DIMENSION.match(plain, start):
        return Unread(start, match.end(), "digits inside a name")
    if before.endswith(("q", "p")) and _BAND_BEFORE.search(before) and (match := _BAND.match(plain, start)):
        return Unread(start - 1, match.end(), "digits inside a name")
    if cut_in_words and (match := _LOCANT.match(plain, start)):
        return Unread(start, match.end(), "digits inside a name")
    if _DISEASE_BEFORE.search(before) and (match := _LAST_OF_NAME.match(plain, start)):
        return Unread(start, match.end(), "digits inside a name")
    if match := _CHEMICAL.match(plain, start) or _GREEK.match(plain, start):
        return Unread(start, match.end(), "digits inside a name")
    return None


def written_at(plain: str, start: int, before: str, written: str, *, cut_in_words: bool) -> Unread | None:
    """What only capitals tell from a quantity: isotopes ("133Xe"), "5 - MDOT", "(MEN 1)"; codes as in `code_at`."""
    if not written:
        return None
    if match := _ISOTOPE_WRITTEN.match(written, start):
        return Unread(start, match.end(), "digits inside a name")
    if _SYNDROME.match(written, start) and _SYNDROME_BEFORE.search(written, max(0, start - 9), start):
        return Unread(start, start + 1, "digits inside a name")
    if not cut_in_words:
        return None
    if before.endswith("( ") and _ISOTOPE_IN_BRACKETS.match(written, start):
        return Unread(start, start + 1, "digits inside a name")
    if match := _LOCANT_WRITTEN.match(written, start) or _SUBTYPE_WRITTEN.match(written, start):
        return Unread(start, match.end(), "digits inside a name")
    return code_at(plain, start, before, written)


def code_at(plain: str, start: int, before: str, written: str) -> Unread | None:
    """The number of a test compound in a text that was cut in words: "FK 506", "CGS 21680"."""
    match = _CODE.match(plain, start)
    if match is None or not _CODE_LETTERS.search(written, max(0, start - 6), start) or is_measured(before):
        return None
    return None if _UNIT_AFTER.match(plain, start) else Unread(start, match.end(), "digits inside a name")


def _is_enumerated(plain: str) -> bool:
    return ("(1)" in plain and "(2)" in plain) or ("( 1 )" in plain and "( 2 )" in plain)


def _glued(plain: str, start: int, before: str, *, cut_in_words: bool) -> Unread | None:
    glued = _GLUED.search(before) if before[-1:].isalpha() or before.endswith(("-", ".")) else None
    if glued and not _may_precede(glued["word"], plain, start):
        end = _WORD_END.match(plain, start)
        return Unread(start - len(glued[0]), end.end() if end else start + 1, "digits inside a name")
    if _looks_named(plain, start, before, cut_in_words=cut_in_words) and not _UNIT_AFTER.match(plain, start):
        return _word(plain, start, start)
    return None


def _looks_named(plain: str, start: int, before: str, *, cut_in_words: bool) -> bool:
    if cut_in_words and before.endswith(" - ") and _SPACED_NAME_BEFORE.search(before):
        return True
    if cut_in_words and before.endswith("( ") and _IN_BRACKETS.match(plain, start):
        return _IN_BRACKETS_BEFORE.search(before) is not None
    return _LETTER_AFTER.match(plain, start) is not None and not _NOT_NAMES.match(plain, start)


def _may_precede(word: str, plain: str, start: int) -> bool:
    """Whether the quantity here can be glued to this word: "wt12", "amoxicillin500mg", "t38.5"."""
    if word in _GLUED_ALLOWED or (word == "t" and _TEMPERATURE.match(plain, start)):
        return True
    has_unit = _UNIT_AFTER.match(plain, start)
    return has_unit is not None and len(word) > 3 and len(has_unit["unit"]) > 1


def _named(plain: str, start: int, before: str) -> Unread | None:
    if before[-1:] not in (" ", "-", "/", ","):
        return None
    is_subtype = _SUBTYPE.match(plain, start) and _TYPE_BEFORE.search(before)
    if not is_subtype and (not _NAMED_BEFORE.search(before) or _UNIT_AFTER.match(plain, start)):
        return None
    return _word(plain, start, start)


def _word(plain: str, start: int, first: int) -> Unread:
    end = _WORD_END.match(plain, start)
    return Unread(first, max(end.end() if end else 0, start + 1), "digits inside a name")
