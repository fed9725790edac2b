"""The prompt of a question: equation (2) of the method paper, P(q) = base + suffix_f(q) + q.

The question stays in the user role, always; the system role holds the project's own text alone.
The same templates serve, train the demonstration model, calibrate and evaluate.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgemed.core.prompt import Message
from edgemed.core.records import digest_of
from edgemed.medical.category import category_of
from edgemed.medical.language import DEFAULT_LANGUAGE, Category, language_data


def messages_for(
    question: str,
    history: Sequence[Message] = (),
    *,
    category: Category | None = None,
    language: str = DEFAULT_LANGUAGE,
    folder: Path | None = None,
) -> list[Message]:
    """The conversation to render: our system message, the earlier turns, the question.

    `history` holds user and assistant turns only; `category` defaults to that of the question, `folder` may hold
    language files of the clinic's own.
    """
    if category is None:
        category = category_of(question, language)
    system: Message = {"role": "system", "content": language_data(language, folder).templates.system_text(category)}
    return [system, *history, {"role": "user", "content": question}]


def templates_digest(language: str = DEFAULT_LANGUAGE, folder: Path | None = None) -> str:
    """SHA-256 of the template texts: what the journal and a trained model name them by."""
    return digest_of(language_data(language, folder).templates.model_dump())
