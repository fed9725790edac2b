import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from checkpoints import write_byte_level_tokenizer, write_sentencepiece_tokenizer
from edgemed_converters import pretokenizers
from edgemed_converters.tokenizer import TokenizerPlan, TokenType, plan_tokenizer

from edgemed.core.errors import ModelRefused
from edgemed.export.engine_question import ask_engine
from edgemed.export.verify_tokens import verify_tokens
from edgemed.models.gguf_values import text
from edgemed.models.gguf_writer import GgufWriter, lay_out

SHARED = Path(__file__).parents[3] / "shared" / "data"
REAL = {"tokenizer-qwen2.5": "qwen2", "tokenizer-deepseek-r1-distill-qwen": "deepseek-r1-qwen"}


def value(plan: TokenizerPlan, key: str) -> Any:
    return plan.metadata[f"tokenizer.{key}"].value


def write_vocabulary(plan: TokenizerPlan, path: Path) -> Path:
    """A GGUF of the tokenizer alone, which the engine opens for its vocabulary."""
    layout = lay_out({"general.architecture": text("qwen2"), **plan.metadata}, [])
    with GgufWriter(path, layout) as writer:
        writer.finish()
    return path


def change(folder: Path, **parts: Any) -> None:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | parts))


@pytest.mark.parametrize("name", REAL)
def test_real_tokenizers_agree_with_the_engine_s_own_vectors(tmp_path: Path, name: str) -> None:
    pytest.importorskip("llama_cpp")
    source = SHARED / name
    if not source.is_dir():
        pytest.skip(f"{name} is not in ../shared/data")
    (tmp_path / "tokenizer.json").write_bytes(gzip.decompress((source / "tokenizer.json.gz").read_bytes()))
    for file in ("tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / file).write_bytes((source / file).read_bytes())
    plan = plan_tokenizer(tmp_path, 151_936, {})
    assert value(plan, "ggml.pre") == REAL[name]
    assert value(plan, "chat_template") == (source / "chat_template.jinja").read_text(encoding="utf-8")
    exported = write_vocabulary(plan, tmp_path / "vocabulary.gguf")
    texts = (source / "vectors.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    expected = [[int(word) for word in line.split()] for line in (source / "vectors.out").read_text().splitlines()]
    got = ask_engine({"path": str(exported), "strings": texts})["ids"]
    assert got[: len(expected)] == expected
    assert len(expected) > 40
    check = verify_tokens(exported, tmp_path, plan)
    assert check.identical == check.n_strings == 1000
    assert check.normalized_first > 0


@pytest.mark.parametrize(
    ("split", "ignore_merges", "pre"),
    [
        (pretokenizers._QWEN2, False, "qwen2"),
        (pretokenizers._QWEN35, False, "qwen35"),
        (pretokenizers._LLAMA3, True, "llama-bpe"),
        (pretokenizers._LLAMA3, False, "dbrx"),
        (pretokenizers._TEKKEN, True, "tekken"),
        (pretokenizers._GPT4O, False, "gpt-4o"),
        ("words", False, "gpt-2"),
        ("digits", False, "smollm"),
    ],
)
def test_byte_level_tokenizers_agree_with_the_engine(tmp_path: Path, split: str, ignore_merges: bool, pre: str) -> None:
    pytest.importorskip("llama_cpp")
    bos = {"bos_token": "<|im_start|>", "add_bos_token": True} if pre in ("llama-bpe", "dbrx") else {}
    size = write_byte_level_tokenizer(tmp_path, split=split, ignore_merges=ignore_merges, **bos)
    plan = plan_tokenizer(tmp_path, size + 5, {})
    assert value(plan, "ggml.pre") == pre
    assert plan.adds("bos") == bool(bos)
    assert verify_tokens(write_vocabulary(plan, tmp_path / "v.gguf"), tmp_path, plan).identical == 1000


@pytest.mark.parametrize("prefix", ["always", "never", "first"])
@pytest.mark.parametrize("template", ["", "{{ messages }}"], ids=["plain", "chat"])
def test_sentencepiece_tokenizers_agree_with_the_engine(tmp_path: Path, prefix: str, template: str) -> None:
    pytest.importorskip("llama_cpp")
    settings = {"chat_template": template} if template else {}
    size = write_sentencepiece_tokenizer(tmp_path, prefix=prefix, **settings)
    plan = plan_tokenizer(tmp_path, size, {})
    assert value(plan, "ggml.model") == "llama"
    assert value(plan, "ggml.add_space_prefix") == (prefix == "always" or (prefix == "first" and not template))
    assert verify_tokens(write_vocabulary(plan, tmp_path / "v.gguf"), tmp_path, plan).identical == 1000


def test_a_wrong_pretokenizer_is_caught_by_the_comparison(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    size = write_byte_level_tokenizer(tmp_path)
    plan = plan_tokenizer(tmp_path, size, {})
    wrong = TokenizerPlan({**plan.metadata, "tokenizer.ggml.pre": text("gpt-2")}, "NFC", "never", False, ())
    with pytest.raises(ModelRefused, match="differs from the original"):
        verify_tokens(write_vocabulary(wrong, tmp_path / "v.gguf"), tmp_path, wrong)


def test_a_wrong_beginning_is_caught_by_the_comparison(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    size = write_sentencepiece_tokenizer(tmp_path)
    plan = plan_tokenizer(tmp_path, size, {})
    metadata = {key: v for key, v in plan.metadata.items() if key != "tokenizer.ggml.add_bos_token"}
    wrong = TokenizerPlan(metadata, "", "always", True, ())
    with pytest.raises(ModelRefused, match="BOS"):
        verify_tokens(write_vocabulary(wrong, tmp_path / "v.gguf"), tmp_path, wrong)


def test_special_tokens_padding_and_template_are_carried_over(tmp_path: Path) -> None:
    size = write_byte_level_tokenizer(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}))
    plan = plan_tokenizer(tmp_path, size + 2, {})
    types, tokens = value(plan, "ggml.token_type"), value(plan, "ggml.tokens")
    assert tokens[:3] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert types[:4] == [TokenType.CONTROL] * 3 + [TokenType.NORMAL]
    assert tokens[-1] == f"[PAD{size + 1}]"
    assert types[-2:] == [TokenType.UNUSED] * 2
    assert (value(plan, "ggml.eos_token_id"), value(plan, "ggml.eot_token_id")) == (2, 0)
    assert "<|im_start|>" in value(plan, "chat_template")
    assert plan.metadata["edgemed.tokenizer.normalization"].value == "NFC"


def test_role_tokens_that_are_not_marked_special_cannot_be_typed(tmp_path: Path) -> None:
    size = write_byte_level_tokenizer(tmp_path)
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    added = [token | {"special": False} for token in tokenizer["added_tokens"]]
    change(tmp_path, added_tokens=added)
    assert value(plan_tokenizer(tmp_path, size, {}), "ggml.token_type")[:3] == [TokenType.CONTROL] * 3


def test_named_templates_are_kept(tmp_path: Path) -> None:
    templates = [{"name": "default", "template": "A"}, {"name": "tool_use", "template": "B"}]
    size = write_byte_level_tokenizer(tmp_path, chat_template=templates)
    plan = plan_tokenizer(tmp_path, size, {})
    assert value(plan, "chat_template") == "A"
    assert value(plan, "chat_template.tool_use") == "B"
    assert value(plan, "chat_templates") == ["tool_use"]


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        ({"model": {"type": "Unigram", "vocab": []}}, "Unigram"),
        ({"model": None}, "cannot be converted"),
        ({"model": {"type": "BPE", "vocab": {}, "merges": []}}, "no vocabulary"),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, "pre-tokenizer is not known"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "neither byte-level"),
        ({"normalizer": {"type": "Lowercase"}}, "normalizer 'Lowercase'"),
        ({"added_tokens": [{"id": 99_999, "content": "<x>"}]}, "the embedding has"),
        ({"added_tokens": [{"id": 5, "content": "<x>"}]}, "means both"),
    ],
)
def test_tokenizers_that_cannot_be_reproduced_are_refused(tmp_path: Path, parts: dict[str, Any], match: str) -> None:
    size = write_byte_level_tokenizer(tmp_path)
    change(tmp_path, **parts)
    with pytest.raises(ModelRefused, match=match):
        plan_tokenizer(tmp_path, size, {})


def test_an_unknown_cut_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    size = write_byte_level_tokenizer(tmp_path, split=r"\p{L}+|\s+")
    with pytest.raises(ModelRefused, match=r"known: .*llama-bpe.*qwen2"):
        plan_tokenizer(tmp_path, size, {})


def test_a_vocabulary_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    size = write_byte_level_tokenizer(tmp_path)
    with pytest.raises(ModelRefused, match=f"the embedding has {size - 1} rows"):
        plan_tokenizer(tmp_path, size - 1, {})


def test_a_named_special_token_must_exist(tmp_path: Path) -> None:
    size = write_byte_level_tokenizer(tmp_path, eos_token="<|gone|>")
    with pytest.raises(ModelRefused, match="gone"):
        plan_tokenizer(tmp_path, size, {})


def test_a_missing_tokenizer_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused) as caught:
        plan_tokenizer(tmp_path, 10, {})
    assert "save_pretrained" in caught.value.next_step
