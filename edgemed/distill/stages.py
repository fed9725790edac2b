"""`edgemed distill`: the stages in their order, each skipped when it is done and gone on with when it was cut.

    1  preflight   data, leaks, tokenizers, folders, memory, disk: all faults before anything slow
    2  teach       the teacher's answers and scores, as shards
    3  align       how far the two tokenizers agree
    4  sft         supervised fine-tuning
    5  kd          distillation, which goes on from it
    6  examine     teacher, student behind sft, student behind kd: the same questions
    7  export      the student as a checkpoint, and its adapter

A stage that is asked for brings those before it that are missing. `tune` and `ablate` share the teacher's corpus, and
arms of one seed and order their fine-tuning; all else each does from the start. The record is written whole behind
every stage.
"""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from edgemed.core.errors import UsageError
from edgemed.core.files import write_text
from edgemed.core.progress import Progress, SilentProgress
from edgemed.core.records import Record
from edgemed.core.settings import process_place
from edgemed.distill.config import DistillConfig, StudentConfig
from edgemed.distill.corpus import Corpus
from edgemed.distill.examination import Scores, examine
from edgemed.distill.examples import examples_digest
from edgemed.distill.learn import ArmRunner, Learned, examination_of, needs_teacher, prepare, train
from edgemed.distill.pictures import draw, ranks_of
from edgemed.distill.preflight import Ready, preflight, student_tokenizer, teacher_tokenizer
from edgemed.distill.rendering import Side
from edgemed.distill.run_record import (
    ADAPTER,
    STUDENT,
    RunRecord,
    StageName,
    StageRecord,
    alone_in,
    earlier_record,
    moved_aside,
    new_record,
    save_record,
)
from edgemed.distill.run_scores import SFT, TEACHER, scores_of
from edgemed.distill.student import computes_in, device_of, open_checkpoint, save_student

Asked = Literal["teach", "align", "sft", "kd", "tune", "ablate", "all"]
_STAGES: dict[Asked, tuple[StageName, ...]] = {
    "teach": ("teach",),
    "align": ("align",),
    "sft": ("teach", "sft"),
    "kd": ("teach", "sft", "kd"),
    "tune": ("teach", "tune"),
    "ablate": ("teach", "ablate"),
    "all": ("teach", "align", "sft", "kd", "examine", "export"),
}
"""What each brings along."""
_TRAINING = {"sft", "kd", "examine", "export", "tune", "ablate"}


def run(
    config: DistillConfig, asked: Asked = "all", *, resume: bool = True, progress: Progress | None = None
) -> RunRecord:
    """The record of the run, all stages asked for done.

    Raises what the stages raise, and UsageError for a folder of something else or of other settings.
    """
    rank, processes = process_place()
    watched = progress if progress and not rank else SilentProgress()
    stages = _wanted(config, asked)
    record = earlier_record(config) if resume else None
    done = {stage.name for stage in record.stages if stage.finished} if record else set()
    open_ones = [name for name in stages if name not in done]
    if processes > 1 and set(open_ones) - {asked}:
        first = next(name for name in open_ones if name != asked)
        raise UsageError(
            f"--stage {asked} comes behind --stage {first}, and each is a launch of its own.",
            next_step=f"--stage {first} first{'' if first in ('sft', 'kd') else ', in one process'}",
        )
    ready = preflight(
        config,
        teacher_needed=needs_teacher(config) or asked == "align",
        trains=bool(_TRAINING & set(open_ones)),
        teaches="teach" in open_ones,
    )
    record = record or new_record(config)
    if rank:
        return _through(stages, _Session(config, ready, record, watched))
    if not resume and record.output.exists():
        with alone_in(record.output):
            moved_aside(record.output, watched)
    with alone_in(record.output):
        return _through(stages, _Session(config, ready, record, watched))


def _through(stages: Sequence[StageName], session: _Session) -> RunRecord:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # libraries' own, to their developers
        for name in stages:
            session.do(name)
    return session.record


def _wanted(config: DistillConfig, asked: Asked) -> list[StageName]:
    _, processes = process_place()
    if processes > 1 and asked not in ("sft", "kd"):
        raise UsageError(
            f"--stage {asked} runs in one process, and this is one of {processes}.",
            next_step="launch --stage sft and --stage kd with accelerate, everything else without",
        )
    absent = set()
    if not needs_teacher(config):
        absent |= {"teach", "align"} if asked == "all" else {"teach"}
    absent |= {name for name in ("sft", "kd") if getattr(config, name).steps == 0}
    if asked in absent:
        raise UsageError(f"--stage {asked} has nothing to do: {asked}.steps is 0.", next_step="raise it")
    return [name for name in _STAGES[asked] if name not in absent]


