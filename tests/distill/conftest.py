"""Sides of a distillation with tokenizers of different kinds: made once for all tests of the room."""

from __future__ import annotations

import pytest
from two_tokenizers import unpacked_tokenizer, write_llama3_like_tokenizer

from edgemed.demo import demo_checkpoint_path
from edgemed.distill.rendering import Side


@pytest.fixture(scope="session")
def llama3(tmp_path_factory: pytest.TempPathFactory) -> Side:
    """Packs up to three digits; no token for the tags of thinking."""
    return Side(write_llama3_like_tokenizer(tmp_path_factory.mktemp("llama3")))


@pytest.fixture(scope="session")
def deepseek(tmp_path_factory: pytest.TempPathFactory) -> Side:
    """Spells digits; tags are tokens, and its template drops what stands before the second."""
    return Side(unpacked_tokenizer("tokenizer-deepseek-r1-distill-qwen", tmp_path_factory.mktemp("deepseek")))


@pytest.fixture(scope="session")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Side:
    """Spells digits; no tags."""
    return Side(unpacked_tokenizer("tokenizer-qwen2.5", tmp_path_factory.mktemp("qwen")))


@pytest.fixture(scope="session")
def demo() -> Side:
    """The shipped checkpoint: spells digits, 4,096 tokens at most."""
    return Side(demo_checkpoint_path())
