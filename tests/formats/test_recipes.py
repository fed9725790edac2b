import pytest

from edgemed.core.errors import UsageError
from edgemed.core.tensor_types import BF16, F16, F32, Q8_0, TensorType
from edgemed.formats.recipes import AVAILABLE, choose_format, recipe_type


@pytest.mark.parametrize(("recipe", "kind"), [("f32", F32), ("f16", F16), ("bf16", BF16), ("q8_0", Q8_0)])
def test_matrices_get_the_recipe_s_format(recipe: str, kind: TensorType) -> None:
    assert choose_format(recipe, (64, 256)).type is kind


@pytest.mark.parametrize("recipe", AVAILABLE)
def test_vectors_stay_float32(recipe: str) -> None:
    assert choose_format(recipe, (172,)).type is F32


def test_rows_that_fit_no_block_fall_back_to_float16_and_say_why() -> None:
    choice = choose_format("q8_0", (64, 172))
    assert choice.type is F16
    assert choice.reason == "rows of 172 are no multiple of q8_0's block of 32"


@pytest.mark.parametrize("recipe", ["q4_k_m", "nf4-int8", "auto", "q4_0"])
def test_recipes_to_come_are_refused_with_those_available(recipe: str) -> None:
    with pytest.raises(UsageError, match="not available yet for GGUF; now: f16, bf16, f32, q8_0"):
        recipe_type(recipe)


def test_an_unknown_recipe_is_refused() -> None:
    with pytest.raises(UsageError, match="no recipe 'q8'"):
        recipe_type("q8")
