"""StableSVD and ALORA against dense linear algebra and brute force."""

from __future__ import annotations

from itertools import product

import pytest

torch = pytest.importorskip("torch", reason="distillation needs torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from edgemed.distill.adapters import Factors, allocate_ranks, alpha_pattern, stable_svd  # noqa: E402


def factors(d: int = 96, r: int = 8, k: int = 40, seed: int = 0) -> Factors:
    made = torch.Generator().manual_seed(seed)
    b, a = (torch.randn(*shape, generator=made, dtype=torch.float64) for shape in ((d, r), (r, k)))
    return Factors(b, a)


def singular_values(one: Factors) -> torch.Tensor:
    return torch.linalg.svdvals(one.product)


def test_a_sound_product_stays_what_it_is_and_its_factors_are_balanced() -> None:
    before = factors()
    found = stable_svd(before)
    assert found is not None
    assert torch.allclose(found.factors.product, before.product, atol=1e-12)
    assert (found.rank, found.damping) == (8, 0.0)
    assert found.condition == pytest.approx(float(singular_values(before)[0] / singular_values(before)[7]))
    b, a = found.factors.b, found.factors.a
    assert torch.allclose(b.T @ b, a @ a.T, atol=1e-10)


def test_a_direction_that_is_lost_already_is_dropped() -> None:
    one = factors()
    one.a[7] = one.a[0] + 1e-9 * one.a[7]
    found = stable_svd(one)
    assert found is not None
    assert found.rank == 7
    assert int((singular_values(found.factors) > 1e-9).sum()) == 7
    assert float(singular_values(found.factors)[0]) <= float(singular_values(one)[0]) + 1e-9


@settings(deadline=None)
@given(st.floats(1.0, 7.0), st.integers(0, 5))
def test_the_dense_singular_values_are_damped_by_the_formula(spread: float, seed: int) -> None:
    scales = torch.logspace(0, -spread, 6, dtype=torch.float64)
    one = factors(r=6, seed=seed)
    q_b, q_a = torch.linalg.qr(one.b)[0], torch.linalg.qr(one.a.T)[0]
    ill = Factors(q_b * scales, q_a.T.contiguous())
    found = stable_svd(ill, most_condition=100.0)
    assert found is not None
    s = singular_values(ill)[: found.rank]
    damping = float(s[0] / 100) ** 2 * min(max(found.condition / 100 - 1, 0), 1)
    assert torch.allclose(singular_values(found.factors)[: found.rank], s**3 / (s**2 + damping), atol=1e-9)
    assert float(singular_values(found.factors)[0]) <= float(s[0]) + 1e-12


def test_an_untrained_adapter_is_left_alone() -> None:
    assert stable_svd(Factors(torch.zeros(5, 2), torch.ones(2, 4))) is None


def test_equal_scores_give_equal_ranks() -> None:
    names = [f"layer{n}" for n in range(4)]
    found = allocate_ranks({n: [1.0] * 16 for n in names}, dict.fromkeys(names, (10, 6)), budget=4 * 16 * 5)
    assert found == dict.fromkeys(names, 5)


_modules = st.lists(
    st.tuples(st.lists(st.floats(0, 4), min_size=1, max_size=3), st.integers(1, 4)), min_size=1, max_size=3
)


@given(_modules, st.integers(0, 40))
def test_no_budget_is_exceeded_and_equal_costs_buy_the_best(
    modules: list[tuple[list[float], int]], budget: int
) -> None:
    scores = {str(n): sorted(values, reverse=True) for n, (values, _) in enumerate(modules)}
    sizes = {str(n): (size, size) for n, (_, size) in enumerate(modules)}
    least = sum(2 * size for _, size in modules)
    if budget < least:
        with pytest.raises(ValueError, match="parameters"):
            allocate_ranks(scores, sizes, budget)
        return
    found = allocate_ranks(scores, sizes, budget)
    assert sum(rank * sum(sizes[name]) for name, rank in found.items()) <= budget
    if len({size for _, size in modules}) == 1:
        (size,) = {2 * size for _, size in modules}
        worth = {name: [value**2 for value in values] for name, values in scores.items()}
        ways = product(*(range(1, len(values) + 1) for values in scores.values()))
        best = max(
            sum(sum(worth[name][:rank]) for name, rank in zip(scores, way, strict=True))
            for way in ways
            if sum(way) * size <= budget
        )
        assert sum(sum(worth[name][:rank]) for name, rank in found.items()) == pytest.approx(best)


def test_the_scale_is_the_same_at_every_rank() -> None:
    found = alpha_pattern({"q": 4, "v": 16}, scale=2.0)
    assert {name: alpha / rank**0.5 for (name, alpha), rank in zip(found.items(), (4, 16), strict=True)} == {
        "q": 2.0,
        "v": 2.0,
    }
