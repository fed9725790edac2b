"""The clinical report on the demonstration model: nothing changed says so, and a corrupted tensor is found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgemed.core.progress import SilentProgress
from edgemed.demo import demo_checkpoint_path, demo_model_path
from edgemed.evaluate.choices import ChoiceResult
from edgemed.evaluate.comparison import Questions, parent_part, spread
from edgemed.evaluate.doses import DoseChange
from edgemed.evaluate.engine_scorer import EngineScorer
from edgemed.evaluate.logits_file import LogitsFile
from edgemed.evaluate.token_text import TokenText
from edgemed.models.gguf import check_gguf, read_gguf, spec_from_gguf
from edgemed.quantize.clinical_report import (
    ClinicalReport,
    ReportSubject,
    clinical_report,
    demo_questions,
    generic_questions,
    report_on_child,
    role_sizes,
)
from edgemed.quantize.clinical_report_page import report_page

TENSOR = "blk.0.ffn_down.weight"
FEELING = ("azithromycin-yaws-child-oral-0", "carbamazepine-epilepsy-adult-oral-0", "doxycycline-cholera-adult-oral-0")
"""Prompts whose answers change with that tensor; in most layers a few rows like these change no answer at all."""
HOSTILE = "<script>alert('&')</script>"


def corrupted(source: Path, target: Path, n_rows: int, factor: float = 3) -> Path:
    """A copy of a q8_0 file in which the `n_rows` largest rows of one tensor are `factor` times as large."""
    tensor = next(tensor for tensor in read_gguf(source).tensors if tensor.name == TENSOR)
    assert tensor.type.name == "q8_0"
    content = bytearray(source.read_bytes())
    blocks = np.frombuffer(content, np.uint8, tensor.n_bytes, tensor.offset).reshape(tensor.shape[0], -1, 34)
    scales = blocks[:, :, :2].copy().view(np.float16)
    codes = blocks[:, :, 2:].view(np.int8).astype(np.float32)
    rows = np.argsort(-np.linalg.norm((scales.astype(np.float32) * codes).reshape(len(blocks), -1), axis=1))[:n_rows]
    scales[rows] *= np.float16(factor)
    blocks[:, :, :2] = scales.view(np.uint8)
    target.write_bytes(content)
    return target


@pytest.fixture(scope="module")
def tokens() -> TokenText:
    return TokenText(demo_checkpoint_path())


@pytest.fixture(scope="module")
def few() -> Questions:
    whole = demo_questions()
    feeling = [prompt for prompt in whole.prompts if prompt.id in FEELING]
    others = [prompt for prompt in whole.prompts if prompt.id not in FEELING]
    return Questions(
        name="few",
        prompts=(*feeling, *spread(others, 7)),
        choices=tuple(spread(whole.choices, 3)),
        general_text=whole.general_text[:400],
    )


@pytest.fixture(scope="module")
def parent() -> Iterator[EngineScorer]:
    pytest.importorskip("llama_cpp")
    with EngineScorer(demo_model_path(), context_length=512, n_threads=1) as scorer:
        yield scorer


@pytest.fixture(scope="module")
def bad_report(
    parent: EngineScorer, tokens: TokenText, few: Questions, tmp_path_factory: pytest.TempPathFactory
) -> ClinicalReport:
    """The report on a copy with a corrupted tensor."""
    path = corrupted(demo_model_path(), tmp_path_factory.mktemp("models") / "bad.gguf", 32)
    sizes = role_sizes(spec_from_gguf(check_gguf(demo_model_path())), spec_from_gguf(check_gguf(path)))
    subject = ReportSubject(parent="demo", child="bad", sizes=sizes, raise_first=(TENSOR,))
    with EngineScorer(path, context_length=512, n_threads=1) as child:
        return clinical_report(parent, child, tokens, few, subject)


def test_a_model_changes_nothing_against_itself(
    parent: EngineScorer, tokens: TokenText, few: Questions, tmp_path: Path
) -> None:
    with LogitsFile(tmp_path / "parent.f32") as keep:
        part = parent_part(parent, tokens, few, SilentProgress(), keep)
    with LogitsFile(tmp_path / "parent.f32") as kept:  # the parent's predictions from the disk, the child's fresh
        report = report_on_child(kept, part, parent, tokens, few, ReportSubject(parent="demo", child="demo"))
    assert report.gate.n_changed == 0
    assert report.gate.n_amounts >= 10
    assert report.gate.verdict == "not applicable"
    for at in (report.answers, report.medical_text, report.general_text, *(group.at for group in report.groups)):
        assert (at.kl_mean, at.kl_max, at.top1_agreement, at.perplexity_ratio) == (0, 0, 1, 1)
    assert all(answer.same_text and answer.same_doses for answer in report.free)
    assert isinstance(report.choices, ChoiceResult)
    assert report.choices.n_changed == 0
    assert sum(report.kl_histogram) == report.kl_histogram[0] == report.answers.n_positions


def test_a_corrupted_tensor_fails_the_gate(bad_report: ClinicalReport) -> None:
    assert bad_report.gate.verdict == "failed"
    assert bad_report.gate.n_changed == len(bad_report.changes) == sum(bad_report.changes_by_kind.values()) > 0
    assert bad_report.answers.kl_mean > 1e-3
    assert TENSOR in report_page(bad_report)


def test_the_record_survives_its_file(bad_report: ClinicalReport) -> None:
    again = ClinicalReport.model_validate_json(bad_report.model_dump_json())
    assert again == bad_report
    assert again.digest() == bad_report.digest()


def test_the_sizes_of_all_roles_are_the_files_tensors(bad_report: ClinicalReport) -> None:
    total = sum(tensor.n_bytes for tensor in read_gguf(demo_model_path()).tensors)
    assert sum(size.child_bytes for size in bad_report.subject.sizes) == total


def test_the_page_needs_nothing_from_elsewhere_and_escapes_all_words(bad_report: ClinicalReport) -> None:
    change = DoseChange(
        prompt="x",
        question=HOSTILE,
        span="amount",
        kind="10x",
        parent_words=HOSTILE,
        child_words=HOSTILE,
        positions=(1,),
    )
    free = bad_report.free[0].model_copy(update={"child": HOSTILE, "question": HOSTILE, "same_text": False})
    subject = bad_report.subject.model_copy(update={"child": HOSTILE, "raise_first": (HOSTILE,)})
    page = report_page(bad_report.model_copy(update={"changes": (change,), "free": (free,), "subject": subject}))
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 7
    assert not [mark for mark in ("src=", "<link", "@import", "url(http") if mark in page]
    assert "Gate failed" in page


def test_the_page_has_pictures_only_where_they_can_be_drawn(
    bad_report: ClinicalReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    assert report_page(bad_report).count("<svg") == 3
    monkeypatch.setattr("edgemed.quantize.clinical_report_plots.find_spec", lambda name: None)
    assert "<svg" not in report_page(bad_report)


def test_the_page_of_a_report_is_the_same_every_time(bad_report: ClinicalReport) -> None:
    assert report_page(bad_report) == report_page(bad_report)


def test_another_parents_part_is_refused(parent: EngineScorer, tokens: TokenText, few: Questions) -> None:
    empty = Questions(name="none", prompts=())
    part = parent_part(parent, tokens, empty, SilentProgress())
    subject = ReportSubject(parent="demo", child="demo")
    with pytest.raises(ValueError, match="other questions"):
        report_on_child(parent, part, parent, tokens, few, subject)
    report = report_on_child(parent, part, parent, tokens, empty, subject)
    assert report.gate.verdict == "not applicable"
    assert "Gate not applicable" in report_page(report)


def test_other_models_are_asked_general_questions() -> None:
    questions = generic_questions()
    assert questions.medical_text
    assert not {p.id for p in questions.prompts} & {p.id for p in generic_questions("A").prompts}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_set_holds_300_doses_and_finds_a_few_corrupted_rows(tokens: TokenText, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    whole, subject = demo_questions(), ReportSubject(parent="demo", child="demo")
    with EngineScorer(demo_model_path(), n_threads=1) as parent:
        part = parent_part(parent, tokens, whole, SilentProgress())
        report = report_on_child(parent, part, parent, tokens, whole, subject)
        assert report.gate.verdict == "passed"
        assert report.gate.n_amounts >= 300
        bad = corrupted(demo_model_path(), tmp_path / "bad.gguf", 16)
        with EngineScorer(bad, n_threads=1) as child:
            assert report_on_child(parent, part, child, tokens, whole, subject).gate.verdict == "failed"
