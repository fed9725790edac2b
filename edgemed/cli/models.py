"""What the MODEL argument means: a path, a name, or nothing at all."""

from __future__ import annotations

from pathlib import Path

from edgemed.core.errors import UsageError
from edgemed.core.settings import data_dir, project_settings


def resolve_model(model: str | None) -> Path:
    """The path of the model that `serve`, `ask` and `plan` should use.

    In this order: "demo", the built-in demonstration; a path that exists; a name in the data directory;
    without MODEL, `[model] path` of edgemed.toml, else the only model in the data directory.
    Raises UsageError with the models that could be named.
    """
    from edgemed.demo import DEMO_NAME, demo_model_path

    installed = _installed_models()
    if model is None:
        if configured := project_settings().model.path:
            return _existing(configured, "named by [model] path in edgemed.toml")
        if len(installed) == 1:
            return next(iter(installed.values()))
        raise UsageError(f"No model was named. {_choices(installed)}", next_step="name one, for example: demo")
    if not model.strip():
        raise UsageError(f"The name of the model is empty. {_choices(installed)}", next_step="name one, such as: demo")
    if model == DEMO_NAME:
        return demo_model_path()
    if Path(model).exists():
        return Path(model)
    if model in installed:
        return installed[model]
    raise UsageError(f"There is no model {model!r} here. {_choices(installed)}", next_step="check the path")


def _existing(path: Path, how: str) -> Path:
    if not path.exists():
        raise UsageError(f"{path}, {how}, does not exist.", next_step="mend the path in edgemed.toml")
    return path


def _installed_models() -> dict[str, Path]:
    folder = data_dir() / "models"
    return {path.stem: path for path in sorted(folder.glob("*.gguf"))} if folder.is_dir() else {}


def _choices(installed: dict[str, Path]) -> str:
    names = ", ".join(["demo (a demonstration, not for care)", *installed])
    return f"Known models: {names}."
