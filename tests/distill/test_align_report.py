"""How well two tokenizers fit: shares, entities on boundaries, examples that can be read."""

from __future__ import annotations

import pytest

from edgemed.core.errors import UsageError
from edgemed.distill.align_report import AlignReport, align_report
from edgemed.distill.examples import Example
from edgemed.distill.rendering import Side

EXAMPLES = (
    Example(id="one", question="Dose?", answer="Give 250 mg of zinc\nfor 10 days."),
    Example(id="two", question="Dose?", answer="<think>without an end"),
)


def test_a_report_tells_shares_entities_and_what_was_left_out(deepseek: Side, llama3: Side) -> None:
    found = align_report(deepseek, llama3, EXAMPLES)
    assert found.n_examples == 1
    assert sum(found.left_out.values()) == 1
    assert found.chunks["n:1"] == 2
    assert found.entities["dose"].n == found.entities["dose"].on_boundaries == 1
    assert AlignReport.model_validate_json(found.model_dump_json()) == found
    (cut,) = found.examples
    assert "|2\u00b75\u00b70| mg|" in cut.student
    assert "|250| mg|" in cut.teacher
    lines = list(found.lines())
    assert any(line.strip().endswith("many to one") and "%" in line for line in lines)
    assert not any("\n" in line for line in lines)


def test_one_tokenizer_is_one_to_one(demo: Side) -> None:
    found = align_report(demo, demo, EXAMPLES[:1])
    assert found.chunks == {"1:1": found.student_tokens, "1:n": 0, "n:1": 0, "n:n": 0}
    assert found.examples[0].student == found.examples[0].teacher


def test_a_report_of_nothing_is_refused(demo: Side) -> None:
    with pytest.raises(UsageError, match="No answer can be aligned"):
        align_report(demo, demo, EXAMPLES[1:])
