"""Whatever somebody writes into a checkpoint's JSON files, the answer is a plan or a refusal, never a traceback."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from checkpoints import write_byte_level_tokenizer, write_safetensors, write_sentencepiece_tokenizer
from edgemed_converters import ARCHITECTURES, converter_for
from edgemed_converters.tokenizer import plan_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemed.core.errors import ModelRefused
from edgemed.models.checkpoint import open_checkpoint, spec_from_checkpoint

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


def mutate(value: Any, data: st.DataObject) -> Any:
    """`value` with one node, at any depth, replaced or removed."""
    root = copy.deepcopy(value)
    node = root
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        child = node[key]
        if isinstance(child, (dict, list)) and child and data.draw(st.booleans()):
            node = child
            continue
        if data.draw(st.booleans()):
            del node[key]
        else:
            node[key] = data.draw(JSON)
        return root


@pytest.fixture(scope="module", params=["byte level", "always", "first"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tokenizer")
    if request.param == "byte level":
        write_byte_level_tokenizer(made, chat_template=[{"name": "default", "template": "x"}])
    else:
        write_sentencepiece_tokenizer(made, prefix=request.param)
    (made / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    return made


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_tokenizer_is_planned_or_refused(folder: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(("tokenizer.json", "tokenizer_config.json", "generation_config.json")))
    original = (folder / name).read_text()
    try:
        (folder / name).write_text(json.dumps(mutate(json.loads(original), data)))
        plan_tokenizer(folder, 400, {})
    except ModelRefused:
        pass
    finally:
        (folder / name).write_text(original)


CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 6,
    "max_position_embeddings": 64,
    "sliding_window": 16,
    "layer_types": ["full_attention"],
    "rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4, "original_max_position_embeddings": 8},
    "tie_word_embeddings": True,
}


@settings(max_examples=300, deadline=None)
@given(data=st.data(), architecture=st.sampled_from(sorted(ARCHITECTURES)))
def test_any_configuration_is_planned_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, architecture: str
) -> None:
    made = tmp_path_factory.getbasetemp() / "mutated-config"
    made.mkdir(exist_ok=True)
    kind = data.draw(st.sampled_from(("yarn", "linear", "llama3", "longrope", "default")))
    config = CONFIG | {"architectures": [architecture]}
    config["rope_parameters"] = {**CONFIG["rope_parameters"], "rope_type": kind}
    (made / "config.json").write_text(json.dumps(mutate(config, data)))
    write_safetensors(made / "model.safetensors", {"model.norm.weight": ("F32", [8], bytes(32))})
    try:
        checkpoint = open_checkpoint(made)
        spec_from_checkpoint(checkpoint)
        converter_for(checkpoint).plan(checkpoint)
    except ModelRefused:
        pass
