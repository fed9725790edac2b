"""--adapter NAME=FILE, and the table of edgemed.toml: what is taken, and what is refused before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
from adapters import write_tiny_adapter
from tiny_models import write_tiny_qwen2

from edgemed.cli.options import adapter_files
from edgemed.core.errors import ModelRefused, UsageError


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen2(tmp_path_factory.mktemp("base") / "base.gguf")


def test_the_command_line_goes_before_the_settings(base: Path, tmp_path: Path) -> None:
    heart, skin = (write_tiny_adapter(tmp_path / f"{name}.gguf") for name in ("heart", "skin"))
    configured = {"heart": heart, "skin": skin}
    assert [(file.name, file.path) for file in adapter_files(None, configured, base)] == list(configured.items())
    assert [(file.name, file.path) for file in adapter_files([f"mine={skin}"], configured, base)] == [("mine", skin)]
    assert adapter_files(None, {}, base) == ()


@pytest.mark.parametrize("name", ["", "a b", "../x", "base", "demo", "x" * 65])
def test_a_name_that_no_request_could_say_or_that_is_taken_is_refused(base: Path, tmp_path: Path, name: str) -> None:
    file = write_tiny_adapter(tmp_path / "a.gguf")
    with pytest.raises(UsageError):
        adapter_files([f"{name}={file}"], {}, base)


def test_a_name_given_twice_and_a_word_without_a_file_are_refused(base: Path, tmp_path: Path) -> None:
    file = write_tiny_adapter(tmp_path / "a.gguf")
    for given in ([f"one={file}", f"one={file}"], ["one"], ["one="]):
        with pytest.raises(UsageError):
            adapter_files(given, {}, base)


def test_a_missing_file_and_one_for_another_base_are_refused(base: Path, tmp_path: Path) -> None:
    deep = write_tiny_adapter(tmp_path / "deep.gguf", layers=3)
    for path, said in ((tmp_path / "none.gguf", "cannot be read"), (deep, "another base"), (base, "is no adapter")):
        with pytest.raises(ModelRefused, match=said):
            adapter_files([f"one={path}"], {}, base)
