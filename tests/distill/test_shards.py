"""A teacher's corpus on disk: what is torn is made again, what was made of something else is refused."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from edgemed.core.errors import UsageError
from edgemed.distill.shards import MANIFEST, CorpusIdentity, Manifest, ScoredAnswer, Shards

IDENTITY = CorpusIdentity(teacher="a" * 64, tokenizer="b" * 64, templates="c" * 64, examples="d" * 64, top_k=3)
MANIFEST_OF_FIVE = Manifest(identity=IDENTITY, n_examples=5, shard_examples=2)


def answer(seed: int) -> ScoredAnswer:
    random = np.random.default_rng(seed)
    n = int(random.integers(1, 6))
    places = np.flatnonzero(random.random(n) < 0.5).astype(np.int32)
    top = -np.sort(random.random((len(places), 3)).astype(np.float16))
    ids = random.integers(0, 100, n, dtype=np.int32)
    return ScoredAnswer(
        ids, -random.random(n, dtype=np.float32), places, random.integers(0, 9, top.shape, dtype=np.int32), top
    )


def filled(folder: Path) -> Shards:
    shards = Shards(folder, MANIFEST_OF_FIVE)
    for number in shards.missing():
        shards.write(number, [answer(seed) for seed in MANIFEST_OF_FIVE.examples_of(number)])
    return shards


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    filled(tmp_path)
    found = [one for number in range(3) for one in Shards.open(tmp_path).read(number)]
    assert len(found) == 5
    for seed, one in enumerate(found):
        for field in fields(ScoredAnswer):
            expected = getattr(answer(seed), field.name)
            assert getattr(one, field.name).dtype == expected.dtype
            assert np.array_equal(getattr(one, field.name), expected)


def test_only_what_is_missing_or_torn_is_made_again(tmp_path: Path) -> None:
    shards = filled(tmp_path)
    assert shards.missing() == []
    whole = (tmp_path / "shard-00001.safetensors").read_bytes()
    (tmp_path / "shard-00001.safetensors").write_bytes(whole[:-1])
    (tmp_path / "shard-00002.json").unlink()
    assert Shards.open(tmp_path).missing() == [1, 2]
    with pytest.raises(UsageError, match="missing or damaged"):
        shards.read(1)
    filled(tmp_path)
    assert (tmp_path / "shard-00001.safetensors").read_bytes() == whole


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"identity": IDENTITY.model_copy(update={"teacher": "e" * 64})}, "another teacher"),
        ({"identity": IDENTITY.model_copy(update={"top_k": 8, "examples": "e" * 64})}, "another examples, top_k"),
        ({"shard_examples": 4}, "another shard_examples"),
    ],
)
def test_a_folder_made_of_something_else_is_refused(tmp_path: Path, changed: dict[str, object], words: str) -> None:
    filled(tmp_path)
    with pytest.raises(UsageError, match=words):
        Shards(tmp_path, MANIFEST_OF_FIVE.model_copy(update=changed))


def test_a_shard_of_another_corpus_is_none_of_this_one(tmp_path: Path) -> None:
    filled(tmp_path / "one")
    other = MANIFEST_OF_FIVE.model_copy(update={"identity": IDENTITY.model_copy(update={"teacher": "e" * 64})})
    shards = Shards(tmp_path / "other", other)
    for path in (tmp_path / "one").glob("shard-*"):
        (tmp_path / "other" / path.name).write_bytes(path.read_bytes())
    assert shards.missing() == [0, 1, 2]


def test_a_folder_without_manifest_is_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no corpus"):
        Shards.open(tmp_path)
    (tmp_path / MANIFEST).write_text("{", encoding="utf-8")
    with pytest.raises(UsageError, match="no corpus"):
        Shards.open(tmp_path)


def test_a_shard_has_an_answer_for_each_of_its_examples(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 answers for 2 examples"):
        Shards(tmp_path, MANIFEST_OF_FIVE).write(0, [answer(0)])
