"""What the medical layer says of one question before the model is asked, and of the answer when it has ended.

Pure functions of text, some milliseconds; the chat route runs them off its event loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgemed.core.errors import UsageError
from edgemed.medical.calculators import CalculatorResult, calculate
from edgemed.medical.category import Classification, classify
from edgemed.medical.guard import CheckedNumber, CitedText, GuardResult, Source, Verdict, check_numbers
from edgemed.medical.language import DEFAULT_LANGUAGE, Category, languages
from edgemed.medical.pace import Pace, pace_of
from edgemed.medical.terminology import TermNote, term_notes
from edgemed.serve.errors import ApiError
from edgemed.serve.options import ServeOptions
from edgemed.serve.schemas import Calculation, ChatRequest, Conversation

if TYPE_CHECKING:
    from edgemed.serve.response_cache import CachedAnswer


@dataclass(frozen=True, slots=True)
class Consultation:
    """One question as the medical layer understands it."""

    conversation: Conversation
    language: str
    classification: Classification
    notes: tuple[TermNote, ...]
    pace: Pace
    """Of the question's class, the caller's own temperature and top_p in the place of ours."""
    sources: tuple[Source, ...]
    """What the caller brought to support numbers: calculations, done again here, and cited texts."""
    languages_folder: Path | None = None

    @property
    def emergency(self) -> bool:
        """A danger sign, or the category."""
        return self.classification.prompt_category is Category.EMERGENCY

    def opening(self, cached: CachedAnswer | None = None) -> dict[str, Any]:
        """The `medical` object of an answer, as far as it is known before the first word."""
        kind = self.classification
        return {
            "language": self.language,
            "category": kind.category.value,
            "subclass": kind.subclass,
            "reasons": list(kind.reasons),
            "danger_signs": [{"sign": sign.sign, "words": sign.words} for sign in kind.danger],
            "danger_checked": kind.danger_checked,
            "notes": [_note(note) for note in self.notes],
            "cached": None if cached is None else {"made": cached.made_at, "age_s": round(cached.age_s)},
        }


def consult(request: ChatRequest, conversation: Conversation, options: ServeOptions) -> Consultation:
    """Raises ApiError 400 for an unknown language, and for a calculation that cannot be done."""
    languages_folder = options.languages
    language = request.language or DEFAULT_LANGUAGE
    if language not in languages(languages_folder):
        known = ", ".join(languages(languages_folder))
        raise ApiError(400, f"language: use one of {known}.", code="invalid_value", param="language")
    classification = classify(conversation.question, language, languages_folder)
    return Consultation(
        conversation=conversation,
        language=language,
        classification=classification,
        notes=term_notes(conversation.question, language),
        pace=_pace(classification, options).asked(temperature=request.temperature, top_p=request.top_p),
        sources=(
            *(_calculated(asked, number) for number, asked in enumerate(request.calculations or ())),
            *(CitedText(title=cited.title, text=cited.text) for cited in request.cited or ()),
        ),
        languages_folder=languages_folder,
    )


def verdicts(result: GuardResult) -> dict[str, Any]:
    """The part of the `medical` object that is known when the answer has ended."""
    return {"numbers": [number_fields(number) for number in result.numbers], "numbers_summary": result.summary}


def contradicted(question: str, sources: Sequence[Source]) -> tuple[CheckedNumber, ...]:
    """Numbers of a question that a source gives otherwise: "is 500 mg/kg ok?" An answer may agree without a number."""
    numbers = check_numbers(question, "", sources).numbers
    return tuple(number for number in numbers if number.verdict is Verdict.CONTRADICTS_SOURCE)


def number_fields(number: CheckedNumber) -> dict[str, Any]:
    """A checked number as the interface gives it; places in code points."""
    return {
        "text": number.text,
        "start": number.first,
        "end": number.last,
        "verdict": number.verdict.value,
        "source": number.source,
        "source_says": number.source_says,
    }


def _pace(kind: Classification, options: ServeOptions) -> Pace:
    pace = pace_of(kind.prompt_category, bool(kind.danger))
    if options.paced:
        return pace
    longest = options.answer_tokens
    return pace.model_copy(
        update={"max_tokens": longest, "reasoning_tokens": longest, "temperature": 0.0, "top_p": 1.0}
    )


def _calculated(asked: Calculation, number: int) -> CalculatorResult:
    try:
        return calculate(asked.name, asked.inputs)
    except UsageError as error:
        raise ApiError(
            400, f"calculations[{number}]: {error}", code="inputs_refused", param=f"calculations[{number}]"
        ) from None


def _note(note: TermNote) -> dict[str, Any]:
    return {
        "surface": note.surface,
        "kind": note.kind,
        "meanings": list(note.meanings),
        "ambiguous": note.ambiguous,
        "warning": note.warning,
    }
