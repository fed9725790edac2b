"""Exports below 8 bits: calibrated, judged, resumed, and refused where they cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("llama_cpp")

from adapters import write_lora

from edgemed.core.errors import UsageError
from edgemed.core.tensor_types import BY_NAME
from edgemed.evaluate.comparison import Questions
from edgemed.evaluate.doses import Gate
from edgemed.export import allocate
from edgemed.export.compress import AUTO_BASE, Compression, FinishedTensors, export_any, matrices
from edgemed.export.preflight import prepare
from edgemed.formats.blocks import dequantize
from edgemed.models.gguf import check_gguf
from edgemed.quantize import calibration, calibration_texts, gate
from edgemed.quantize.clinical_report import ClinicalReport, generic_questions
from edgemed.quantize.gate import DosesChanged, Judge

MakeCheckpoint = Callable[[str], Path]


@pytest.fixture(autouse=True)
def small_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few tokens and three questions: these models are random."""
    whole = generic_questions("B")
    few = Questions(name="few", prompts=whole.prompts[:3], general_text=whole.general_text[:200])
    monkeypatch.setattr(calibration, "LEAST_TOKENS", 1500)
    monkeypatch.setattr(calibration_texts, "LEAST_CHARACTERS_PER_TOKEN", 1.0)  # tiny vocabularies spell words out
    monkeypatch.setattr(gate, "generic_questions", lambda _name: few)


def weights_of(path: Path, name: str) -> np.ndarray:
    tensor = next(tensor for tensor in check_gguf(path).tensors if tensor.name == name)
    raw = np.fromfile(path, np.uint8, tensor.n_bytes, offset=tensor.offset)
    return dequantize(tensor.type, raw.reshape(tensor.shape[0], -1))


@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
def test_a_calibrated_export_holds_the_rounded_weights_and_a_report(
    checkpoint: MakeCheckpoint, tmp_path: Path, architecture: str
) -> None:
    output = tmp_path / "small.gguf"
    report = export_any(checkpoint(architecture), output, Compression("nf4-int8"))
    assert output.stat().st_size == report.file_bytes
    nearest = tmp_path / "nearest.gguf"
    export_any(checkpoint(architecture), nearest, Compression("nf4-int8", calibration="none"))
    name = "blk.1.ffn_up.weight"
    assert not np.array_equal(weights_of(output, name), weights_of(nearest, name))
    told = json.loads((tmp_path / "small.gguf.report.json").read_text())
    assert told["gate"]["verdict"] == "not applicable"  # a random model names no doses
    assert "<html" in (tmp_path / "small.gguf.report.html").read_text()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*")  # peft asks it by an older name