class Exported(Record):
    """The student's way out."""

    student: Path
    adapter: Path | None = None
    merge_error: dict[str, float] = Field(default_factory=dict)
    """What rounding cost when the adapter was merged: see lora.MergeError."""


@dataclass(slots=True)
class _Session:
    """One call of `run`: what it has read and trained so far."""

    config: DistillConfig
    ready: Ready
    record: RunRecord
    progress: Progress
    _corpus: Corpus | None = None
    _learned: Learned | None = None

    @property
    def corpus(self) -> Corpus:
        """The teacher's, opened once."""
        if self._corpus is None:
            self._corpus = Corpus.open(self.record.output / "corpus")
        return self._corpus

    def _provenance(self, digests: Mapping[str, str]) -> None:
        self.record = self.record.model_copy(update={"provenance": {**self.record.provenance, **digests}})

    def do(self, name: StageName) -> None:
        """Do one stage, unless it is done; trained weights of a finished one are taken over when they are needed."""
        if self.record.is_finished(name):
            self.progress.note(f"{name}: done before.")
            return
        stage = {
            "teach": self._teach,
            "align": self._align,
            "sft": lambda: self._train("sft"),
            "kd": lambda: self._train("kd"),
            "examine": self._examine,
            "export": self._export,
            "tune": self._tune,
            "ablate": self._ablate,
        }[name]
        self._keep(StageRecord(name=name))
        begun = time.monotonic()
        report = stage()
        seconds = round(time.monotonic() - begun, 3)
        self._keep(StageRecord(name=name, finished=True, seconds=seconds, report=report.model_dump(mode="json")))
        if name in ("sft", "kd", "examine") and process_place()[0] == 0:
            self._draw()

    def _draw(self) -> None:
        """What training came to so far, as pictures in the run's folder."""
        output, adapter = self.record.output, self.config.adapter
        draw(
            output,
            {name: output / name for name in ("sft", "kd")},
            ranks=ranks_of(self._learned.model) if adapter and self._learned else None,
            doses={name: found.dose_match for name, found in self._answers().items() if found.doses},
            progress=self.progress,
        )

    def _keep(self, stage: StageRecord) -> None:
        self.record = self.record.with_stage(stage)
        if process_place()[0] == 0:
            save_record(self.record)

    def _teach(self) -> Record:
        from edgemed.distill.teach import teach

        report = teach(self.config, self.ready.examples, self.record.output / "corpus", self.progress)
        identity = Corpus.open(self.record.output / "corpus").identity.model_dump(mode="json")
        self._provenance({name: str(value) for name, value in identity.items()})
        return report

    def _align(self) -> Record:
        from edgemed.distill.align_report import align_report

        assert self.ready.teacher is not None
        taught = self.record.is_finished("teach")
        examples = self.corpus.examples if taught else self.ready.examples
        report = align_report(self.ready.student, self.ready.teacher, examples, progress=self.progress)
        write_text(self.record.output / "align.json", report.model_dump_json(indent=2) + "\n")
        return report

    def _train(self, name: Literal["sft", "kd"]) -> Record:
        learned = self._at(name)
        self._provenance({"examples": examples_digest(self.ready.examples), "student_side": learned.side.digest})
        report = train(name, self.config, learned, self.record.output / name, progress=self.progress)
        if name == "sft":
            self._ask_sft(learned)
        return report

    def _ask_sft(self, learned: Learned) -> None:
        """The student between the two stages; one that is spread over processes is asked when it comes by again."""
        if self.config.kd.steps and process_place()[1] == 1:
            self._ask(SFT, learned.model, learned.side)

    def _at(self, name: Literal["sft", "kd"]) -> Learned:
        """The student as it comes into a stage: an earlier stage that is done gives it its weights."""
        if self._learned is None:
            corpus = self.corpus if needs_teacher(self.config) else None
            self._learned = prepare(self._begun(), self.ready.examples, corpus, self.progress)
        if name == "kd" and self.config.sft.steps and "sft" not in self._learned.reports:
            train("sft", self.config, self._learned, self.record.output / "sft", progress=self.progress)
            self._ask_sft(self._learned)
        return self._learned

    def _begun(self) -> DistillConfig:
        """The configuration with the student's common start in its place, where it asks for one."""
        new = self.config.student.new
        if new is None or not new.start_steps:
            return self.config
        from edgemed.distill.demo_start import start_of

        folder = start_of(self.config, student_tokenizer(self.config), self.progress)
        return self.config.model_copy(update={"student": StudentConfig(model=str(folder))})

    def _trained(self) -> Learned:
        """The student at the end of its training."""
        last: Literal["sft", "kd"] = "kd" if self.config.kd.steps else "sft"
        learned = self._at(last)
        if last not in learned.reports:
            train(last, self.config, learned, self.record.output / last, progress=self.progress)
        return learned

    def _examine(self) -> Record:
        learned = self._trained()
        self._ask(STUDENT, learned.model, learned.side)
        missing = self._ask_teacher()
        return scores_of(self._answers(), missing)

    def _ask(self, name: str, model: Any, side: Side) -> None:
        """Examine one model, and keep what it answered."""
        asked = examination_of(self.config, "final")
        if asked is None or name in self._answers():
            return
        with self.progress.task(f"Examining {name}", len(asked.doses) + len(asked.choices), "questions") as task:
            found = examine(model, side, asked, device_of(self.config.training))
            task.advance(len(asked.doses) + len(asked.choices))
        write_text(self._scores_path(name), found.model_dump_json(indent=2) + "\n")

    def _ask_teacher(self) -> list[str]:
        """Examine the teacher where it runs in this process; else what is therefore not measured."""
        if examination_of(self.config, "final") is None:
            return ["doses and choices: data.examinations names no file with questions to ask"]
        if self.config.teacher.backend != "transformers" or not needs_teacher(self.config):
            return ["the teacher's own answers, and retention: only a teacher in this process is examined"]
        if TEACHER not in self._answers():
            training = self.config.training
            model = open_checkpoint(Path(self.config.teacher.model), computes_in(training))
            self._ask(TEACHER, model, Side(teacher_tokenizer(self.config)))
        return []

    def _answers(self) -> dict[str, Scores]:
        """What was answered so far, by model."""
        found = {}
        for name in (TEACHER, SFT, STUDENT):
            path = self._scores_path(name)
            if path.exists():
                found[name] = Scores.model_validate_json(path.read_bytes())
        return found

    def _scores_path(self, name: str) -> Path:
        return self.record.output / "answers" / f"{name}.json"

    def _export(self) -> Record:
        learned = self._trained()
        output, adapter = self.record.output, None
        error: dict[str, float] = {}
        if self.config.adapter:
            from edgemed.distill.lora import merged, save_adapter, with_adapter

            adapter = output / ADAPTER
            save_adapter(learned.model, adapter)
            if self.config.adapter.base_bits == 4:  # four bits cannot take it in: the 16-bit checkpoint does
                base = open_checkpoint(Path(self.config.student.model), "bfloat16")
                learned.model = with_adapter(base, adapter)
            learned.model, found = merged(learned.model)
            error = {"weights": found.weights, "logits": found.logits}
        save_student(learned.model, learned.tokenizer, output / STUDENT)
        self.record = self.record.model_copy(update={"finished": True, "student": output / STUDENT, "adapter": adapter})
        self._learned = None  # its weights are merged: no stage goes on with it
        return Exported(student=output / STUDENT, adapter=adapter, merge_error=error)

    def _tune(self) -> Record:
        from edgemed.distill.tune import tune

        folder = self.record.output / "tune"
        runner = ArmRunner(self.record.output / "corpus", "validation", folder / "shared")
        report = tune(self._begun(), folder, runner, self.progress)
        shutil.rmtree(runner.shared, ignore_errors=True)
        return report

    def _ablate(self) -> Record:
        from edgemed.distill.ablate import ablate

        self._ask_teacher()
        folder, teacher = self.record.output / "ablate", self._answers().get(TEACHER)
        runner = ArmRunner(self.record.output / "corpus", "final", folder / "shared")
        report = ablate(self._begun(), folder, runner, self.progress, teacher=teacher)
        shutil.rmtree(runner.shared, ignore_errors=True)
        return report
