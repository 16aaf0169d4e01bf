"""Claims about the diffusion loss: the published formulas, and randomness that belongs to a sample."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sotediffusion.diffusion.schedule import alpha_sigma, log_snr, time_condition
from sotediffusion.train.loss import WEIGHTS, AdaptiveWeight, DiffusionLoss, Objective, draw
from sotediffusion.types import UserError

GOLDEN = [  # t, logSNR, a, b, cond, P2, logSNR at shift 2: values of the original trainer's objective
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
    (1.0, -9.210240, 0.010000, 0.999950, 0.993583, 0.999900, -9.210240),
]


@pytest.mark.parametrize("t, logsnr, a, b, cond, p2, shifted", GOLDEN)
def test_the_objective_has_the_published_values(t, logsnr, a, b, cond, p2, shifted):
    level = log_snr(torch.tensor([t]))
    signal, noise = alpha_sigma(level)
    # To half the last digit printed, and where float32 cosines made the table, near no noise at all, to what those leave.
    assert level.item() == pytest.approx(logsnr, abs=2e-5 if abs(logsnr) > 4 else 1.1e-6)
    assert (signal.item(), noise.item()) == pytest.approx((a, b), abs=6e-7)
    assert time_condition(level).item() == pytest.approx(cond, abs=6e-7 if t > 0.001 else 2e-6)
    assert WEIGHTS["p2"](level).item() == pytest.approx(p2, abs=6e-7)
    assert log_snr(torch.tensor([t]), 2.0).item() == pytest.approx(shifted, abs=2e-5 if abs(logsnr) > 4 else 1.1e-6)


def test_p2_over_training_times_averages_a_half():
    t, _ = draw([(0, 0, i) for i in range(20_000)], (1,))
    level = log_snr(t)
    assert 0.001 <= t.min() and t.max() <= 1
    assert WEIGHTS["p2"](level).mean().item() == pytest.approx(0.505, abs=0.01)
    assert level.mean().item() == pytest.approx(-0.086, abs=0.08)
    assert level.std().item() == pytest.approx(2.971, abs=0.05)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=6, unique=True), st.integers(0, 5))
def test_time_and_noise_belong_to_the_sample_not_to_its_batch(samples, epoch):
    keys = [(7, epoch, sample) for sample in samples]
    t, noise = draw(keys, (4, 3, 3))
    for row, key in enumerate(keys):
        alone_t, alone_noise = draw([key], (4, 3, 3))
        assert torch.equal(alone_t[0], t[row]) and torch.equal(alone_noise[0], noise[row])


def test_a_perfect_prediction_has_no_loss_and_zeros_have_the_mean_weight():
    keys, x0 = [(0, 0, i) for i in range(64)], torch.randn(64, 4, 8, 8)
    t, noise = draw(keys, (4, 8, 8))
    exact, _ = DiffusionLoss()(lambda x, r: noise, x0, keys)
    zero, numbers = DiffusionLoss()(lambda x, r: torch.zeros_like(x), x0, keys)
    expected = (WEIGHTS["p2"](log_snr(t)) * noise.square().mean((1, 2, 3))).mean()
    assert exact.item() == 0
    assert zero.item() == pytest.approx(expected.item(), rel=1e-6)
    assert numbers and all(value == pytest.approx(1.0, abs=0.2) for value in numbers.values())


@pytest.mark.parametrize("weight", ["p2", "x0"])
def test_a_network_that_says_v_has_the_loss_of_the_noise_that_follows(weight):
    keys, x0, objective = [(0, 0, i) for i in range(8)], torch.randn(8, 4, 8, 8), Objective(weight, most=1e9)
    t, noise = draw(keys, (4, 8, 8))
    a, b = (share.view(-1, 1, 1, 1) for share in alpha_sigma(log_snr(t)))
    exact, _ = DiffusionLoss(objective, "v")(lambda x, r: a * noise - b * x0, x0, keys)
    assert exact.item() == pytest.approx(0, abs=1e-6)
    wrong, _ = DiffusionLoss(objective, "v")(lambda x, r: a * noise - b * (x0 + 1), x0, keys)
    weights = {"p2": WEIGHTS["p2"](log_snr(t)) * (a * b).square().flatten(), "x0": b.square().square().flatten()}
    assert wrong.item() == pytest.approx(weights[weight].mean().item(), rel=1e-4)


def test_the_network_is_given_the_noised_picture_and_the_clamped_time():
    keys, x0 = [(3, 0, 1)], torch.randn(1, 4, 8, 8)
    t, noise = draw(keys, (4, 8, 8))
    a, b = alpha_sigma(log_snr(t))
    seen = {}
    DiffusionLoss()(lambda x, r: seen.update(x=x, r=r) or x, x0, keys)
    torch.testing.assert_close(seen["x"], a * x0 + b * noise)
    torch.testing.assert_close(seen["r"], time_condition(log_snr(t)))


def test_min_snr_is_one_below_gamma_and_falls_with_snr_above_it():
    weight = WEIGHTS["min_snr"](torch.tensor([-3.0, 0.0, 5.0]))
    assert weight.tolist() == pytest.approx([1.0, 1.0, 5 / 2.718281828**5], rel=1e-4)


def test_huber_is_a_square_for_small_errors_and_a_line_for_large_ones():
    keys, x0 = [(0, 0, 0)], torch.zeros(1, 1, 4, 4)
    _, noise = draw(keys, (1, 4, 4))
    losses = {}
    for size in (0.01, 1.0):
        objective = Objective(weight="none", distance="huber")
        losses[size] = DiffusionLoss(objective)(lambda x, r, size=size: noise + size, x0, keys)[0].item()
    assert losses[0.01] == pytest.approx(0.5 * 0.01**2, rel=1e-3)
    assert losses[1.0] == pytest.approx(0.1 * (1 - 0.05), rel=1e-3)


def test_adaptive_weights_use_the_published_buckets_and_the_last_sample_of_one_wins():
    weight = AdaptiveWeight()
    levels = torch.tensor([-10.1, -10.0, -9.2103, 0.0, 9.2103, 9.99, 10.0, 10.1])
    assert torch.searchsorted(weight.edges, levels).tolist() == [0, 0, 12, 149, 287, 298, 298, 299]
    weight.learn(levels := torch.tensor([0.01, 0.02]), torch.tensor([0.5, 0.1]))
    assert weight.average[150].item() == pytest.approx(0.991)
    assert weight.weigh(levels).tolist() == pytest.approx([1 / 0.991] * 2)


def test_an_adaptive_weight_learns_from_whole_batches_however_they_are_cut():
    keys, x0 = [(0, 0, i) for i in range(8)], torch.randn(8, 4, 4, 4)
    averages = []
    for size in (8, 3, 1):
        loss = DiffusionLoss(Objective(weight="adaptive"))
        for i in range(0, 8, size):
            loss(lambda x, r: x, x0[i : i + size], keys[i : i + size])
        loss.conclude(lambda rows: rows)
        averages.append(loss.adaptive.average)
    assert torch.equal(averages[0], averages[1]) and torch.equal(averages[0], averages[2]) and averages[0].min() < 1


def test_adaptive_weights_go_on_from_their_state():
    loss = DiffusionLoss(Objective(weight="adaptive"))
    keys, x0 = [(0, 0, i) for i in range(8)], torch.randn(8, 4, 4, 4)
    loss(lambda x, r: x, x0, keys)
    loss.conclude(lambda rows: rows)
    other = DiffusionLoss(Objective(weight="adaptive"))
    other.load_state_dict(loss.state_dict())
    again = [(0, 1, i) for i in range(8)]
    assert torch.equal(loss(lambda x, r: x, x0, again)[0], other(lambda x, r: x, x0, again)[0])


def test_a_run_can_turn_to_adaptive_weights_which_then_begin_to_learn():
    loss = DiffusionLoss(Objective(weight="adaptive"))
    loss.load_state_dict(DiffusionLoss(Objective(weight="p2")).state_dict())
    assert torch.equal(loss.adaptive.average, DiffusionLoss(Objective(weight="adaptive")).adaptive.average)


@pytest.mark.parametrize("objective", [Objective(weight="p3"), Objective(distance="l2")])
def test_an_unknown_objective_lists_the_known_ones(objective):
    with pytest.raises(UserError, match="choose from"):
        DiffusionLoss(objective)


def test_the_x0_weight_makes_an_error_in_eps_the_error_in_the_picture_up_to_a_limit():
    level = torch.linspace(-2.9, 8, 9, dtype=torch.float64)
    a, b = alpha_sigma(level)
    x0, eps, wrong = torch.randn(3, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    error = (a * x0 + b * eps - b * wrong) / a - x0
    assert torch.allclose(WEIGHTS["x0"](level) * (wrong - eps).square(), error.square(), rtol=1e-10)
    assert WEIGHTS["x0"](torch.tensor([-9.0])).item() == 20
