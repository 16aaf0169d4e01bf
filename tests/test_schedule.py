"""The cosine schedule has the reference's values, and every grid runs from noise to picture."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sotediffusion.diffusion.schedule import SCHEDULES, Grid, alpha_sigma, grid, log_snr, network_times, time_condition

# t, log_snr, a, b, r, P2 weight b^2, log_snr at shift 2: printed by the reference trainer's own float32 arithmetic
GOLDEN = [
    (0.0, 9.210074, 0.999950, 0.010001, 0.002257, 0.000100, 7.823780),
    (0.001, 9.210074, 0.999950, 0.010001, 0.002257, 0.000100, 7.823780),
    (0.01, 7.367141, 0.999684, 0.025125, 0.010000, 0.000631, 5.980846),
    (0.05, 4.821204, 0.995996, 0.089402, 0.050000, 0.007993, 3.434909),
    (0.1, 3.550565, 0.985948, 0.167055, 0.100000, 0.027907, 2.164270),
    (0.25, 1.711357, 0.920333, 0.391137, 0.250000, 0.152988, 0.325063),
    (0.5, -0.024627, 0.702740, 0.711447, 0.500000, 0.506156, -1.410921),
    (0.75, -1.780252, 0.379832, 0.925056, 0.750000, 0.855728, -3.166546),
    (0.9, -3.701500, 0.155215, 0.987881, 0.900000, 0.975908, -5.087794),
    (0.95, -5.100027, 0.077844, 0.996966, 0.950000, 0.993940, -6.486321),
    (0.99, -8.322802, 0.015584, 0.999879, 0.990000, 0.999757, -9.210240),
    (0.999, -9.210240, 0.010000, 0.999950, 0.993583, 0.999900, -9.210240),
    (1.0, -9.210240, 0.010000, 0.999950, 0.993583, 0.999900, -9.210240),
]


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: f"t={row[0]}")
def test_the_schedule_has_the_reference_values(row):
    t, level, a, b, r, weight, shifted = row
    found = log_snr(torch.tensor([t], dtype=torch.float32))
    printed = 5.5e-7  # half of the last digit
    assert [float(part) for part in (*alpha_sigma(found), torch.sigmoid(-found))] == pytest.approx([a, b, weight], abs=printed)
    assert float(time_condition(found)) == pytest.approx(r, abs=2 * printed)
    # the reference rounds a^2 to float32 before the logarithm, which near either end moves it by more than it prints
    levels = [float(found), float(log_snr(torch.tensor([t]), shift=2.0))]
    assert levels == pytest.approx([level, shifted], abs=2e-5 if t in (0.01, 0.05, 0.95, 0.99) else 3 * printed)


def test_the_reference_sampler_at_shift_2_in_four_steps():
    plan = grid("default", 4, shift=2.0)
    assert plan.log_snr.tolist() == pytest.approx([-9.210240, -3.166546, -1.410921, 0.325063, 7.823946], abs=2e-6)
    assert network_times(plan, "clamped").tolist() == pytest.approx([0.993583, 0.870071, 0.705645, 0.444138], abs=1e-6)


@given(st.floats(0, 1), st.sampled_from([torch.float16, torch.bfloat16, torch.float32]))
def test_results_are_float32_whatever_the_weights_are(t, dtype):
    level = log_snr(torch.tensor([t], dtype=dtype))
    assert {level.dtype, time_condition(level).dtype, *(part.dtype for part in alpha_sigma(level))} == {torch.float32}


@given(st.floats(0.003, 0.99))
def test_time_condition_undoes_log_snr(t):
    assert float(time_condition(log_snr(torch.tensor(t, dtype=torch.float64)))) == pytest.approx(t, abs=1e-12)


@given(st.floats(0, 1), st.floats(0.25, 4))
def test_picture_and_noise_shares_keep_the_variance(t, shift):
    a, b = alpha_sigma(log_snr(torch.tensor(t, dtype=torch.float64), shift))
    assert float(a**2 + b**2) == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize("steps", [1, 2, 10, 30, 60, 1000])
def test_raw_times_of_the_default_grid_are_the_bits_diffusers_hands_over(steps):
    scheduler = pytest.importorskip("diffusers").DDPMWuerstchenScheduler()
    scheduler.set_timesteps(steps)
    assert torch.equal(network_times(grid("default", steps), "raw"), scheduler.timesteps[:-1])


def test_clamped_times_are_what_training_saw():
    times = network_times(grid("default", 4), "clamped")
    assert times.tolist() == pytest.approx([0.993583, 0.75, 0.5, 0.25], abs=1e-6)


def test_sgm_uniform_steps_evenly_through_the_times_of_training():
    times = network_times(grid("sgm_uniform", 3), "raw").double()
    assert times.tolist() == pytest.approx([0.993583, 0.663141, 0.332699], abs=1e-6)


plans = st.builds(
    grid, st.sampled_from(sorted(SCHEDULES)), st.integers(1, 300), st.floats(0.25, 4), st.floats(0.01, 1)
)


@given(plans)
def test_every_grid_falls_in_noise_and_ends_at_a_picture(plan: Grid):
    assert plan.log_snr.shape == (plan.steps + 1,) and plan.log_snr.dtype == torch.float64
    assert (plan.log_snr.diff() >= 0).all() and (plan.t.diff() <= 0).all()
    assert plan.log_snr[-1] > 6
    assert torch.isfinite(plan.log_snr[:-1]).all()


@given(st.sampled_from(sorted(SCHEDULES)), st.integers(1, 50), st.floats(0.05, 1), st.sampled_from([1.0, 2.0]))
def test_strength_starts_every_schedule_at_the_same_noise(name, steps, strength, shift):
    start = grid(name, steps, shift, strength).log_snr[0]
    assert float(start) == pytest.approx(float(log_snr(torch.tensor(strength, dtype=torch.float64), shift)), abs=1e-5)


@pytest.mark.parametrize("bad", [("linear", 10, 1, 1), ("default", 0, 1, 1), ("default", 9, 0, 1), ("default", 9, 1, 1.5)])
def test_a_bad_grid_is_refused(bad):
    with pytest.raises(ValueError, match=r"not one of default|out of range"):
        grid(*bad)


def test_an_unknown_time_convention_is_refused():
    with pytest.raises(ValueError, match="raw, clamped"):
        network_times(grid("default", 2), "cooked")
