"""The one door of the command line: exit codes, where words go, and no traceback for anybody."""

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from edgemed import __version__
from edgemed.cli import app as door
from edgemed.cli import commands
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

    monkeypatch.setattr(commands, "app", Failing())
    with pytest.raises(SystemExit) as caught:
        door.main()
    out, err = capsys.readouterr()
    assert caught.value.code == EXIT_CODES[error]
    assert out == ""
    assert "Traceback" not in err
    assert "secret" not in err


def test_the_package_itself_can_be_run() -> None:
    done = subprocess.run([sys.executable, "-m", "edgemed", "--version"], capture_output=True, text=True, timeout=100)
    assert (done.returncode, __version__ in done.stdout) == (0, True)


def test_ctrl_c_in_a_command_says_interrupted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer()

    @app.command()
    def wait() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "app", app)
    monkeypatch.setattr(sys, "argv", ["edgemed"])
    with pytest.raises(SystemExit) as caught:
        door.main()
    assert caught.value.code == 130
    assert capsys.readouterr() == ("", "Interrupted.\n")


def script(lines: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that prepares something and then runs the command line."""
    program = f"{lines}\nfrom edgemed.cli.app import main\nmain()"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=folder, timeout=100)


@pytest.mark.parametrize("module", ["typer", "pydantic", "edgemed.core.errors"])
def test_ctrl_c_while_libraries_load_leaves_no_traceback(module: str, tmp_path: Path) -> None:
    done = script(
        "import sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}:\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupting())",
        tmp_path,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted.\n")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_half_written_file_is_removed_when_the_command_is_told_to_stop(name: str, tmp_path: Path) -> None:
    number = getattr(signal, name, None)
    if number is None:
        pytest.skip(f"this system has no {name}")
    done = script(
        "import os, signal\n"
        "from pathlib import Path\n"
        "from edgemed.cli import commands\n"
        "from edgemed.core.files import whole_file\n"
        f"signal.signal({int(number)}, signal.SIG_DFL)\n"  # whoever runs the tests may ignore it (nohup)
        "def write(prog_name):\n"
        "    with whole_file(Path('big.gguf')) as part:\n"
        "        part.write_bytes(b'half')\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        "        part.write_bytes(b'whole')\n"
        "commands.app = write",
        tmp_path,
    )
    assert done.returncode == 128 + number, done.stderr
    assert list(tmp_path.iterdir()) == []


def shell(words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    line = f"{shlex.quote(sys.executable)} -m edgemed.cli.app {words}"
    return subprocess.run(["sh", "-c", line], capture_output=True, text=True, cwd=folder, timeout=100)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("words", ["--version", "--help"])
def test_output_that_cannot_be_written_is_said(words: str, tmp_path: Path) -> None:
    done = shell(f"{words} > /dev/full", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: The output could not be written: No space left")
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
def test_errors_do_not_go_to_stdout_when_stderr_is_closed(tmp_path: Path) -> None:
    done = shell("plan no-such-model 2>&-", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.skipif(sys.platform == "win32", reason="a folder in use cannot be deleted there")
def test_a_deleted_current_folder_is_said(tmp_path: Path) -> None:
    done = script("import os\nos.rmdir(os.getcwd())\nimport sys\nsys.argv = ['edgemed', 'serve']", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: The current folder no longer exists.")


def test_the_version_is_shown() -> None:
    assert run("--version").stdout == f"edgemed {__version__}\n"


def test_help_names_every_command_in_the_order_of_a_models_way() -> None:
    text = run("--help").stdout
    places = [text.index(f" {name} ") for name in ("profile", "plan", "export", "serve", "ask")]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("serve", ("[MODEL]", "127.0.0.1", "8080")),
        ("plan", (" MODEL",)),
        ("export", ("[MODEL]",)),
    ],
)
def test_help_says_defaults_and_names_the_model(command: str, words: tuple[str, ...]) -> None:
    text = run(command, "--help").stdout
    assert all(word in text for word in words)
    assert "{model}" not in text


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("nonsense",), 2, "nonsense"),
        (("plan",), 2, "Missing argument"),
        (("plan", "no-such-model"), 2, "demo"),
        (("plan", ""), 2, "empty"),
        (("serve", " "), 2, "empty"),
        (("export", ""), 2, "empty"),
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
    assert json.loads(done.stdout)["schema_version"] == 2
