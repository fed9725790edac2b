"""A distillation's record as text for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgemed.cli.console import Console
from edgemed.core.records import Record
from edgemed.core.units import format_seconds

if TYPE_CHECKING:
    from edgemed.distill.run_record import RunRecord
    from edgemed.distill.run_scores import RunScores, Share

_WHO = {"teacher": "teacher", "sft": "student behind sft", "student": "student at the end"}


def show(record: RunRecord, asked: str, console: Console) -> None:
    """The run, and what the stage that was asked for says of itself."""
    console.table(f"Distilled {record.name}", [*_stages(record), *_scores(record), *_student(record)])
    for line in _own_lines(record, asked):
        console.text(line)


def _stages(record: RunRecord) -> Iterator[tuple[str, str]]:
    for stage in record.stages:
        said = stage.report
        words = {
            "teach": "{n_kept} of {n_examples} answers kept, {n_tokens} tokens",
            "sft": "{steps} steps, {examples} examples, loss {loss:.3f}",
            "kd": "{steps} steps, {examples} examples, loss {loss:.3f}",
        }.get(stage.name, "done")
        told = words.format_map(said) if stage.finished else "not finished"
        yield stage.name, f"{told}, {format_seconds(stage.seconds)}" if stage.finished else told


def _scores(record: RunRecord) -> Iterator[tuple[str, str]]:
    stage = record.stage("examine")
    if stage is None or not stage.finished:
        return
    from edgemed.distill.run_scores import RunScores

    found = RunScores.model_validate(stage.report)
    for name, model in found.models.items():
        said = [f"doses {_share(model.doses)}"] if model.doses else []
        said += [f"choices {_share(model.choices)}, chance {model.chance:.2f}"] if model.choices else []
        if model.coverage:
            said.append(f"facts covered {model.coverage.n_covered} of {model.coverage.n_concepts}")
        yield _WHO[name], "; ".join(said)
    yield from _kept(found)
    for reason in found.not_measured:
        yield "not measured", reason


def _kept(found: RunScores) -> Iterator[tuple[str, str]]:
    from edgemed.evaluate.retention import NoRetention

    for name, kept in found.retention.items():
        label = f"retention, {_WHO[name]}"
        if isinstance(kept, NoRetention):
            yield label, f"not told: {kept.reason}"
            continue
        yield label, f"{kept.rate:.3f} ({kept.interval.low:.3f} to {kept.interval.high:.3f}) of what the teacher knows"
    if gain := found.retention_gain:
        paired = gain.difference
        said = f"{paired.mean:+.3f} ({paired.interval.low:+.3f} to {paired.interval.high:+.3f}), p {paired.p.value:.3g}"
        yield "gain since sft", f"{said}; it learned for longer, too: what distillation adds, --stage ablate tells"


def _student(record: RunRecord) -> Iterator[tuple[str, str]]:
    if record.student:
        yield "student", str(record.student)
    if record.adapter:
        yield "adapter", str(record.adapter)
    yield "record", str(record.output / "run.json")


def _own_lines(record: RunRecord, asked: str) -> Iterator[str]:
    """Reports that have a form of their own: alignment, weights, arms."""
    name = "align" if asked == "all" else asked
    stage = next((one for one in record.stages if one.name == name and one.finished), None)
    if stage is None:
        return
    if (report := _report(stage.name, stage.report)) is not None:
        yield ""
        yield from report.lines()  # type: ignore[attr-defined]


def _report(name: str, content: dict[str, object]) -> Record | None:
    if name == "align":
        from edgemed.distill.align_report import AlignReport

        return AlignReport.model_validate(content)
    if name == "tune":
        from edgemed.distill.tune import TuneReport

        return TuneReport.model_validate(content)
    if name == "ablate":
        from edgemed.distill.ablation_table import AblationReport

        return AblationReport.model_validate(content)
    return None


def _share(share: Share) -> str:
    low, high = share.interval.low, share.interval.high
    return f"{share.share:.3f} ({low:.3f} to {high:.3f}, {share.right} of {share.asked})"
