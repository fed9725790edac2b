"""The access token's file: made whole, for its owner alone, and refused when others could read it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from network import token_file

from edgemed.core.errors import UsageError
from edgemed.serve.access_token import TOKEN_FILE, made_or_read_token, read_token

posix = pytest.mark.skipif(sys.platform == "win32", reason="access rights and signals of POSIX")


def test_token_is_made_once_and_read_afterwards(tmp_path: Path) -> None:
    made = made_or_read_token(tmp_path / "data")
    again = made_or_read_token(tmp_path / "data")
    assert (made.made, again.made) == (True, False)
    assert made.value == again.value == (tmp_path / "data" / TOKEN_FILE).read_text().strip()


def test_made_token_has_160_bits_and_is_typed_on_a_phone(tmp_path: Path) -> None:
    tokens = [made_or_read_token(tmp_path / str(number)).value for number in range(50)]
    assert len(set(tokens)) == 50
    for token in tokens:
        assert [len(group) for group in token.split("-")] == [5] * 7
    letters = set("".join(tokens)) - {"-"}
    assert len(letters) == 31  # 35 of them are 173 bits
    assert not letters & set("01loiABCDEFGHIJKLMNOPQRSTUVWXYZ")


@posix
def test_file_of_the_token_is_its_owners_alone(tmp_path: Path) -> None:
    made_or_read_token(tmp_path)
    assert (tmp_path / TOKEN_FILE).stat().st_mode & 0o777 == 0o600


@posix
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o602, 0o660])
def test_file_that_others_may_read_or_change_is_refused_with_the_command(tmp_path: Path, mode: int) -> None:
    path = token_file(tmp_path, mode=mode)
    with pytest.raises(UsageError) as caught:
        read_token(path)
    assert f"{mode:o}" in caught.value.what
    assert f"chmod 600 {path}" in caught.value.next_step
    assert "battery" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "\n", "short", "nineteen-characters", "has blanks in it and is long", "a" * 9])
def test_token_that_is_short_or_has_blanks_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="20 characters"):
        read_token(token_file(tmp_path, text))


def test_token_file_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_token(tmp_path / "none")
    path = token_file(tmp_path)
    path.write_bytes(b"\xff" * 40)
    with pytest.raises(UsageError, match="plain ASCII"):
        read_token(path)


def test_token_is_never_in_a_repr(tmp_path: Path) -> None:
    made = made_or_read_token(tmp_path)
    assert made.value not in repr(made)


# Makes both files, and is killed in the middle of one of its steps.
_MAKER = """
import os, signal, sys
from pathlib import Path
from edgemed.serve.access_token import made_or_read_token
from edgemed.serve.self_signed import self_signed_certificate

folder, where, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
replace, write_bytes, write_text, chmod = Path.replace, Path.write_bytes, Path.write_text, Path.chmod

def die_at(step):
    global number
    number -= step == where
    if step == where and number < 0:
        os.kill(os.getpid(), signal.SIGKILL)

def dying_write(self, data, *args, **named):
    half = data[: len(data) // 2]
    (write_bytes(self, half) if isinstance(half, bytes) else write_text(self, half, *args, **named))
    die_at("writing")
    return write_bytes(self, data) if isinstance(data, bytes) else write_text(self, data, *args, **named)

def dying_replace(self, target):
    die_at("written")
    done = replace(self, target)
    die_at("renamed")
    return done

Path.write_bytes = Path.write_text = dying_write
Path.replace = dying_replace
made_or_read_token(folder)
self_signed_certificate(folder, ("127.0.0.1",))
print("lived")
"""


@posix
@pytest.mark.parametrize("where", ["writing", "written", "renamed"])
@pytest.mark.parametrize("number", [0, 1])
def test_kill_between_the_writes_leaves_whole_files_or_none(tmp_path: Path, where: str, number: int) -> None:
    from edgemed.serve.self_signed import CERTIFICATE_FILE, self_signed_certificate

    command = [sys.executable, "-c", _MAKER, str(tmp_path), where, str(number)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "")
    token, certificate = tmp_path / TOKEN_FILE, tmp_path / CERTIFICATE_FILE
    assert (token.exists(), certificate.exists()) == (
        number == 1 or where == "renamed",
        (number, where) == (1, "renamed"),
    )
    was_there = certificate.exists()
    assert made_or_read_token(tmp_path).made is (number == 0 and where != "renamed")
    found = self_signed_certificate(tmp_path, ("127.0.0.1",))
    assert found.note == ("" if was_there else "The certificate was made just now.")
    for left in tmp_path.iterdir():
        assert left.stat().st_mode & 0o777 == 0o600  # also what is left of a file that never became one
