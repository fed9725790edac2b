"""Which checkpoint a command means: the one named, or the project's own."""

from __future__ import annotations

from pathlib import Path

from edgemed.core.errors import UsageError
from edgemed.core.settings import PROJECT_FILE, project_settings

_RUNS = Path("runs")


def source_checkpoint(model: str | None, *, command: str) -> Path:
    """The checkpoint MODEL names; "demo" is the built-in one's. UsageError for an empty name."""
    from edgemed.demo import DEMO_NAME, demo_checkpoint_path

    if model is None:
        return _default_source(command)
    if not model.strip():
        raise UsageError("The name of the checkpoint is empty.", next_step="name a folder; . is the current one")
    return demo_checkpoint_path() if model == DEMO_NAME and not Path(model).exists() else Path(model)


def name_of(source: Path) -> str:
    """What files made of a checkpoint are called: its folder's name, behind that of the run it is the student of."""
    from edgemed.demo import DEMO_NAME, demo_checkpoint_path

    if source == demo_checkpoint_path():
        return DEMO_NAME
    folder = source.resolve()
    return f"{folder.parent.name}-{folder.name}" if (folder.parent / "run.json").is_file() else folder.name


def _finished_runs() -> list[Path]:
    """Students of finished distillations, and checkpoints that were put there by hand; nothing of a run in between."""
    if not _RUNS.is_dir():
        return []
    from edgemed.distill.run_record import RECORD, STUDENT, read_record

    runs = {path.parent for path in _RUNS.glob(f"**/{RECORD}")}
    students = [run / STUDENT for run in runs if (record := read_record(run)) is not None and record.finished]
    by_hand = [path.parent for path in _RUNS.glob("**/config.json") if not runs & set(path.parents)]
    return [folder for folder in (*students, *by_hand) if (folder / "config.json").is_file()]


def _default_source(command: str) -> Path:
    """Without MODEL: `[model] path` of edgemed.toml, else the newest finished run; UsageError names both."""
    if configured := project_settings().model.path:
        return configured
    if finished := _finished_runs():
        return max(finished, key=lambda folder: (folder / "config.json").stat().st_mtime)
    raise UsageError(
        f"No model was named: {PROJECT_FILE} here has no [model] path, and {_RUNS}/ holds no finished run.",
        next_step=f"edgemed {command} CHECKPOINT_FOLDER",
    )
