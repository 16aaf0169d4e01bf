"""Every sampler table draws what its reference draws, and every row advances as it does alone."""

import importlib
import importlib.util
import math
import sys
from types import ModuleType
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sotediffusion.diffusion.samplers import SAMPLERS, advance, trajectory
from sotediffusion.diffusion.schedule import SCHEDULES, grid, log_snr

SHAPE = (3, 4, 5, 5)
MEAN, SPREAD = 0.4, 0.7  # of the analytic data


@pytest.fixture(scope="module")
def k_sampling() -> ModuleType:
    """k-diffusion's sampling module, without its package, whose other modules want torchvision."""
    package = importlib.util.find_spec("k_diffusion")
    if package is None:
        pytest.skip("k-diffusion is not installed")
    bare = ModuleType("k_diffusion")
    bare.__path__ = list(package.submodule_search_locations)
    modules = {"k_diffusion": bare}
    for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional", "torchdiffeq", "torchsde"):
        if name.startswith("torchvision") or importlib.util.find_spec(name) is None:
            modules[name] = mock.MagicMock()
    with mock.patch.dict(sys.modules, modules):
        return importlib.import_module("k_diffusion.sampling")


def denoise(noisy, sigma):
    """The exact posterior mean of a Gaussian with MEAN and SPREAD, seen as picture + sigma noise."""
    return (SPREAD**2 * noisy + sigma**2 * MEAN) / (SPREAD**2 + sigma**2)


