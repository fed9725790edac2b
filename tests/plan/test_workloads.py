"""Workloads by name and by file; a file that breaks the form is told with its name and every field."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgemed.core.errors import UsageError
from edgemed.plan.record import Workload
from edgemed.plan.workloads import find_workload, workload_names


def test_every_shipped_workload_can_be_found_and_says_what_it_is() -> None:
    assert workload_names() == ("long-note", "question", "short")
    for name in workload_names():
        found = find_workload(name)
        assert found.name == name
        assert found.about


def test_the_question_is_what_plans_are_made_for() -> None:
    assert find_workload("question").workload == Workload()


def test_a_file_of_ones_own_is_named_by_its_stem(tmp_path: Path) -> None:
    file = tmp_path / "ward round.toml"
    file.write_text("prompt_tokens = 900\nanswer_tokens = 30\n", encoding="utf-8")
    found = find_workload(str(file))
    assert (found.name, found.about) == ("ward round", "")
    assert found.workload == Workload(prompt_tokens=900, answer_tokens=30)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("prompt_tokens = 0\nanswer_tokens = 9\n", ["prompt_tokens: "]),
        ("prompt_tokens = -3\n", ["prompt_tokens: ", "answer_tokens: "]),
        ("prompt_tokens = 1.5\nanswer_tokens = true\n", ["prompt_tokens: ", "answer_tokens: "]),
        ('prompt_tokens = "512"\nanswer_tokens = 9\n', ["prompt_tokens: "]),
        ("prompt_tokens = 5\nanswer_tokens = 9\ntokens = 4\n", ["tokens: "]),
        ("prompt_tokens = 10000000000\nanswer_tokens = 9\n", ["prompt_tokens: "]),
        ("prompt_tokens 5\n", ["is no TOML"]),
        (f"# {'x' * 70000}\n", ["larger than 65536 bytes"]),
        ("about = 'caf\xe9'\n", ["is not UTF-8"]),
    ],
)
def test_a_file_that_breaks_the_form_is_named_with_its_fields(tmp_path: Path, content: str, words: list[str]) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(UsageError) as raised:
        find_workload(str(file))
    assert all(part in str(raised.value) for part in [str(file), "prompt_tokens = 512", *words])


def test_a_file_that_is_not_there_and_a_folder_are_told(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.toml", tmp_path):
        with pytest.raises(UsageError, match="cannot be read"):
            find_workload(str(path))


def test_a_name_that_is_none_lists_those_there_are() -> None:
    with pytest.raises(UsageError, match="long-note, question, short"):
        find_workload("quick")
