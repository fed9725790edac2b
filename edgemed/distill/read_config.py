"""From CONFIG.toml, or the name of a shipped one, to a DistillConfig whose paths hold and whose keys agree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgemed.core.errors import UsageError
from edgemed.core.toml_file import read_toml
from edgemed.demo import DEMO_NAME, demo_checkpoint_path
from edgemed.distill.config import DEMO, MODULES, DistillConfig, NewStudent, StageConfig

RUNS = Path("runs")
"""Where runs are kept; `edgemed export` without MODEL looks there."""
_SHIPPED = Path(__file__).parent / "configs"


def shipped_configs() -> dict[str, Path]:
    """The configurations that come with the program, by name."""
    return {path.stem: path for path in sorted(_SHIPPED.glob("*.toml"))}


def read_config(given: str) -> DistillConfig:
    """The configuration of a file, or a shipped one by its name; all paths absolute, `output` set.

    A file's paths are relative to its folder; those of a shipped one, and the default output runs/NAME, to the current
    folder.
    Raises UsageError that names every fault by key and line, and every pair of keys that do not agree.
    """
    shipped = shipped_configs()
    path, base = (shipped[given], Path.cwd()) if given in shipped else (Path(given), Path(given).absolute().parent)
    try:
        config = read_toml(path, DistillConfig)
    except FileNotFoundError as error:
        raise UsageError(
            f"There is no file {given!r}, and no shipped configuration of that name: {', '.join(shipped)}.",
            next_step=f"edgemed distill {next(iter(shipped), 'CONFIG.toml')}",
        ) from error
    if faults := list(disagreements(config)):
        raise UsageError(f"{path}: {'; '.join(faults)}.", next_step="mend those keys")
    return _placed(config, base).model_copy(
        update={"output": _absolute(config.output, base) if config.output else Path.cwd() / RUNS / path.stem}
    )


def disagreements(config: DistillConfig) -> Iterator[str]:
    """Keys that are right each, but not together."""
    yield from _teacher(config)
    yield from _loss(config)
    for name, stage in (("sft", config.sft), ("kd", config.kd)):
        yield from _stage(name, stage)
    if config.sft.steps + config.kd.steps == 0:
        yield "sft.steps and kd.steps are both 0: nothing would be learned"
    if config.student.new:
        yield from _shape(config.student.new)
        if config.student.new.start_steps and not (config.data.examples == DEMO and config.data.n_facts):
            yield 'student.new.start_steps need data.examples = "demo" and data.n_facts: they train on the other facts'
    if config.data.n_facts and config.data.examples != DEMO:
        yield 'data.n_facts is for data.examples = "demo"'
    if config.adapter:
        unknown = [name for name in config.adapter.modules if name not in MODULES]
        if unknown or not config.adapter.modules:
            yield f"adapter.modules must be some of {', '.join(MODULES)}, not {', '.join(unknown) or 'none'}"
        if config.adapter.base_bits == 4 and config.training.device == "cpu":
            yield 'adapter.base_bits = 4 needs a GPU, and training.device is "cpu"'
        if config.adapter.base_bits == 4 and config.student.new:
            yield "adapter.base_bits = 4 freezes the student's weights, and those of [student.new] know nothing"


def _teacher(config: DistillConfig) -> Iterator[str]:
    teacher = config.teacher
    if teacher.backend == "server":
        if not teacher.url.startswith(("http://", "https://")):
            yield 'teacher.url must be the server\'s, such as "http://127.0.0.1:8000/v1"'
        if not teacher.tokenizer:
            yield "teacher.tokenizer must be a folder with the tokenizer of the server's model"
        if config.teach.hidden:
            yield "teach.hidden needs the teacher in this process: a server gives no hidden states"
    elif teacher.url:
        yield f'teacher.url is for backend = "server", and it is "{teacher.backend}"'
    if config.teach.answers == "given" and config.teach.samples > 1:
        yield 'teach.samples above 1 are for teach.answers = "generated"'
    if config.teach.samples > 1 and config.teach.temperature == 0:
        yield "teach.samples above 1 need a teach.temperature above 0, else all are the same"


def _loss(config: DistillConfig) -> Iterator[str]:
    loss = config.loss
    if loss.mse > 0 and not config.teach.hidden:
        yield "loss.mse compares hidden states, which only teach.hidden = true keeps"
    if config.kd.steps and loss.kd == "none" and not (loss.mse or loss.med_kl):
        yield 'kd.steps are asked for, and loss.kd = "none" leaves the teacher nothing to say'
    if loss.ce + loss.kd_weight * (loss.kd != "none") + loss.mse + loss.med_kl == 0:
        yield "all weights of [loss] are 0"
    if loss.retention > 0 and not config.data.replay and config.data.examples != DEMO:
        yield "loss.retention needs data.replay"


def _stage(name: str, stage: StageConfig) -> Iterator[str]:
    if stage.lowest_rate > stage.rate:
        yield f"{name}.lowest_rate is above {name}.rate"
    if stage.steps and stage.warmup_steps >= stage.steps:
        yield f"{name}.warmup_steps leave nothing of its {stage.steps} steps"
    if stage.restarts > max(1, stage.steps):
        yield f"{name}.restarts are more than its {stage.steps} steps"
    if not all(0 <= beta < 1 for beta in stage.betas):
        yield f"{name}.betas must be from 0 to below 1"


def _shape(new: NewStudent) -> Iterator[str]:
    if new.hidden_size % new.n_heads or new.hidden_size // new.n_heads % 2:
        yield f"student.new.hidden_size {new.hidden_size} must be an even multiple of n_heads {new.n_heads}"
    if new.n_heads % new.n_kv_heads:
        yield f"student.new.n_heads {new.n_heads} must be a multiple of n_kv_heads {new.n_kv_heads}"


def _placed(config: DistillConfig, base: Path) -> DistillConfig:
    """The same with absolute paths, and the shipped checkpoint's in place of its name."""

    def placed(path: str) -> str:
        return str(_absolute(Path(path), base)) if path else ""

    def model(name: str) -> str:
        return str(demo_checkpoint_path()) if name == DEMO_NAME else placed(name)

    def copied(record: Any, **fields: object) -> Any:
        return record.model_copy(update=fields)

    teacher, student, data = config.teacher, config.student, config.data
    on_server = teacher.backend == "server"
    new = student.new and copied(student.new, tokenizer=model(student.new.tokenizer))
    return config.model_copy(
        update={
            "teacher": copied(
                teacher, model=teacher.model if on_server else model(teacher.model), tokenizer=model(teacher.tokenizer)
            ),
            "student": copied(student, model=model(student.model), new=new),
            "data": copied(
                data,
                examples=data.examples if data.examples == DEMO else placed(data.examples),
                validation=placed(data.validation),
                replay=placed(data.replay),
                basic=placed(data.basic),
                examinations=tuple(map(placed, data.examinations)),
            ),
        }
    )


def _absolute(path: Path, base: Path) -> Path:
    return base / path.expanduser()
