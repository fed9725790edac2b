"""One stage of training: transformers' Trainer with equation (6) as its loss, resumed exactly where it was cut.

1. The steps' lessons follow from seed and step (batches.py); micro-batches go to processes in turn.
2. Each is passed through the student once (objective.py); gradients add up to those of the whole step.
3. Before the optimizer moves, all processes agree on the loss: what is not finite ends the stage here.
4. Every so many steps a checkpoint is written and sealed (checkpoints.py); at the end the trained weights.
"""

from __future__ import annotations

import copy
import math
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from edgemed.core.errors import EdgemedError, Stopped, UsageError
from edgemed.core.progress import Progress, SilentProgress, Task
from edgemed.core.records import Record, digest_of
from edgemed.distill.batches import TERMS, Curriculum, Steps, coefficients, identity
from edgemed.distill.checkpoints import TRAINED, StageFolder, StageIdentity, digest_of_lessons, digest_of_start
from edgemed.distill.config import DistillConfig, StageConfig
from edgemed.distill.lesson import Lesson
from edgemed.distill.objective import Objective, check_head
from edgemed.distill.schedule import learning_rate
from edgemed.distill.step_log import StepLine, StepLog
from edgemed.distill.student import computes_in, device_of

StageName = Literal["sft", "kd"]
_TITLES = {"sft": "Fine-tuning", "kd": "Distilling"}
_NAMED = 20
"""Examples that an error names at most."""


class StageReport(Record):
    """What a stage came to."""

    stage: str
    steps: int
    trained_parameters: int = 0
    tokens: int = 0
    """Of all steps, without padding."""
    examples: int = 0
    seconds: float = 0.0
    """In its steps; loading and saving not among them."""
    loss: float | None = None
    """Mean over the last tenth of the steps; None when there was no step."""
    terms: dict[str, float] = Field(default_factory=dict)
    """The same of each term."""
    again: bool = False
    """It had been finished before, and was not run again."""


def train_stage(
    name: StageName,
    config: DistillConfig,
    model: Any,
    lessons: Sequence[Lesson],
    folder: Path,
    *,
    pad: int,
    n_steps: int | None = None,
    resume: bool = True,
    reference: Any = None,
    callbacks: Sequence[Any] = (),
    progress: Progress | None = None,
) -> StageReport:
    """Train `model` in place through one stage, or take over what an earlier run of it came to.

    `model` is a transformers model, all of which is trained, or a PeftModel. "sft" is CE alone; "kd" is config.loss.
    `reference` is what retention compares with: by default the model without its adapter, or as it comes in here.
    `callbacks` are transformers'. Raises UsageError for settings that do not go together, EdgemedError when the loss is
    no number, Stopped after SIGTERM or Ctrl-C; the last checkpoint stays in each case.
    """
    stage: StageConfig = getattr(config, name)
    n_steps = stage.steps if n_steps is None else n_steps
    if n_steps == 0:
        return StageReport(stage=name, steps=0)
    steps = _steps(name, config, lessons, pad, n_steps)
    arguments = _arguments(config, stage, n_steps, folder)
    store = StageFolder(folder, _identity(name, config, n_steps, model, lessons), config.training.keep_checkpoints)
    if arguments.process_index == 0:
        if not resume:
            store.clear()
        store.begin()
    trained = _prepared(model, config, reference, steps)
    if done := store.finished():
        store.remove_torn(None)
        load_trained(trained, done[0])
        return StageReport.model_validate_json(done[1]).model_copy(update={"again": True})
    trainer = StageTrainer(trained, arguments, steps, stage, store, callbacks)
    with _activations_made_again(model, config.training.gradient_checkpointing):
        return trainer.run(name, progress or SilentProgress())


_SFT = {"ce": 1.0, "kd": "none", "mse": 0.0, "med_kl": 0.0, "retention": 0.0}


def first_gradients(name: StageName, config: DistillConfig, model: Any, lessons: Sequence[Lesson], *, pad: int) -> None:
    """Run the first step of a stage forward and backward through `model` as it is: what rank allocation looks at."""
    steps = _steps(name, config, lessons, pad, None)
    counts = torch.tensor(coefficients(steps.loss))
    counts[TERMS.index("mse")] = counts[TERMS.index("retention")] = (
        0.0  # a projection is not learned, nothing forgotten
    )
    loss = steps.loss.model_copy(update={"mse": 0.0, "retention": 0.0})
    objective, device = Objective(model, loss), next(model.parameters()).device
    for m in range(steps.n_micro):
        batch: Any = {key: value.to(device) for key, value in dict[str, Any](steps[m]).items()}
        means = objective(batch) / batch["whole"].clamp(min=torch.finfo(torch.float32).tiny)
        (means * counts.to(device)).sum().backward()


