"""Kidney function of adults from serum creatinine: CKD-EPI 2021 and Cockcroft-Gault."""

from __future__ import annotations

from fractions import Fraction

from edgemed.medical.calculators.given import Given, range_fault
from edgemed.medical.calculators.record import (
    READ,
    Calculator,
    CalculatorForm,
    CalculatorInput,
    InputFault,
    Outcome,
)
from edgemed.medical.calculators.rounding import WHOLE, calculated, rounded

MG_PER_DL, UMOL_PER_L = "mg/dL", "µmol/L"
UMOL_PER_L_OF_ONE_MG_PER_DL = Fraction(884, 10)
# The two ranges do not meet, so that a value typed under the wrong unit is refused.
CREATININE_RANGE = {MG_PER_DL: (0.2, 17), UMOL_PER_L: (17.5, 1500)}
FEMALE, MALE = "female", "male"
OLDEST_OF_COCKCROFT_AND_GAULT = 92

STAGES = (
    (90, "G1: normal or high"),
    (60, "G2: mildly decreased"),
    (45, "G3a: mildly to moderately decreased"),
    (30, "G3b: moderately to severely decreased"),
    (15, "G4: severely decreased"),
    (0, "G5: kidney failure"),
)
"""KDIGO's GFR categories: the lowest whole mL/min/1.73 m² of each."""

_CREATININE = CalculatorInput(
    name="creatinine", label="Serum creatinine", kind="number", minimum=0.2, maximum=1500,
    note="0.2 to 17 mg/dL, or 17.5 to 1500 µmol/L",
)  # fmt: skip
_CREATININE_UNIT = CalculatorInput(
    name="creatinine_unit", label="Unit of the creatinine", kind="choice", choices=(MG_PER_DL, UMOL_PER_L)
)
_AGE = CalculatorInput(name="age_years", label="Age", kind="number", unit="years", minimum=18, maximum=110)
_SEX = CalculatorInput(name="sex", label="Sex", kind="choice", choices=(FEMALE, MALE))

EGFR_FORM = CalculatorForm(
    name="egfr_ckd_epi_2021",
    title="Estimated GFR (CKD-EPI 2021, creatinine)",
    purpose="The glomerular filtration rate of an adult and its KDIGO category, from one creatinine.",
    inputs=(_CREATININE, _CREATININE_UNIT, _AGE, _SEX),
    formula=(
        "eGFR = 142 × min(Scr/κ, 1)^α × max(Scr/κ, 1)^−1.200 × 0.9938^age × 1.012 if female; Scr in mg/dL "
        "(µmol/L ÷ 88.4), κ 0.7 and α −0.241 if female, κ 0.9 and α −0.302 if male"
    ),
    source=(
        "National Kidney Foundation, CKD-EPI Creatinine Equation (2021), kidney.org, citing Inker LA et al. "
        "N Engl J Med 2021;385:1737-1749; categories: KDIGO, Kidney Int Suppl 2013;3:5-14, statement 1.2.3"
    ),
    source_read=READ,
    limits=(
        "Adults of 18 years and more, creatinine traceable to IDMS and steady. Not for acute kidney injury, "
        "pregnancy, dialysis or unusual muscle mass. The category follows the eGFR rounded to a whole number."
    ),
)

CLEARANCE_FORM = CalculatorForm(
    name="creatinine_clearance",
    title="Creatinine clearance (Cockcroft-Gault)",
    purpose="The creatinine clearance of an adult, for drugs whose leaflet gives doses by it.",
    inputs=(
        _CREATININE,
        _CREATININE_UNIT,
        _AGE,
        _SEX,
        CalculatorInput(name="weight_kg", label="Weight", kind="number", unit="kg", minimum=25, maximum=300),
        CalculatorInput(
            name="weight_kind", label="This weight is the patient's", kind="choice",
            choices=("actual weight", "ideal weight", "adjusted weight"),
            note="the original study used actual weight; in marked obesity, oedema or ascites another one is used",
        ),
    ),
    formula=(
        "clearance (mL/min) = (140 − age) × weight in kg ÷ (72 × creatinine in mg/dL) × 0.85 if female; "
        "µmol/L ÷ 88.4 = mg/dL"
    ),
    source=(
        "Cockcroft DW, Gault MH. Prediction of creatinine clearance from serum creatinine. Nephron 1976;16:31-41, "
        "as quoted by ClinCalc, Creatinine clearance calculator, Cockcroft-Gault 1976"
    ),
    source_read=READ,
    limits=(
        "Adults of 18 years and more with steady creatinine; the study had men of 18 to 92 years. Not set to a body "
        "surface of 1.73 m², and no eGFR: use the one that the drug's leaflet names."
    ),
)  # fmt: skip


def check(given: Given) -> list[InputFault]:
    """The fault of a creatinine that is out of range in its unit."""
    if not given.has("creatinine", "creatinine_unit"):
        return []
    unit = given.choice("creatinine_unit")
    low, high = CREATININE_RANGE[unit]
    return range_fault(given, "creatinine", low, high, unit)


def _mg_per_dl(given: Given) -> Fraction:
    creatinine = given.number("creatinine")
    return creatinine if given.choice("creatinine_unit") == MG_PER_DL else creatinine / UMOL_PER_L_OF_ONE_MG_PER_DL


def estimate_gfr(given: Given) -> Outcome:
    """The eGFR in mL/min/1.73 m² and its KDIGO category."""
    female = given.choice("sex") == FEMALE
    kappa, alpha = (Fraction(7, 10), -0.241) if female else (Fraction(9, 10), -0.302)
    ratio = _mg_per_dl(given) / kappa
    egfr = (
        142
        * float(min(ratio, Fraction(1))) ** alpha
        * float(max(ratio, Fraction(1))) ** -1.2
        * 0.9938 ** float(given.number("age_years"))
        * (1.012 if female else 1)
    )
    shown = rounded(Fraction(egfr), WHOLE)
    category = next(words for lowest, words in STAGES if shown >= lowest)
    warnings = ["One estimate makes no diagnosis: chronic kidney disease means at least 3 months."]
    if shown >= 60:
        warnings.append("G1 and G2 are kidney disease only with another sign of damage, such as albuminuria.")
    return Outcome((calculated("eGFR", egfr, "mL/min/1.73 m²", WHOLE),), category, tuple(warnings))


def estimate_clearance(given: Given) -> Outcome:
    """The creatinine clearance in mL/min, with the weight it was calculated from."""
    age = given.number("age_years")
    clearance = (140 - age) * given.number("weight_kg") / (72 * _mg_per_dl(given))
    if given.choice("sex") == FEMALE:
        clearance *= Fraction(85, 100)
    warnings = [f"Calculated with the {given.choice('weight_kind')}."]
    if age > OLDEST_OF_COCKCROFT_AND_GAULT:
        warnings.append(f"The study had nobody older than {OLDEST_OF_COCKCROFT_AND_GAULT} years.")
    return Outcome((calculated("creatinine clearance", clearance, "mL/min", WHOLE),), warnings=tuple(warnings))


EGFR = Calculator(EGFR_FORM, estimate_gfr, check)
CLEARANCE = Calculator(CLEARANCE_FORM, estimate_clearance, check)
