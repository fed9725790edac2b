"""One stage of training: transformers' Trainer with equation (6) as its loss, resumed exactly where it was cut.

1. The steps' lessons follow from seed and step (batches.py); micro-batches go to processes in turn.
2. Each is passed through the student once (objective.py); gradients add up to those of the whole step.
3. Before the optimizer moves, all processes agree on the loss: what is not finite ends the stage here.
4. Every so many steps a checkpoint is written and sealed (checkpoints.py); at the end the trained weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from edgemed.core.errors import Stopped, UsageError
from edgemed.core.progress import Progress, SilentProgress
from edgemed.core.records import Record, digest_of
from edgemed.distill.batches import TERMS, Curriculum, Steps, coefficients, identity
from edgemed.distill.checkpoints import (
    TRAINED,
    StageFolder,
    StageIdentity,
    digest_of_lessons,
    digest_of_start,
    load_trained,
    trained_tensors,
)
from edgemed.distill.config import DistillConfig, StageConfig
from edgemed.distill.lesson import Lesson
from edgemed.distill.objective import Objective, check_head
from edgemed.distill.step_log import StepLog
from edgemed.distill.step_watch import StepWatch, asked_to_stop, share_of_rate
from edgemed.distill.student import computes_in, device_of

StageName = Literal["sft", "kd"]
_TITLES = {"sft": "Fine-tuning", "kd": "Distilling"}


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
    device = device_of(config.training)
    if next(model.parameters()).device.type != device:  # 4 bits are there already, and do not move
        model.to(device)
    objective = Objective(model, loss)
    with _activations_made_again(model, config.training.gradient_checkpointing):
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
        watch = StepWatch(steps, stage, store, self.step_log, self.agree)
        super().__init__(
            objective, arguments, data_collator=identity, train_dataset=steps, callbacks=[*callbacks, watch]
        )
        self.remove_callback(PrinterCallback)  # it would write to stdout
        if self.is_fsdp_enabled and arguments.bf16:
            from torch.distributed.fsdp import MixedPrecisionPolicy

            # accelerate's own would round the teacher's log-probabilities, our sums and the gradients' to 8 bits.
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
            )
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
        with progress.task(_TITLES[name], total, "steps") as task, asked_to_stop() as asked:
            if start:
                task.advance(start)
                progress.note(f"{_TITLES[name]} goes on behind step {start} of {total}.")
            self.watch.begin(task, asked, writes=self.accelerator.is_main_process)
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
        share = partial(share_of_rate, stage=self.stage, n_steps=num_training_steps)
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, share)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def agree(self, asked: bool) -> tuple[list[float], float, bool]:
        """The step's terms over all processes, its gradient's norm, and whether any of them was asked to stop."""
        means = self._means if isinstance(self._means, Tensor) else torch.zeros(len(TERMS))
        found = torch.cat([means.double(), means.new_tensor([float(asked)]).double()])
        *terms, stop = self.accelerator.reduce(found, reduction="sum").tolist()
        self._means = 0.0
        # FSDP's norm is spread over the processes.
        norm = self.grad_norm.full_tensor() if hasattr(self.grad_norm, "full_tensor") else self.grad_norm
        return terms, float(norm), stop > 0

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
        path = Path(resume_from_checkpoint)
        if self.is_fsdp_enabled == (path / TRAINED).exists():
            kind = "one whole student" if self.is_fsdp_enabled else "a student in parts (FSDP)"
            raise UsageError(
                f"{path} was written by {kind}.",
                next_step="go on with the launcher that the stage was begun with, or name another output folder",
            )
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_trained(self.model, path / TRAINED)

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
        found = get_model_state_dict(self.model, options=options)  # tied weights by both of their names
        names = [name for name, one in self.model.named_parameters() if one.requires_grad]
        return {name: found[name] for name in names if name in found}  # in the first process alone


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
        lessons=digest_of_lessons(lessons, distills=name == "kd"),
        student=digest_of_start(start),
    )


@contextmanager
def _activations_made_again(model: Any, wanted: bool) -> Iterator[None]:
    """Gradient checkpointing, for the training alone: whoever asks the student afterwards wants its cache."""
    if wanted:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    yield
    if wanted:
        model.activation_checkpointing_disable()
