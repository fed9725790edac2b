"""The one door of the command line: exit codes, where words go, and no traceback for anybody."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from edgemed import __version__
from edgemed.cli import app as door
from edgemed.core import errors

EXIT_CODES = {
    errors.EdgemedError("x"): 1,
    errors.UsageError("x"): 2,
    errors.MissingExtra("torch", "workstation"): 3,
    errors.PlanInfeasible("x"): 4,
    errors.ModelRefused("x"): 5,
    errors.EngineFailed("x"): 6,
    KeyboardInterrupt(): 130,
    ZeroDivisionError("secret words of a patient"): 1,
}


def run(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgemed.cli.app", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=100)


@pytest.mark.parametrize("error", EXIT_CODES, ids=lambda error: type(error).__name__)
def test_every_error_leaves_with_its_exit_code_and_without_a_traceback(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Failing(typer.Typer):
        def __call__(self, *_: object, **__: object) -> None:
            raise error

    monkeypatch.setattr(door, "app", Failing())
    with pytest.raises(SystemExit) as caught:
        door.main()
    out, err = capsys.readouterr()
    assert caught.value.code == EXIT_CODES[error]
    assert out == ""
    assert "Traceback" not in err
    assert "secret" not in err


def test_the_version_is_shown() -> None:
    assert run("--version").stdout == f"edgemed {__version__}\n"


def test_help_names_every_command_in_the_order_of_a_models_way() -> None:
    text = run("--help").stdout
    places = [text.index(f" {name} ") for name in ("profile", "plan", "export", "serve", "ask")]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("nonsense",), 2, "nonsense"),
        (("plan",), 2, "Missing argument"),
        (("plan", "no-such-model"), 2, "demo"),
        (("plan", "demo", "--max-ram", "lots"), 2, "6GiB"),
        (("export", "no-such-folder"), 2, "no-such-folder"),
        (("ask", "hello", "--model", "no-such-model"), 2, "demo"),
        (("serve", "no-such-model"), 2, "demo"),
    ],
)
def test_wrong_words_end_with_the_next_step_and_an_empty_stdout(
    arguments: tuple[str, ...], code: int, words: str, tmp_path: Path
) -> None:
    done = run(*arguments, folder=tmp_path)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_json_is_all_there_is_on_stdout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEMED_HOME", str(tmp_path))
    done = run("profile", "--quick", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["schema_version"] == 1
