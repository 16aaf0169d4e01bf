"""Guidance treats every row as if it were alone, and asks for no row that it does not need."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from sotediffusion.diffusion.guidance import combine, guide, plan_rows, repeat_guided

scales = st.lists(st.floats(0, 20), min_size=1, max_size=6)


def predictions(rows, dtype=torch.float32):
    return torch.randn(2, rows, 4, 5, 3).to(dtype).unbind(0)


@given(scales)
def test_guidance_goes_from_the_negative_text_through_the_positive(values):
    cond, uncond = predictions(len(values), torch.float64)
    scale = torch.tensor(values, dtype=torch.float64)
    expected = uncond + scale.view(-1, 1, 1, 1) * (cond - uncond)
    assert torch.allclose(guide(cond, uncond, scale), expected, atol=1e-12)


@given(scales, st.floats(0, 1))
def test_a_row_is_guided_as_it_is_alone(values, strength):
    cond, uncond = predictions(len(values))
    scale, rescale = torch.tensor(values), torch.linspace(0, strength, len(values))
    together = guide(cond, uncond, scale, rescale)
    for row in range(len(values)):
        only = slice(row, row + 1)
        alone = guide(cond[only], uncond[only], scale[only], rescale[only])
        assert torch.allclose(together[only], alone, rtol=1e-6, atol=1e-7)


def test_full_rescale_gives_each_row_the_spread_of_its_own_text():
    cond, uncond = predictions(3)
    cond = cond * torch.tensor([0.1, 1.0, 9.0]).view(3, 1, 1, 1)
    guided = guide(cond, uncond, torch.full((3,), 7.0), torch.ones(3))
    assert torch.allclose(guided.flatten(1).std(1), cond.flatten(1).std(1), rtol=1e-5)


def test_rescale_follows_lin_et_al():
    cond, uncond = predictions(1)
    guided = uncond + 7.0 * (cond - uncond)
    expected = 0.7 * guided * cond.std() / guided.std() + 0.3 * guided
    assert torch.allclose(guide(cond, uncond, torch.tensor([7.0]), torch.tensor([0.7])), expected, rtol=1e-5, atol=1e-6)


def test_no_rescale_changes_nothing():
    cond, uncond = predictions(2)
    scale = torch.tensor([2.0, 7.0])
    assert torch.equal(guide(cond, uncond, scale, torch.zeros(2)), guide(cond, uncond, scale))


def test_a_flat_prediction_is_not_divided_by_its_spread():
    flat = torch.zeros(1, 4, 2, 2)
    assert torch.equal(guide(flat, flat, torch.tensor([7.0]), torch.ones(1)), flat)


def test_half_precision_is_guided_in_float32():
    cond, uncond = predictions(2, torch.bfloat16)
    assert guide(cond, uncond, torch.tensor([2.0, 3.0])).dtype == torch.float32
    assert combine(cond, plan_rows([1.0, 0.0]), torch.tensor([1.0, 0.0])).dtype == torch.float32


@given(scales)
def test_only_scales_above_one_cost_a_second_row(values):
    rows = plan_rows(values)
    assert rows.total == len(values) + sum(value > 1 for value in values)
    assert repeat_guided(torch.arange(len(values)), rows).tolist() == [*range(len(values)), *rows.guided]


@given(scales, st.booleans())
def test_combining_a_planned_forward_equals_guiding_row_by_row(values, rescaled):
    rows = plan_rows(values)
    forward = torch.randn(rows.total, 4, 3, 3)
    scale = torch.tensor(values)
    rescale = torch.full((len(values),), 0.5) if rescaled else None
    combined = combine(forward, rows, scale, rescale)
    negatives = dict(zip(rows.guided, forward[rows.count :], strict=True))
    for row in range(len(values)):
        cond = forward[row][None]
        if row not in negatives:
            assert torch.equal(combined[row][None], cond)
            continue
        strength = None if rescale is None else rescale[row][None]
        alone = guide(cond, negatives[row][None], scale[row][None], strength)
        assert torch.allclose(combined[row][None], alone, rtol=1e-5, atol=1e-6)


def test_the_negative_rows_of_a_forward_follow_the_positive_ones():
    rows = plan_rows([7.0, 1.0, 2.0])
    assert (rows.count, rows.guided, rows.total) == (3, (0, 2), 5)

