"""Workloads by name: how long a prompt and its answer are. A TOML file each; the shipped ones lie in `workloads`."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path

from pydantic import Field, ValidationError

from edgemed.core.errors import UsageError
from edgemed.core.records import Record
from edgemed.plan.record import Workload

_MAX_FILE_BYTES = 64 * 1024
_MOST_TOKENS = 1_000_000
_FORM = 'three lines: about = "..." (may be left out), prompt_tokens = 512, answer_tokens = 192'


class _Content(Record):
    """What stands in a file."""

    about: str = Field(default="", max_length=500)
    prompt_tokens: int = Field(ge=1, le=_MOST_TOKENS, strict=True)
    answer_tokens: int = Field(ge=1, le=_MOST_TOKENS, strict=True)


class NamedWorkload(Record):
    """A workload, and what it stands for."""

    name: str
    about: str
    workload: Workload


def workload_names() -> tuple[str, ...]:
    """The shipped workloads, in alphabetical order."""
    folder = resources.files("edgemed.plan").joinpath("workloads")
    return tuple(sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".toml")))


def find_workload(name_or_file: str) -> NamedWorkload:
    """The workload that the user means: a shipped one by its name, else a TOML file of his own.

    Raises UsageError for neither, with the names there are, and for a file that breaks the form, with every field.
    """
    if name_or_file in (names := workload_names()):
        text = resources.files("edgemed.plan").joinpath("workloads", f"{name_or_file}.toml").read_text(encoding="utf-8")
        return _parse(name_or_file, text, f"{name_or_file}.toml")
    path = Path(name_or_file)
    if path.suffix or len(path.parts) > 1 or path.exists():
        return _parse(path.stem, _read(path), str(path))
    raise UsageError(
        f"{name_or_file!r} is no workload and no file.",
        next_step=f"one of: {', '.join(names)}; or a TOML file of {_FORM}",
    )


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise UsageError(f"The workload {path} is larger than {_MAX_FILE_BYTES} bytes.", next_step=f"write {_FORM}")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"The workload {path} is not UTF-8: {error.reason}.", next_step=f"write {_FORM}") from error
    except OSError as error:
        raise UsageError(
            f"The workload {path} cannot be read: {error.strerror or error}.", next_step="check the path"
        ) from error


def _parse(name: str, text: str, where: str) -> NamedWorkload:
    try:
        content = _Content.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"The workload {where} is no TOML: {error}.", next_step=f"write {_FORM}") from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise UsageError(f"The workload {where}: {faults}.", next_step=f"write {_FORM}") from error
    lengths = Workload(prompt_tokens=content.prompt_tokens, answer_tokens=content.answer_tokens)
    return NamedWorkload(name=name, about=content.about, workload=lengths)