class StageTrainer(Trainer):  # type: ignore[misc]  # transformers has no types
    """transformers' loop, devices, processes and optimizer states, around our objective, data, log and checkpoints."""

    loss_is_scaled_for_ga = True
    """The micro-batches' losses add up to the step's: they are not to be divided by their number."""

    def __init__(
        self,
        objective: Objective,
        arguments: TrainingArguments,
        steps: Steps,
        stage: StageConfig,
        store: StageFolder,
        callbacks: Sequence[Any] = (),
    ) -> None:
        if steps.n_micro % arguments.world_size:
            raise UsageError(
                f"{steps.n_micro} micro-batches cannot be dealt evenly to {arguments.world_size} processes.",
                next_step=f"set training.micro_batches to a multiple of {arguments.world_size}",
            )
        arguments.gradient_accumulation_steps = steps.n_micro // arguments.world_size
        self.steps, self.stage, self.store, self.step_log = steps, stage, store, StepLog(store.folder)
        self.grad_norm: Any = 0.0
        self._means: Tensor | float = 0.0
        watch = _Watch(self)
        super().__init__(
            objective, arguments, data_collator=identity, train_dataset=steps, callbacks=[*callbacks, watch]
        )
        self.remove_callback(PrinterCallback)  # it would write to stdout
        self.watch = watch

    def run(self, name: str, progress: Progress) -> StageReport:
        """All steps that are left, and the report."""
        newest, start = self.store.newest(), 0
        self.accelerator.wait_for_everyone()  # all have looked before one removes
        if newest:
            start = newest[0]
        if self.accelerator.is_main_process:
            self.store.remove_torn(newest[1] if newest else None)
            self.step_log.cut_after(start)
        self.accelerator.wait_for_everyone()
        total = self.steps.curriculum.n_steps
        with progress.task(_TITLES[name], total, "steps") as task, _asked_to_stop() as asked:
            if start:
                task.advance(start)
                progress.note(f"{_TITLES[name]} goes on behind step {start} of {total}.")
            self.watch.begin(task, asked)
            self.train(resume_from_checkpoint=str(newest[1]) if newest else None)
        if self.watch.stopping:
            raise Stopped(
                f"The training was stopped behind step {self.state.global_step} of {total}; all of it is kept.",
                next_step="run the same command again to go on",
            )
        return self._finished(name)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,  # noqa: ARG002
    ) -> Any:
        """This micro-batch's part of the step's loss, times the processes: their gradients are averaged."""
        sums = model(inputs)
        means = sums / inputs["whole"].clamp(min=torch.finfo(torch.float32).tiny)
        self._means = self._means + means.detach()
        loss = (means * means.new_tensor(coefficients(self.steps.loss))).sum() * self.accelerator.num_processes
        return (loss, sums) if return_outputs else loss

    def create_optimizer(self, model: Any = None) -> Any:
        """AdamW; no decay of norms, biases and the projection, which has a group of its own."""
        named = list((self.model if model is None else model).named_parameters())
        named = [(name, one) for name, one in named if one.requires_grad]
        beside = [one for name, one in named if name.endswith("projection")]
        matrices = [one for name, one in named if one.ndim > 1 and not name.endswith("projection")]
        others = [one for name, one in named if one.ndim < 2]
        decays = ((matrices, self.stage.weight_decay), (others, 0.0), (beside, 0.0))
        groups = [{"params": group, "weight_decay": decay} for group, decay in decays if group]
        self.optimizer = torch.optim.AdamW(groups, lr=self.stage.rate, betas=self.stage.betas)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Equation (5), behind a linear warm-up."""
        share = partial(_share_of_rate, stage=self.stage, n_steps=num_training_steps)
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, share)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def agree(self, asked: bool) -> tuple[list[float], bool]:
        """The step's terms over all processes, and whether any of them was asked to stop."""
        means = self._means if isinstance(self._means, Tensor) else torch.zeros(len(TERMS))
        found = torch.cat([means.double(), means.new_tensor([float(asked)]).double()])
        *terms, stop = self.accelerator.reduce(found, reduction="sum").tolist()
        self._means = 0.0
        return terms, stop > 0

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """What is trained, alone: the rest is in the student's folder. FSDP's shards are saved with their optimizer."""
        if self.args.should_save and not self.is_fsdp_enabled:
            from safetensors.torch import save_file

            target = Path(output_dir or self.args.output_dir)
            target.mkdir(parents=True, exist_ok=True)
            save_file(trained_tensors(self.model), target / TRAINED)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self.step_log.sync()
            self.store.seal(self.state.global_step)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_trained(self.model, Path(resume_from_checkpoint) / TRAINED)

    def _clip_grad_norm(self, model: Any) -> Any:
        self.grad_norm = super()._clip_grad_norm(model)
        return self.grad_norm

    def _finished(self, name: str) -> StageReport:
        lines = self.step_log.lines()
        last = lines[-max(1, len(lines) // 10) :]
        weights = self._gathered()
        report = StageReport(
            stage=name,
            steps=self.steps.curriculum.n_steps,
            trained_parameters=sum(one.numel() for one in weights.values()),
            tokens=sum(line.tokens for line in lines),
            examples=sum(line.examples for line in lines),
            seconds=sum(line.seconds for line in lines),
            loss=sum(line.loss for line in last) / len(last) if last else None,
            terms={
                term: sum(line.terms[term] for line in last) / len(last) for term in (last[0].terms if last else ())
            },
        )
        if self.accelerator.is_main_process:
            self.store.finish(weights, report)
        self.accelerator.wait_for_everyone()
        return report

    def _gathered(self) -> dict[str, Tensor]:
        if not self.is_fsdp_enabled:
            return trained_tensors(self.model)
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        return dict(get_model_state_dict(self.model, options=options))


class _Watch(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Looks at each step: is its loss a number, is it time to save, was the end asked for."""

    def __init__(self, trainer: StageTrainer) -> None:
        self._trainer = trainer
        self.stopping = False
        self._started = 0.0

    def begin(self, task: Task, asked: list[int]) -> None:
        """`asked` fills with the signals that ask for the end."""
        self._task, self._asked = task, asked

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._started = time.monotonic()

    def on_pre_optimizer_step(self, arguments: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Before any weight moves, the same in all processes."""
        trainer, step = self._trainer, state.global_step
        terms, self.stopping = trainer.agree(bool(self._asked))
        norm = _number(trainer.grad_norm)
        counts = coefficients(trainer.steps.loss)
        loss = sum(value * count for value, count in zip(terms, counts, strict=True))
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise _not_finite(trainer, step, "loss" if not math.isfinite(loss) else "gradient")
        self._line = StepLine(
            step=step + 1,
            loss=loss,
            terms={name: value for name, value, count in zip(TERMS, terms, counts, strict=True) if count > 0},
            rate=trainer.stage.rate * _share_of_rate(step, trainer.stage, trainer.steps.curriculum.n_steps),
            grad_norm=norm,
            seconds=0.0,
            tokens=trainer.steps.n_tokens(step),
            examples=trainer.stage.examples_per_step,
        )

    def on_step_end(self, arguments: Any, state: Any, control: Any, **_: Any) -> Any:
        """One line, and what comes next."""
        trainer, seconds = self._trainer, time.monotonic() - self._started
        if trainer.accelerator.is_main_process:
            trainer.step_log.add(self._line.model_copy(update={"seconds": seconds}))
        self._task.advance(1)
        self._task.describe(f"loss {self._line.loss:.3f}")
        left = trainer.steps.curriculum.n_steps - state.global_step
        control.should_save = left > 0 and (self.stopping or state.global_step % arguments.save_steps == 0)
        self.stopping = self.stopping and left > 0
        control.should_training_stop = control.should_training_stop or self.stopping
        return control


def trained_tensors(model: Any) -> dict[str, Tensor]:
    """What is trained, by name, on the CPU."""
    found = ((name, one) for name, one in model.named_parameters() if one.requires_grad)
    return {name: one.detach().cpu().contiguous() for name, one in found}


def load_trained(model: Any, file: Path) -> None:
    """Put the tensors of a checkpoint or of a finished stage into a model that is made like the one they come from."""
    from safetensors.torch import load_file

    found, wanted = load_file(file), {name: one for name, one in model.named_parameters() if one.requires_grad}
    if found.keys() != wanted.keys() or any(found[name].shape != one.shape for name, one in wanted.items()):
        raise UsageError(
            f"{file} holds the weights of another model.",
            next_step="name another output folder, or remove that one",
        )
    with torch.no_grad():
        for name, one in wanted.items():
            one.copy_(found[name])


def _steps(name: StageName, config: DistillConfig, lessons: Sequence[Lesson], pad: int, n_steps: int | None) -> Steps:
    """The stage's micro-batches; both stages draw by streams of their own."""
    stage: StageConfig = getattr(config, name)
    loss = config.loss if name == "kd" else config.loss.model_copy(update=_SFT)
    seed = 2 * config.seed + (name == "kd")
    n_steps = stage.steps if n_steps is None else n_steps
    curriculum = Curriculum(
        lessons, config.curriculum, n_steps, stage.examples_per_step, seed, replays=loss.retention > 0
    )
    return Steps(curriculum, loss, config.training.micro_batches, pad)


def _prepared(model: Any, config: DistillConfig, reference: Any, steps: Steps) -> Objective:
    """The module that is trained: weights that move in float32, a frozen copy where retention needs one."""
    loss = steps.loss
    if config.training.threads:
        torch.set_num_threads(config.training.threads)
    check_head(model)
    if loss.retention > 0 and reference is None and not hasattr(model, "disable_adapter"):
        reference = copy.deepcopy(model).requires_grad_(False)
    for one in model.parameters():
        if one.requires_grad and one.dtype in (torch.float16, torch.bfloat16):
            one.data = one.data.float()
    lessons = steps.curriculum.lessons
    size = max((lesson.hidden.shape[1] for lesson in lessons), default=0) if loss.mse > 0 else 0
    return Objective(model, loss, reference, size)


def _arguments(config: DistillConfig, stage: StageConfig, n_steps: int, folder: Path) -> TrainingArguments:
    """Everything that transformers would do beside training is off: bars, prints, reports, uploads, evaluation."""
    on_cpu = device_of(config.training) == "cpu"
    found = TrainingArguments(
        output_dir=str(folder),
        max_steps=n_steps,
        per_device_train_batch_size=1,
        learning_rate=stage.rate,
        max_grad_norm=stage.max_grad_norm,
        seed=config.seed % 2**32,
        bf16=computes_in(config.training) == "bfloat16",
        use_cpu=on_cpu,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        dataloader_pin_memory=not on_cpu,
        ddp_find_unused_parameters=False,
        logging_nan_inf_filter=False,
        logging_strategy="no",
        save_strategy="no",
        save_steps=config.training.save_every,
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        log_level="error",
    )
    found._n_gpu = min(1, found.n_gpu)  # several GPUs take several processes, not DataParallel's threads
    return found


def _identity(name: str, config: DistillConfig, n_steps: int, model: Any, lessons: Sequence[Lesson]) -> StageIdentity:
    adapted = hasattr(model, "peft_config")
    start = [(n, one) for n, one in model.named_parameters() if not (adapted and one.requires_grad)]
    return StageIdentity(
        stage=name,
        seed=config.seed,
        steps=n_steps,
        settings=digest_of(getattr(config, name).model_dump(mode="json", exclude={"steps"})),
        loss=digest_of(config.loss.model_dump(mode="json") if name == "kd" else {}),
        curriculum=config.curriculum.digest(),
        adapter=config.adapter.digest() if config.adapter else "",
        dtype=computes_in(config.training),
        lessons=digest_of_lessons(lessons),
        student=digest_of_start(start),
    )


def _share_of_rate(step: int, stage: StageConfig, n_steps: int) -> float:
    rate = learning_rate(step, n_steps, restarts=stage.restarts, highest=stage.rate, lowest=stage.lowest_rate)
    return rate / stage.rate * min(1.0, (step + 1) / max(1, stage.warmup_steps))


def _number(norm: Any) -> float:
    whole = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # FSDP's is spread over the processes
    return float(whole)


def _not_finite(trainer: StageTrainer, step: int, what: str) -> EdgemedError:
    examples = trainer.steps.examples(step)
    named = ", ".join(map(str, examples[:_NAMED])) + (", ..." if len(examples) > _NAMED else "")
    newest = trainer.store.newest()
    kept = f"the checkpoint of step {newest[0]} is kept" if newest else "there was no checkpoint yet"
    return EdgemedError(
        f"The {what} of step {step + 1} is not a finite number; its weights were not touched, and {kept}. "
        f"The step's examples in the corpus: {named}.",
        next_step="look at those examples and at the teacher's scores of them, or lower the learning rate",
    )


@contextmanager
def _activations_made_again(model: Any, wanted: bool) -> Iterator[None]:
    """Gradient checkpointing, for the training alone: whoever asks the student afterwards wants its cache."""
    if wanted:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    yield
    if wanted:
        model.activation_checkpointing_disable()


@contextmanager
def _asked_to_stop() -> Iterator[list[int]]:
    """The signals that asked for the end, as they come; a second one of Ctrl-C ends at once."""
    asked: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, _: FrameType | None) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    with suppress(ValueError):  # signals belong to the main thread; in any other nobody can ask
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
    try:
        yield asked
    finally:
        for changed, handler in before.items():
            signal.signal(changed, handler)
