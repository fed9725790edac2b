"""What is taught from files: kinds, limits, and every fault of every file before anything slow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgemed.core.errors import UsageError
from edgemed.distill.config import DataConfig
from edgemed.distill.taught import shipped_questions, taught_examples


def written(path: Path, *pairs: tuple[str, str]) -> str:
    lines = (json.dumps({"question": question, "answer": answer}) for question, answer in pairs)
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_kinds_are_those_of_the_files(tmp_path: Path) -> None:
    data = DataConfig(
        examples=written(tmp_path / "a", ("One?", "1 mg."), ("Two?", "2 mg."), ("Three?", "3 mg.")),
        basic=written(tmp_path / "b", ("Sign?", "Cough.")),
        replay=written(tmp_path / "c", ("Old?", "Yes.")),
        validation=written(tmp_path / "d", ("Four?", "4 mg.")),
        examinations=(written(tmp_path / "e", ("Five?", "5 mg.")),),
        n_examples=2,
    )
    found = taught_examples(data)
    assert [(one.question, one.kind) for one in found] == [
        ("One?", ""),
        ("Two?", ""),
        ("Sign?", "basic"),
        ("Old?", "replay"),
    ]


def test_what_an_examination_asks_is_not_taught(tmp_path: Path) -> None:
    shipped = shipped_questions()[7]
    data = DataConfig(
        examples=written(tmp_path / "a", (shipped, "x"), ("Four?", "1 mg."), ("Good?", "2 mg.")),
        validation=written(tmp_path / "d", ("Four?", "4 mg.")),
    )
    with pytest.raises(UsageError, match=r"2 of 3 examples hold what an examination asks.*line 1 .*line 2 of data"):
        taught_examples(data)
    assert len(taught_examples(data.model_copy(update={"check_leaks": False}))) == 3


def test_faults_of_all_files_are_told_together(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b'{"question": "caf\xe9", "answer": "x"}\n')
    data = DataConfig(
        examples=written(tmp_path / "a", ("One?", "")),
        basic=str(tmp_path / "b"),
        replay=str(tmp_path / "none"),
    )
    with pytest.raises(UsageError) as refused:
        taught_examples(data)
    (tmp_path / "exam").write_text('{"question": "A?"}\n{}\n[1]\n')
    with pytest.raises(UsageError, match="exam cannot be asked: line 2, line 3 hold no"):
        taught_examples(data.model_copy(update={"examinations": (str(tmp_path / "exam"),)}))
    for said in ("/a cannot be taught: line 1", "/b cannot be taught: line 1: byte", "none cannot be read"):
        assert said in refused.value.what


def test_an_example_in_two_files_is_told(tmp_path: Path) -> None:
    data = DataConfig(
        examples=written(tmp_path / "a", ("One?", "1 mg.")), replay=written(tmp_path / "c", ("one", "1 MG"))
    )
    with pytest.raises(UsageError, match=r"twice .*line 1 of data.examples and line 1 of data.replay"):
        taught_examples(data)