def noises(steps, dtype=torch.float64):
    return torch.randn((steps + 1, *SHAPE), generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(dtype)


def draw(plan, start, noise, predict):
    x, history = start, None
    for step in range(plan.steps):
        rows = len(x)
        eps = predict(x, step)
        x, history = advance(
            x, eps, history, noise[step], plan.coefficients[step].expand(rows, 4), plan.scales[step].expand(rows, 2)
        )
    return x


def draw_gaussian(sampler, levels, noise):
    plan = trajectory(sampler, levels, "clamped")

    def predict(x, step):
        a, b = plan.scales[step]
        return (x - a * denoise(x / a, b / a)) / b

    return draw(plan, noise[-1] * plan.scales[0, 1], noise, predict)


def k_style(k_sampling, sampler, sigmas, start, noise):
    given_noise = iter(noise)
    arguments: dict = {"disable": True}
    if sampler in ("euler_ancestral", "dpmpp_2m_sde"):
        arguments["noise_sampler"] = lambda sigma, sigma_next: next(given_noise)
    name = "euler" if sampler == "ddim" else sampler  # in x / a, DDIM is Euler's method
    per_row = lambda noisy, sigma: denoise(noisy, sigma.view(-1, 1, 1, 1))  # noqa: E731
    return getattr(k_sampling, f"sample_{name}")(per_row, start, sigmas, **arguments)


@pytest.mark.parametrize("sampler", ["ddim", "euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("steps", "shift"), [(2, 1.0), (10, 2.0), (30, 1.0)])  # k-diffusion's SDE sampler fails at 1
def test_a_sampler_equals_k_diffusion_on_an_analytic_gaussian(k_sampling, sampler, schedule, steps, shift):
    levels, noise = grid(schedule, steps, shift), noises(steps)
    sigmas = torch.exp(-levels.log_snr / 2)
    sigmas[-1] = 0
    theirs = k_style(k_sampling, sampler, sigmas, noise[-1] * sigmas[0], noise)
    assert (draw_gaussian(sampler, levels, noise) - theirs).abs().max() < 1e-9


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde"])
def test_float32_drawing_stays_within_1e_5_of_k_diffusion(k_sampling, sampler):
    levels, noise = grid("karras", 30), noises(30)
    sigmas = torch.cat([torch.exp(-levels.log_snr[:-1] / 2), torch.zeros(1, dtype=torch.float64)])
    theirs = k_style(k_sampling, sampler, sigmas, noise[-1] * sigmas[0], noise)
    assert (draw_gaussian(sampler, levels, noise.float()) - theirs).abs().max() < 1e-5


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_lcm_noises_each_prediction_to_the_next_level(schedule):
    levels, noise = grid(schedule, 6), noises(6)
    sigmas = torch.exp(-levels.log_snr / 2).tolist()[:-1] + [0.0]
    noisy = noise[-1] * sigmas[0]
    for step in range(6):
        noisy = denoise(noisy, sigmas[step]) + sigmas[step + 1] * noise[step]
    assert (draw_gaussian("lcm", levels, noise) - noisy).abs().max() < 1e-9


@pytest.mark.parametrize("name", ["karras", "exponential"])
@pytest.mark.parametrize("shift", [1.0, 2.0])
def test_sigmas_equal_k_diffusion(name, shift, k_sampling):
    ends = log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64), shift)
    high, low = torch.exp(-ends / 2).tolist()
    theirs = getattr(k_sampling, f"get_sigmas_{name}")(12, low, high)
    assert torch.allclose(torch.exp(-grid(name, 12, shift).log_snr / 2), theirs.double(), rtol=1e-5)


def network(x, r):
    """A stand-in that depends on time, place and picture."""
    return torch.tanh(x * (1 + r) - 0.3 * x.roll(1, -1)) + 0.1 * r


@pytest.mark.parametrize("steps", [1, 4, 10, 30, 200])
def test_ddpm_is_diffusers_scheduler_in_float64(steps):
    scheduler = pytest.importorskip("diffusers").DDPMWuerstchenScheduler()
    scheduler.set_timesteps(steps)
    # diffusers keeps its constants in float32; in float64 they are the formulas themselves
    scheduler.timesteps = scheduler.timesteps.double()
    scheduler.s = torch.tensor([0.008], dtype=torch.float64)
    scheduler._init_alpha_cumprod = torch.cos(scheduler.s / (1 + scheduler.s) * torch.pi * 0.5) ** 2
    ours, theirs = both_ways(scheduler, steps, torch.float64)
    assert (ours - theirs).abs().max() / theirs.abs().max() < 1e-10


@pytest.mark.parametrize("steps", [10, 30])
def test_ddpm_is_diffusers_scheduler_as_it_comes(steps):
    scheduler = pytest.importorskip("diffusers").DDPMWuerstchenScheduler()
    scheduler.set_timesteps(steps)
    ours, theirs = both_ways(scheduler, steps, torch.float32)
    assert (ours - theirs).abs().max() / theirs.abs().max() < 1e-4


def both_ways(scheduler, steps, dtype):
    noise = noises(steps, dtype)
    plan = trajectory("ddpm", grid("default", steps), "raw")
    ours = draw(plan, noise[-1], noise, lambda x, step: network(x, plan.times[step].to(dtype)))
    theirs = noise[-1]
    drawn = "diffusers.schedulers.scheduling_ddpm_wuerstchen.randn_tensor"
    for step, t in enumerate(scheduler.timesteps[:-1]):
        with mock.patch(drawn, return_value=noise[step]):
            theirs = scheduler.step(network(theirs, t), t.expand(len(theirs)), theirs).prev_sample
    return ours, theirs


rows = st.lists(
    st.tuples(
        st.sampled_from(sorted(SAMPLERS)),
        st.sampled_from(sorted(SCHEDULES)),
        st.integers(1, 12),
        st.floats(0, 0.999),
        st.sampled_from([torch.float32, torch.float64]),
    ),
    min_size=2,
    max_size=6,
)


@given(rows)
def test_a_row_in_a_mixed_batch_comes_out_as_it_does_alone(batch):
    dtype = batch[0][-1]
    plans = [(trajectory(name, grid(schedule, steps), "raw"), int(place * steps)) for name, schedule, steps, place, _ in batch]
    table = torch.stack([plan.coefficients[step] for plan, step in plans])
    scales = torch.stack([plan.scales[step] for plan, step in plans])
    x, eps, history, noise = torch.randn(4, len(batch), 2, 3, 3, dtype=dtype)
    together = advance(x, eps, history, noise, table, scales)
    for row in range(len(batch)):
        only = slice(row, row + 1)
        needs_history, needs_noise = table[row, 2] != 0, table[row, 3] != 0
        alone = advance(
            x[only],
            eps[only],
            history[only] if needs_history else None,
            noise[only] if needs_noise else None,
            table[only],
            scales[only],
        )
        assert all(torch.equal(part[only], single) for part, single in zip(together, alone, strict=True))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@given(st.integers(1, 400), st.floats(0.25, 4), st.floats(0.01, 1))
def test_a_table_is_finite_needs_no_history_at_first_and_no_noise_at_last(sampler, schedule, steps, shift, strength):
    table = SAMPLERS[sampler](grid(schedule, steps, shift, strength).log_snr)
    assert table.shape == (steps, 4) and table.dtype == torch.float64 and torch.isfinite(table).all()
    assert table[0, 2] == 0 and table[-1, 3] == 0


@pytest.mark.parametrize("sampler", sorted(set(SAMPLERS) - {"ddpm"}))
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_last_step_lands_on_the_predicted_picture(sampler, schedule):
    plan = trajectory(sampler, grid(schedule, 5), "raw")
    x, eps = torch.randn(2, 1, 4, 3, 3, dtype=torch.float64)
    following, x0 = advance(x, eps, None, None, plan.coefficients[-1:], plan.scales[-1:])
    assert torch.allclose(following, x0, atol=1e-12)


def test_half_precision_advances_in_float32():
    plan = trajectory("ddpm", grid("default", 5), "raw")
    x, eps, noise = torch.randn(3, 1, 4, 3, 3, dtype=torch.bfloat16)
    assert {part.dtype for part in advance(x, eps, None, noise, plan.coefficients[:1], plan.scales[:1])} == {torch.float32}
    assert plan.times.dtype == torch.float32


def test_the_reference_noise_of_four_steps_at_shift_2():
    plan = trajectory("ddpm", grid("default", 4, shift=2.0), "raw")
    assert plan.coefficients[:3, 3].tolist() == pytest.approx([0.978406, 0.815473, 0.587814], abs=1e-6)


def test_an_unknown_sampler_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'heun' is not one of ddpm, ddim"):
        trajectory("heun", grid("default", 2), "raw")


def test_the_predicted_picture_undoes_the_noising():
    plan = trajectory("euler", grid("default", 3), "raw")
    picture, eps = torch.randn(2, 1, 4, 2, 2, dtype=torch.float64)
    a, b = plan.scales[1].tolist()
    _, x0 = advance(a * picture + b * eps, eps, None, None, plan.coefficients[1:2], plan.scales[1:2])
    assert torch.allclose(x0, picture) and math.isclose(a * a + b * b, 1)
