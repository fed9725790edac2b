"""What an engine's process leaves on its way out: shown where it tells of the machine, dropped where it may quote."""

import pytest

from edgemed.engines.losses import tells_no_text


@pytest.mark.parametrize(
    "line",
    [
        "/src/ggml/src/ggml-cpu/ops.cpp:123: GGML_ASSERT(n > 0) failed",
        "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 512.00 MiB: cudaMalloc failed: out of memory",
        "CUDA error: an illegal memory access was encountered",
        "llama_model_load: error loading model: tensor 'blk.0.attn_q.weight' data is not within the file bounds",
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "  what():  std::bad_alloc",
        "ModuleNotFoundError: No module named 'llama_cpp'",
        "fault: KeyError at worker.py:12",
    ],
)
def test_words_about_the_machine_are_shown(line: str) -> None:
    assert tells_no_text(line)


@pytest.mark.parametrize(
    "line",
    [
        "  what():  Unexpected empty grammar stack after accepting piece: Marijke",
        'parse: error parsing grammar: expecting name at root ::= "Marijke"',
        'root ::= "Marijke"',
        "llama_grammar_init_impl: cannot parse Marijke",
        "ggml_debug: prompt: Marijke is out of memory",
        "Marijke is out of memory",
        "KeyError: 'Marijke'",
        "",
    ],
)
def test_words_that_may_be_a_patients_are_dropped(line: str) -> None:
    assert not tells_no_text(line)
