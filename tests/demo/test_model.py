"""The shipped model is the one that this table and these templates made, and it answers."""

import json
from pathlib import Path
from queue import SimpleQueue

import pytest

from edgemed.demo import demo_checkpoint_path, demo_model_path, is_demo
from edgemed.demo.questions import Example, dose_examination, has_dose
from edgemed.demo.table import fact_table
from edgemed.medical.prompts import messages_for, templates_digest
from edgemed.models.chat_template import render_chat


def test_checkpoint_and_gguf_together_stay_under_20_mb() -> None:
    folder = demo_checkpoint_path().parent
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 20e6


def test_the_model_was_trained_on_this_table_through_these_templates() -> None:
    record = json.loads((demo_checkpoint_path() / "training.json").read_text())
    assert record["facts_digest"] == fact_table().digest(), "the facts changed: train the model again"
    assert record["templates_digest"] == templates_digest(), "the templates changed: train the model again"


def test_every_row_of_its_matrices_fits_every_gguf_block() -> None:
    config = json.loads((demo_checkpoint_path() / "config.json").read_text())
    assert config["model_type"] == "qwen2"
    assert config["hidden_size"] % 256 == 0
    assert config["intermediate_size"] % 256 == 0


def test_the_shipped_file_is_known_as_the_demonstration(tmp_path: Path) -> None:
    assert is_demo(demo_model_path())
    assert not is_demo(tmp_path / "other.gguf")


def test_it_answers_nine_in_ten_of_a_sample_of_held_out_dose_questions_exactly() -> None:
    examples = dose_examination(fact_table())[::29]
    assert n_right(examples) >= 0.9 * len(examples)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_it_answers_nine_in_ten_of_all_held_out_dose_questions_exactly() -> None:
    examples = dose_examination(fact_table())
    assert n_right(examples) >= 0.9 * len(examples)


def n_right(examples: list[Example]) -> int:
    """How many of the dose questions the shipped GGUF answers exactly, greedy, through the engine."""
    pytest.importorskip("llama_cpp")
    from edgemed.engines.base import DoneEvent, EngineConfig, Event, GenerationRequest, PlaceEvent, TextEvent
    from edgemed.engines.registry import open_engine

    doses = {dose.id: dose for dose in fact_table().doses()}
    texts = [""] * len(examples)
    ended: SimpleQueue[Event] = SimpleQueue()
    engine = open_engine(EngineConfig(model_path=demo_model_path(), context_length=512, n_slots=4))
    try:
        template = engine.info.chat_template
        for number, example in enumerate(examples):
            prompt = engine.tokenize(render_chat(template, messages_for(example.question)))

            def on_event(event: Event, number: int = number) -> None:
                if isinstance(event, TextEvent):
                    texts[number] += event.text
                elif not isinstance(event, PlaceEvent):
                    ended.put(event)

            engine.submit(GenerationRequest(str(number), tuple(prompt), max_tokens=160), on_event)
        for _ in examples:
            assert isinstance(ended.get(timeout=600), DoneEvent)
    finally:
        engine.close()
    return sum(has_dose(text, doses[example.fact_id]) for text, example in zip(texts, examples, strict=True))
