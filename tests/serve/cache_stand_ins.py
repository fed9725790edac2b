"""Questions, keys and secrets for the tests of the answer cache."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from edgemed.serve.cache_entry import CacheContext, unit_vector
from edgemed.serve.cache_secret import Secret
from edgemed.serve.response_cache import Answered, Asked

SECRET = Secret("keyring", bytes(range(32)))
QUESTION = "What is the dose of paracetamol for fever in a child of 12 kg?"
SAME = "How much paracetamol for a child of 12 kg with fever?"
ANSWER = "Paracetamol: 15 mg/kg every 6 hours for fever in a child. Do not give more than 60 mg/kg in a day."


@dataclass(frozen=True)
class StandInKey:
    """A clinical key that is equal for equal marks."""

    mark: str = "paracetamol child fever dose"
    cacheable: bool = True

    def digest(self) -> str:
        return hashlib.sha256(self.mark.encode()).hexdigest()


def context(**fields: Any) -> CacheContext:
    made = {
        "model_name": "demo",
        "model_digest": "a" * 64,
        "templates_digest": "b" * 64,
        "medical_version": "1",
        "language": "en",
        "max_tokens": 256,
    }
    return CacheContext(**(made | fields))


def asked(question: str = QUESTION, mark: str = StandInKey.mark, **fields: Any) -> Asked:
    made: dict[str, Any] = {"context": context(), "key": StandInKey(mark), "emergency": False, "has_history": False}
    made |= fields
    made["embedding"] = unit_vector(made.get("embedding"))
    return Asked(question=question, **made)


def answered(text: str = ANSWER, **fields: Any) -> Answered:
    return Answered(**({"text": text, "finish_reason": "stop", "numbers_clean": True} | fields))
