"""One student from its start to what it has learned: lessons, adapter, fine-tuning, distillation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgemed.core.errors import UsageError
from edgemed.core.progress import Progress, SilentProgress
from edgemed.distill.backends import tokenizer_folder
from edgemed.distill.config import DEMO, DistillConfig, LossConfig, StageConfig
from edgemed.distill.corpus import Corpus
from edgemed.distill.demo_data import taught_table
from edgemed.distill.examination import Examination, Scores, demo_examination, examine, read_examination
from edgemed.distill.examples import Example
from edgemed.distill.lessons import LessonBook, lessons_of, lessons_without_teacher
from edgemed.distill.rendering import Side
from edgemed.distill.run_record import alone_in
from edgemed.distill.student import device_of, open_student
from edgemed.distill.trials import config_digest

if TYPE_CHECKING:
    from edgemed.distill.trainer import StageReport

TRAINED: tuple[Literal["sft"], Literal["kd"]] = ("sft", "kd")


@dataclass(slots=True)
class Learned:
    """A student in training or behind it."""

    model: Any
    """A transformers model, or a PeftModel around one."""
    tokenizer: Path
    """A folder with its tokenizer and template."""
    side: Side
    book: LessonBook
    reports: dict[str, StageReport] = field(default_factory=dict)


def needs_teacher(config: DistillConfig) -> bool:
    """Whether anything that is learned is the teacher's."""
    return config.kd.steps > 0 or config.teach.answers == "generated"


def prepare(config: DistillConfig, examples: Sequence[Example], corpus: Corpus | None, progress: Progress) -> Learned:
    """The student before its first step, and its lessons: of the corpus, or without a teacher of the examples."""
    model, folder = open_student(config, config.seed)
    side = Side(folder)
    if corpus is None:
        book = lessons_without_teacher(side, examples, config.loss, config.data.max_tokens, progress)
    else:
        teacher = Side(tokenizer_folder(config.teacher))
        book = lessons_of(side, teacher, corpus, config.loss, config.data.max_tokens, progress)
    return _wrapped(config, Learned(model, folder, side, book))


def _wrapped(config: DistillConfig, learned: Learned) -> Learned:
    """The same student in its adapter, where it is to have one."""
    if config.adapter:
        from edgemed.distill.lora import wrap
        from edgemed.distill.trainer import first_gradients

        stage: Literal["sft", "kd"] = "sft" if config.sft.steps else "kd"
        first = partial(first_gradients, stage, config, learned.model, learned.book.lessons, pad=learned.side.end)
        learned.model = wrap(learned.model, config.adapter, first, config.seed)
    return learned


def train(
    name: Literal["sft", "kd"],
    config: DistillConfig,
    learned: Learned,
    folder: Path,
    *,
    resume: bool = True,
    progress: Progress | None = None,
) -> StageReport:
    """Take the student through one stage, or take over what an earlier run of it came to. `folder` is the stage's."""
    from edgemed.distill.trainer import train_stage

    callbacks: list[Any] = []
    if config.adapter and config.adapter.stable_svd_every:
        from edgemed.distill.lora import StableSvdCallback

        callbacks.append(StableSvdCallback(config.adapter.stable_svd_every))
    report = train_stage(
        name,
        config,
        learned.model,
        learned.book.lessons,
        folder,
        pad=learned.side.end,
        resume=resume,
        callbacks=callbacks,
        progress=progress or SilentProgress(),
    )
    learned.reports[name] = report
    return report


def examination_of(config: DistillConfig, which: Literal["validation", "final"]) -> Examination | None:
    """What is asked: about the taught facts of the table, or the files of the configuration; None without any."""
    data = config.data
    if data.examples == DEMO:
        return demo_examination(which, facts={dose.id for dose in taught_table(data.n_facts).doses()})
    paths = [data.validation] if which == "validation" else data.examinations
    found = [Path(path) for path in paths if path]
    return read_examination(*found) if found else None


@dataclass(frozen=True, slots=True)
class ArmRunner:
    """Runs one arm of `tune` or `ablate`: a function that can be sent to another process."""

    corpus: Path
    """The teacher's, which all arms share."""
    which: Literal["validation", "final"]
    shared: Path
    """A folder for what is equal in several arms and so is done once: the fine-tuning of one seed and one order."""

    def __call__(self, config: DistillConfig, folder: Path, progress: Progress | None = None) -> Scores:
        """The scores of a student trained as `config` says, in `folder`; goes on where an earlier call was cut."""
        asked = examination_of(config, self.which)
        if asked is None:
            key = "validation" if self.which == "validation" else "examinations"
            raise UsageError(
                f"There is nothing to ask: data.{key} is not set.",
                next_step='name a file of questions with doses or options, or set data.examples = "demo"',
            )
        watched = progress or SilentProgress()
        if config.training.threads:
            import torch

            torch.set_num_threads(config.training.threads)
        model, tokenizer = open_student(config, config.seed)
        book = _book_of(
            self.corpus, tokenizer, tokenizer_folder(config.teacher), _of_lessons(config.loss), config.data.max_tokens
        )
        learned = _wrapped(config, Learned(model, tokenizer, Side(tokenizer), book))
        fine_tuning = self.shared / f"sft-{_fine_tuning_digest(config)[:16]}"
        with alone_in(fine_tuning, waits=True):
            train("sft", config, learned, fine_tuning / "sft", progress=watched)
        train("kd", config, learned, folder / "kd", progress=watched)
        return examine(learned.model, learned.side, asked, device_of(config.training))


def _fine_tuning_digest(config: DistillConfig) -> str:
    """Of all that decides what fine-tuning comes to: of the loss it knows the weight of reasoning alone."""
    loss = LossConfig(think_weight=config.loss.think_weight)
    return config_digest(config.model_copy(update={"loss": loss, "kd": StageConfig(steps=0)}))


def _of_lessons(loss: LossConfig) -> LossConfig:
    """What of a loss its lessons depend on; all else by default."""
    return LossConfig(kd=loss.kd, digits=loss.digits, entity_weight=loss.entity_weight, think_weight=loss.think_weight)


@lru_cache(maxsize=4)
def _book_of(corpus: Path, student: Path, teacher: Path, loss: LossConfig, max_tokens: int) -> LessonBook:
    """The lessons of a corpus for a loss, made once a process: arms come to it by turns."""
    return lessons_of(Side(student), Side(teacher), Corpus.open(corpus), loss, max_tokens)
