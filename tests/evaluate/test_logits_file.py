"""Logits on the disk come back as they were, or with a sentence."""

from pathlib import Path

import numpy as np
import pytest

from edgemed.core.errors import EdgemedError, UsageError
from edgemed.evaluate.logits_file import LogitsFile

ROWS = np.random.default_rng(0).standard_normal((5, 11)).astype(np.float32)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "parent.f32"
    with LogitsFile(path) as file:
        file.put([1, 2, 3], 1, ROWS[:2])
        file.put([1, 2], 2, ROWS[:0])
        file.put([1, 2, 3, 4], 1, ROWS[2:])
    return path


def test_rows_come_back_to_the_last_bit(kept: Path) -> None:
    with LogitsFile(kept) as file:
        assert np.array_equal(file.logits([1, 2, 3, 4], 1), ROWS[2:])
        assert np.array_equal(file.logits([1, 2, 3], 1), ROWS[:2])
        assert file.logits([1, 2], 2).shape == (0, 11)


def test_another_question_is_refused(kept: Path) -> None:
    with LogitsFile(kept) as file:
        with pytest.raises(UsageError, match="holds no logits"):
            file.logits([1, 2, 3], 2)
        with pytest.raises(UsageError, match="finished"):
            file.put([9], 1, ROWS)


def test_rows_that_were_cut_off_are_seen(kept: Path) -> None:
    kept.write_bytes(kept.read_bytes()[:-4])
    with pytest.raises(UsageError, match="does not belong"):
        LogitsFile(kept)


@pytest.mark.parametrize("index", ["", "[]", '{"n_rows": 5, "n_vocab": 11, "places": {"a": [4, 2]}}'])
def test_an_index_that_makes_no_sense_is_refused(kept: Path, index: str) -> None:
    kept.with_name("parent.f32.json").write_text(index)
    with pytest.raises(UsageError, match="does not belong"):
        LogitsFile(kept)


def test_a_file_that_was_not_finished_is_begun_again(tmp_path: Path) -> None:
    path = tmp_path / "parent.f32"
    unfinished = LogitsFile(path)
    unfinished.put([1, 2, 3], 1, ROWS[:2])
    unfinished.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    with LogitsFile(path) as file:
        file.put([7, 8], 1, ROWS[4:])
    with LogitsFile(path) as file:
        assert np.array_equal(file.logits([7, 8], 1), ROWS[4:])


def test_a_disk_without_room_is_told_before_it_is_full(tmp_path: Path) -> None:
    with LogitsFile(tmp_path / "parent.f32") as file:
        file.require_room(10, 1000)
        with pytest.raises(EdgemedError, match=r"need .*TiB .* is free"):
            file.require_room(10**9, 10**5)
