"""llama.cpp's own rounding, called row by row."""

from __future__ import annotations

import numpy as np
import pytest

from edgemed.core.errors import ModelRefused
from edgemed.core.tensor_types import BY_NAME, Q8_0
from edgemed.formats.blocks import dequantize
from edgemed.formats.packing import pack

pytest.importorskip("llama_cpp")
from edgemed.engines.rounding import round_rows

WEIGHTS = np.random.default_rng(1).normal(size=(8, 512)).astype(np.float32)
BITS = {"q2_k": 2, "q3_k": 3, "q4_k": 4, "iq4_nl": 4, "iq4_xs": 4, "q5_k": 5, "q6_k": 6, "q8_0": 8}


def test_q8_0_is_what_our_own_packer_writes() -> None:
    assert np.array_equal(round_rows(WEIGHTS, Q8_0).reshape(-1), pack(WEIGHTS, "F32", Q8_0))


@pytest.mark.parametrize("name", BITS)
def test_the_error_is_that_of_so_many_bits(name: str) -> None:
    error = np.abs(dequantize(BY_NAME[name], round_rows(WEIGHTS, BY_NAME[name])) - WEIGHTS)
    assert error.mean() < 1.4 / 2 ** BITS[name]
    assert error.mean() > 0.25 / 2 ** BITS[name]


def test_importance_moves_the_error_to_columns_that_matter_less() -> None:
    importance = np.where(np.arange(512) % 2, 1.0, 100.0).astype(np.float32)
    kind = BY_NAME["q3_k"]
    plain = (dequantize(kind, round_rows(WEIGHTS, kind)) - WEIGHTS) ** 2
    weighed = (dequantize(kind, round_rows(WEIGHTS, kind, importance)) - WEIGHTS) ** 2
    assert weighed[:, ::2].sum() < plain[:, ::2].sum()


def test_a_type_that_needs_importance_says_so() -> None:
    with pytest.raises(ValueError, match="importance"):
        round_rows(WEIGHTS, BY_NAME["iq2_xxs"])


def test_weights_that_are_not_finite_are_refused_by_name() -> None:
    broken = WEIGHTS.copy()
    broken[2, 7] = np.nan
    with pytest.raises(ModelRefused, match=r"blk\.3\.ffn_up"):
        round_rows(broken, Q8_0, name="blk.3.ffn_up")
