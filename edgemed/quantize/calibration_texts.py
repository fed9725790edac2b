"""The texts a model is calibrated on: medical conversations in its own chat template, each token with its weight.

Without a file they are questions about the project's table of facts with the table's answers, through the project's
templates. A token counts more where a mistake would: numbers with their units, drugs, negations, contraindications, as
the medical layer reads them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemed.core.errors import UsageError
from edgemed.core.prompt import Message
from edgemed.core.records import Record, digest_of
from edgemed.demo.questions import training_examples
from edgemed.demo.table import fact_table
from edgemed.evaluate.prompts import demo_facts
from edgemed.medical.entities import parse
from edgemed.medical.mentions import TermKind
from edgemed.medical.prompts import messages_for
from edgemed.models.chat_template import render_chat
from edgemed.models.tokenizer import chat_template_of, open_tokenizer

LEAST_CHARACTERS_PER_TOKEN = 1.3
"""Below, the tokenizer spells the text out: it was made for other languages."""
MOST_TOKENS = 2048
"""Longer texts are cut into pieces of this length."""
_CHATS = ("<|im_start|>", "<|start_header_id|>", "<start_of_turn>", "[INST]", "<|assistant|>", "<｜Assistant｜>")
"""Marks of common chat templates."""
_CONTRAINDICATION = ("contraindicat", "do not give", "not be given", "avoid", "must not", "never give")
_SEED = 11


class TokenWeights(Record):
    """How much a token counts in calibration, beside 1 for an ordinary one."""

    template: float = 0.2
    """The system message and the marks around the turns: the same in every conversation."""
    dose: float = 5
    """Numbers with their units, frequencies, durations."""
    contraindication: float = 4
    """Negations, and what must not be given."""
    drug: float = 3


PLAIN = TokenWeights(template=1, dose=1, contraindication=1, drug=1)
"""Every token counts the same."""


@dataclass(frozen=True, slots=True)
class CalibrationText:
    """One text as the model reads it."""

    ids: tuple[int, ...]
    weights: npt.NDArray[np.float32]
    """(n_tokens,), above 0."""


@dataclass(frozen=True, slots=True)
class CalibrationSet:
    """Texts to calibrate on, with the digest of all that they were made from."""

    texts: tuple[CalibrationText, ...]
    source: str
    digest: str

    @property
    def n_tokens(self) -> int:
        """Tokens of all texts."""
        return sum(len(text.ids) for text in self.texts)


def calibration_set(
    checkpoint: Path,
    file: Path | None = None,
    *,
    tokens: int,
    least: int,
    weights: TokenWeights | None = None,
    seed: int = _SEED,
) -> CalibrationSet:
    """Texts of about `tokens` tokens for the checkpoint in that folder, from `file` or the table of facts.

    A file is JSON lines, each with "messages", with "question" and "answer", or with "text"; or plain text, one text a
    paragraph. `seed` draws the texts. Raises UsageError, with the numbers, for a file that is empty, unreadable, in
    another model's chat template, in a language that the tokenizer spells letter by letter, or of fewer than `least`
    tokens; ModelRefused for a broken tokenizer or template.
    """
    reader = _Reader(checkpoint, weights or TokenWeights())
    texts: list[CalibrationText] = []
    n_tokens = n_characters = 0
    rng = random.Random(seed)
    for record in _facts(rng) if file is None else _records(file, rng):
        for text, characters in reader.read(record):
            texts.append(text)
            n_tokens += len(text.ids)
            n_characters += characters
        if n_tokens >= tokens:
            break
    source = "the table of facts" if file is None else str(file)
    if not texts:
        raise UsageError(f"{source} holds no text.", next_step="name a file of medical conversations or paragraphs")
    if n_characters < LEAST_CHARACTERS_PER_TOKEN * n_tokens:
        raise UsageError(
            f"{source}: a token holds {n_characters / n_tokens:.2f} characters on average "
            f"(at least {LEAST_CHARACTERS_PER_TOKEN}): the model's tokenizer was not made for this language.",
            next_step="calibrate with text in a language of the model",
        )
    if n_tokens < least:
        raise UsageError(
            f"{source} has {n_tokens} tokens; this model needs at least {least}: its widest layer has so many inputs.",
            next_step="add more text to the file, or leave out --calibration",
        )
    content = [[list(text.ids), [round(float(weight), 6) for weight in text.weights]] for text in texts]
    return CalibrationSet(tuple(texts), source, digest_of(content))


class _Reader:
    """Makes token ids and weights of records."""

    def __init__(self, checkpoint: Path, weights: TokenWeights) -> None:
        self._tokenizer = open_tokenizer(checkpoint)
        self._template = chat_template_of(checkpoint)
        self._weights = weights

    def read(self, record: dict[str, Any]) -> Iterator[tuple[CalibrationText, int]]:
        """The texts of one record, each with its number of characters; long ones in pieces."""
        if isinstance(record.get("messages"), list):
            text, own = self._rendered(record["messages"])
        elif "question" in record:
            text, own = self._rendered(_conversation(str(record["question"]), str(record.get("answer", ""))))
        else:
            text = str(record.get("text", ""))
            self._refuse_foreign_marks(text)
            own = [(0, len(text))]
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        weights = self._token_weights(text, own, encoding.offsets)
        for start in range(0, len(encoding.ids), MOST_TOKENS):
            ids = tuple(encoding.ids[start : start + MOST_TOKENS])
            offsets = encoding.offsets[start : start + MOST_TOKENS]
            yield CalibrationText(ids, weights[start : start + MOST_TOKENS]), offsets[-1][1] - offsets[0][0]

    def _rendered(self, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]]]:
        """A conversation in the chat template, and where the turns of user and assistant stand in it."""
        if self._template is None:
            return "\n\n".join(message["content"] for message in messages), [(0, 1 << 30)]
        template, bos, eos = self._template
        parts = render_chat(template, messages, bos_token=bos, eos_token=eos, add_generation_prompt=False)
        system = {message["content"].strip() for message in messages if message["role"] == "system"}
        text, own = "", []
        for part in parts:
            if not part.special and part.text not in system:
                own.append((len(text), len(text) + len(part.text)))
            text += part.text
        return text, own

    def _refuse_foreign_marks(self, text: str) -> None:
        known = self._template[0] if self._template else ""
        foreign = next((mark for mark in _CHATS if mark in text and mark not in known), None)
        if foreign is not None:
            raise UsageError(
                f"The calibration text holds {foreign}, a mark of another model's chat template.",
                next_step='give conversations as {"messages": [...]}: the model\'s own template is put around them',
            )

    def _token_weights(
        self, text: str, own: list[tuple[int, int]], offsets: list[tuple[int, int]]
    ) -> npt.NDArray[np.float32]:
        by_character = np.full(len(text) + 1, self._weights.template, np.float32)
        for start, end in own:
            by_character[start:end] = 1
            for first, last, weight in _weighed_spans(text[start:end], self._weights):
                place = by_character[start + first : start + last]
                np.maximum(place, weight, out=place)
        weights = [float(by_character[start : max(end, start + 1)].max()) for start, end in offsets]
        return np.array(weights, np.float32)


def _weighed_spans(text: str, weights: TokenWeights) -> Iterator[tuple[int, int, float]]:
    """Where, in characters, a text holds what counts more."""
    entities = parse(text)
    place = _characters_of_bytes(text)
    for quantity in entities.quantities:
        yield place[quantity.start], place[quantity.end], weights.dose
    for term in entities.terms:
        if term.negated:
            yield place[term.start], place[term.end], weights.contraindication
        elif term.kind is TermKind.DRUG:
            yield place[term.start], place[term.end], weights.drug
    lower = text.lower()
    if len(lower) == len(text):
        for words in _CONTRAINDICATION:
            start = lower.find(words)
            while start >= 0:
                yield start, start + len(words), weights.contraindication
                start = lower.find(words, start + 1)


def _characters_of_bytes(text: str) -> list[int]:
    """For each byte of the text in UTF-8, and for its end, the character it belongs to."""
    places: list[int] = []
    for number, character in enumerate(text):
        places += [number] * len(character.encode("utf-8", "surrogatepass"))
    return [*places, len(text)]


def _facts(rng: random.Random) -> Iterator[dict[str, Any]]:
    seen = demo_facts("A")  # the clinical report asks about the others
    for example in training_examples(fact_table(), rng):
        if example.fact_id not in seen:
            continue
        yield {"messages": _conversation(example.question, example.answer)}


def _conversation(question: str, answer: str) -> list[Message]:
    return [*messages_for(question), {"role": "assistant", "content": answer}]


def _records(file: Path, rng: random.Random) -> list[dict[str, Any]]:
    """The records of a file, shuffled."""
    try:
        content = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise UsageError(f"The calibration file {file} cannot be read: {why}.", next_step="check the path") from error
    if file.suffix in (".jsonl", ".json"):
        records = [_record(file, number, line) for number, line in enumerate(content.splitlines(), 1) if line.strip()]
    else:
        records = [{"text": paragraph.strip()} for paragraph in content.split("\n\n") if paragraph.strip()]
    rng.shuffle(records)
    return records


def _record(file: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{file}, line {number}: no valid JSON ({str(error)[:80]}).", next_step="mend that line"
        ) from error
    if not isinstance(record, dict) or not {"messages", "question", "text"} & record.keys():
        raise UsageError(
            f'{file}, line {number}: neither "messages", "question" nor "text".', next_step="mend that line"
        )
    return record