def test_a_calibrated_export_with_a_merged_adapter_holds_the_changed_weights(
    checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    base = checkpoint("llama")
    lora = write_lora(tmp_path / "lora", base, size=0.1)
    output, name = tmp_path / "small.gguf", "blk.1.ffn_up.weight"
    report = export_any(base, output, Compression("nf4-int8", merge=lora))
    assert report.logits.available
    assert report.logits.worst_weights is not None  # each tensor is near the merged parent's
    plan = prepare(base, tmp_path / "other.gguf", "f32", merge=lora)
    with plan.checkpoint.reader() as reader:
        merged = reader.float32(plan.checkpoint.tensors["model.layers.1.mlp.up_proj.weight"])
    with (plain := prepare(base, tmp_path / "other.gguf", "f32").checkpoint).reader() as reader:
        before = reader.float32(plain.tensors["model.layers.1.mlp.up_proj.weight"])
    written = weights_of(output, name)
    assert np.abs(written - merged).mean() < 0.5 * np.abs(written - before).mean()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_auto_reaches_the_size_and_no_more(checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    output = tmp_path / "auto.gguf"
    report = export_any(checkpoint("qwen2"), output, Compression("auto", target_bpw=7.0))
    assert report.bits_per_weight <= 7.0
    with pytest.raises(UsageError, match="too small"):
        export_any(checkpoint("qwen2"), tmp_path / "tiny.gguf", Compression("auto", target_bpw=0.5))
    assert not (tmp_path / "tiny.gguf").exists()


def test_auto_raises_tensors_while_doses_of_its_own_questions_change(
    checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def changes(_judge: Judge, _child: object, name: str) -> int:
        asked.append(name)
        return 2 if len(asked) < 3 else 0

    monkeypatch.setattr(Judge, "changes", changes)
    raised: list[dict[str, int]] = []
    keep = allocate.allocated_formats

    def spy(*arguments: object, **named: object) -> object:
        raised.append(dict(named["raised"]))  # type: ignore[call-overload]
        return keep(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(allocate, "allocated_formats", spy)
    report = export_any(checkpoint("qwen2"), tmp_path / "auto.gguf", Compression("auto", target_bpw=7.0))
    assert asked == ["A", "A", "A"]
    assert not raised[0]
    assert set(raised[1].values()) == {1}
    assert max(raised[2].values()) == 2 or len(raised[2]) > len(raised[1])
    assert report.bits_per_weight <= 7.0


@pytest.mark.parametrize(
    ("wanted", "complaint"),
    [
        (Compression("nf4-int8", target_bpw=4.5), "target size chooses the formats"),
        (Compression("q8_0", target_size="1MB"), "takes --recipe auto"),
        (Compression("auto", calibration="none"), "takes --recipe auto, and calibration"),
        (Compression("auto", calibration="/nowhere/texts.jsonl"), "cannot be read"),
    ],
)
def test_what_cannot_be_is_said_before_any_work(
    checkpoint: MakeCheckpoint, tmp_path: Path, wanted: Compression, complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        export_any(checkpoint("qwen2"), tmp_path / "out.gguf", wanted)
    assert not (tmp_path / "out.gguf").exists()


def failed(report: ClinicalReport) -> ClinicalReport:
    gate = Gate(
        verdict="failed", n_amounts=300, n_intervals=50, n_changed=2, changed_share=0.01, upper_bound=0.02, reason="two"
    )
    return report.model_copy(update={"gate": gate})


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every report says that two doses changed."""
    keep = Judge.report
    monkeypatch.setattr(Judge, "report", lambda *arguments: failed(keep(*arguments)))


@pytest.mark.usefixtures("failing")
def test_a_model_whose_doses_changed_is_not_written_unless_that_was_allowed(
    checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    output = tmp_path / "small.gguf"
    with pytest.raises(DosesChanged, match="changes 2 of 350 doses") as caught:
        export_any(checkpoint("qwen2"), output, Compression("nf4-int8"))
    assert "--accept-changed-doses" in str(caught.value.next_step)
    assert not output.exists()
    assert (tmp_path / "small.gguf.report.html").is_file()
    export_any(checkpoint("qwen2"), output, Compression("nf4-int8", accept_changed_doses=True))
    assert output.is_file()


def test_finished_tensors_are_handed_over_by_rows_and_only_in_their_format(
    checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    from edgemed.quantize.layerwise import RoundedTensor

    plan = prepare(checkpoint("qwen2"), tmp_path / "x.gguf", AUTO_BASE)
    planned = next(tensor for tensor in plan.conversion.tensors if tensor.source in matrices(plan))
    stored = np.arange(planned.shape[0] * 8, dtype=np.uint8).reshape(planned.shape[0], 8)
    np.savez(tmp_path / "layer.npz", **{planned.source: stored})  # type: ignore[arg-type]
    tensor = RoundedTensor(planned.source, "iq4_nl", tmp_path / "layer.npz", "compensated", {"compensated": 0.1})
    finished = FinishedTensors({planned.source: tensor})
    some = np.zeros((3, planned.shape[1]), np.float32)
    assert np.array_equal(finished.packed(planned, BY_NAME["iq4_nl"], some, 2), stored[2:5])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rounded to iq4_nl"):
        finished.packed(planned, BY_NAME["q4_k"], some, 0)
