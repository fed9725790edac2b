"""Units of clinical texts: any spelling to one canonical unit and an exact factor.

Canonical are mg, mL, IU, min for hours and seconds, day, month, mm, mmol; a divisor keeps its kilogram and its time.
Tablets, drops, puffs and other counted forms are their own units: how much is in one, the text must say.
The arithmetic of the physical units is pint's, on fractions; `units.txt` holds the definitions.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache, lru_cache
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pint

SPELLINGS: dict[str, tuple[str, ...]] = {
    "mg": ("milligrams", "milligram", "milligrammes", "milligramme", "mgs", "mgr", "mg"),
    "mcg": (
        "micrograms",
        "microgram",
        "microgrammes",
        "microgramme",
        "mcgs",
        "mcg",
        "micro g",
        "micro gram",
        "micro grams",
        "µg",
        "ug",
        "mug",
        "microg",
    ),
    "ng": ("nanograms", "nanogram", "ng"),
    "kg": ("kilograms", "kilogram", "kilos", "kilo", "kgs", "kg"),
    "g": ("grams", "gram", "grammes", "gramme", "gms", "gm", "g"),
    "IU": ("international units", "international unit", "i.u.", "ius", "iu's", "iu", "units", "unit", "u"),
    "MIU": ("miu", "mu", "mega units", "megaunits"),
    "mIU": ("milliunits",),
    "mEq": ("milliequivalents", "mequiv", "meq"),
    "mmol": ("millimoles", "millimole", "mmols", "mmol"),
    "mcmol": ("micromoles", "micromole", "micromol", "mumol", "µmol", "umol", "mcmol"),
    "nmol": ("nanomoles", "nanomole", "nanomol", "nmol"),
    "pmol": ("pmol",),
    "mol": ("moles", "mol"),
    "mL": ("milliliters", "millilitres", "milliliter", "millilitre", "mls", "ml", "cc", "ccs"),
    "mcL": (
        *("microliters", "microlitres", "microliter", "microlitre", "µl", "ul", "mcl", "mul", "microl"),
        *("cubic millimeter", "cubic millimetre", "mm3", "mm³", "mm^3", "mm(3)", "mm ( 3 )", "cmm", "cu mm"),
    ),
    "nL": ("nanoliters", "nanolitres", "nanoliter", "nanolitre", "nl"),
    "dL": ("deciliters", "decilitres", "deciliter", "decilitre", "dl"),
    "L": ("liters", "litres", "liter", "litre", "l"),
    "tablet": ("tablets", "tablet", "tabs", "tab", "pills", "pill", "caplets", "caplet", "tbl"),
    "capsule": ("capsules", "capsule", "caps", "cap"),
    "drop": ("macrodrops", "microdrops", "drops", "drop", "gtts", "gtt"),
    "puff": ("puffs", "puff", "inhalations", "inhalation", "sprays", "spray", "actuations", "actuation"),
    "teaspoon": ("teaspoonfuls", "teaspoonful", "teaspoons", "teaspoon", "tsps", "tsp"),
    "tablespoon": ("tablespoonfuls", "tablespoonful", "tablespoons", "tablespoon", "tbsps", "tbsp"),
    "spoon": ("spoonfuls", "spoonful", "spoons", "spoon"),
    "sachet": ("sachets", "sachet", "packets", "packet"),
    "lozenge": ("lozenges", "lozenge"),
    "ampoule": ("ampoules", "ampoule", "ampules", "ampule", "amps", "amp"),
    "vial": ("vials", "vial"),
    "patch": ("patches", "patch"),
    "suppository": ("suppositories", "suppository", "pessaries", "pessary"),
    "cup": ("cups", "cup", "glasses", "glass"),
    "dose": ("doses", "dose"),
    "%": ("percent", "per cent", "%"),
    "mmHg": ("millimeters of mercury", "millimetres of mercury", "mm of hg", "mm hg", "mmhg"),
    "°C": ("degrees celsius", "degrees centigrade", "degrees c", "deg c", "°c", "° c", "celsius", "c"),
    "°F": ("degrees fahrenheit", "degrees f", "deg f", "°f", "° f", "fahrenheit", "f"),
    "degree": ("degrees", "degree", "°"),
    "kcal": ("kilocalories", "kilocalorie", "kcals", "kcal", "calories", "calorie", "cal"),
    "kPa": ("kpa",),
    "km": ("kilometers", "kilometres", "km"),
    "cm": ("centimeters", "centimetres", "centimeter", "centimetre", "cms", "cm"),
    "mm": ("millimeters", "millimetres", "millimeter", "millimetre", "mm"),
    "m2": (
        "square meters",
        "square metres",
        "square meter",
        "square metre",
        "m²",
        "m2",
        "m^2",
        "m(2)",
        "m ( 2 )",
        "sqm",
        "sq m",
        "sq . m",
        "m2bsa",
        "m2 bsa",
        "m2 body surface area",
        "m2 of body surface area",
        "m2 body surface",
    ),
    "m": ("meters", "metres", "meter", "metre", "m"),
    "year": ("years", "year", "yrs", "yr", "y"),
    "month": ("months", "month", "mths", "mth", "mos", "mo"),
    "week": ("weeks", "week", "wks", "wk", "w"),
    "day": ("days", "day", "nights", "night", "d"),
    "h": ("hours", "hour", "hrs", "hr", "h"),
    "min": ("minutes", "minute", "mins", "min"),
    "s": ("seconds", "second", "secs", "sec", "s"),
    "cell": ("cd4 cells", "cells", "cell", "wbc", "leukocytes", "lymphocytes", "parasites"),
    "beat": ("heart beats", "beats", "beat"),
    "breath": ("breaths", "breath", "respirations"),
    "lb": ("pounds", "pound", "lbs", "lb"),
    "oz": ("ounces", "ounce", "oz"),
    "inch": ("inches", "inch"),
    "foot": ("feet", "foot", "ft"),
    "cmH2O": ("cm h2o", "cmh2o", "cm of water"),
    "pg": ("picograms", "picogram", "pg"),
    "copy": ("copies",),
    "mOsm": ("mosm", "mosmol"),
}
"""Spellings of each unit, in the plain form of reading.py."""

SYMBOL_OF = {spelling: symbol for symbol, spellings in SPELLINGS.items() for spelling in spellings}

CALENDAR = frozenset({"year", "month", "week", "day", "h", "min", "s"})
FORMS = frozenset(
    {"tablet", "capsule", "drop", "puff", "teaspoon", "tablespoon", "spoon", "sachet", "ampoule", "vial", "patch"}
    | {"suppository", "cup", "dose", "lozenge"}
)

_CANONICAL = (
    {"mg": "mg", "mcg": "mg", "ng": "mg", "pg": "mg", "g": "mg", "kg": "mg"}
    | {"mL": "mL", "nL": "mL", "mcL": "mL", "dL": "mL", "L": "mL"}
    | {"mmol": "mmol", "mcmol": "mmol", "nmol": "mmol", "pmol": "mmol", "mol": "mmol"}
    | {"IU": "IU", "MIU": "IU", "mIU": "IU", "cm": "mm", "m": "mm", "km": "mm"}
    | {"h": "min", "s": "min", "min": "min", "week": "day", "day": "day", "year": "month", "month": "month"}
)
_NO_COUNT = frozenset({"beat", "breath", "cell", "copy"})


@cache
def _registry() -> pint.UnitRegistry[Fraction]:
    import pint  # a quarter of a second: only when the first unit is read

    registry: pint.UnitRegistry[Fraction] = pint.UnitRegistry(None, non_int_type=Fraction)
    lines = resources.files("edgemed.medical.quantities").joinpath("units.txt").read_text(encoding="utf-8").splitlines()
    registry.load_definitions([line for line in lines if line and not line.startswith("#")])
    return registry


@lru_cache(maxsize=4096)
def canonical(unit: str) -> tuple[str, Fraction]:
    """The canonical form of a unit such as "g/dL" or "mg/5 mL", and what one of it is in that form.

    Symbols are the keys of SPELLINGS, a divisor may carry a number. Raises KeyError for an unknown symbol.
    """
    first, *divisors = unit.split("/")
    name, factor = _part(first, divisor=False) if first else ("", Fraction(1))
    names = [name]
    for divisor in divisors:
        number, _, symbol = divisor.rpartition(" ")
        divisor_name, divisor_factor = _part(symbol, divisor=True)
        if (number, symbol) == ("24", "h"):
            divisor_name = "day"
        elif symbol == "m2" and number:  # "mL/min/1.73m2": a standard body, not a number to divide by
            divisor_name = f"{number}m2"
        elif number:
            divisor_factor *= Fraction(number)
        names.append(divisor_name)
        factor /= divisor_factor
    return "/".join(names), factor


def _part(symbol: str, *, divisor: bool) -> tuple[str, Fraction]:
    if symbol not in SPELLINGS:
        raise KeyError(symbol)
    if symbol in _NO_COUNT:
        return "", Fraction(1)
    if divisor and symbol in ("kg", "g", *CALENDAR):
        return symbol, Fraction(1)
    target = _CANONICAL.get(symbol, symbol)
    if target == symbol:
        return symbol, Fraction(1)
    return target, Fraction(_registry().convert(Fraction(1), symbol, target))
