"""Claims about the training loop: a broken run that is started again is the unbroken run, bit for bit."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import sotediffusion
from sotediffusion.train import checkpoint
from sotediffusion.train.data import Batch
from sotediffusion.train.loop import Options, train
from sotediffusion.train.loss import DiffusionLoss, Objective
from sotediffusion.train.optim import SHAPES, Schedule, rate
from sotediffusion.types import UserError

OPTIONS = Options(images=96, batch=4, lr=1e-2, seed=5, schedule=Schedule(warmup=8), save_minutes=math.inf, report_seconds=0)


class Numbers:
    """Endless samples whose content follows from their number."""

    identity = "numbers"

    def batches(self, seed, images, size):
        while True:
            keys = [(seed, 0, images + i) for i in range(size)]
            values = torch.tensor([key[2] % 7 for key in keys]).float()
            yield Batch(keys, [{}] * size, {"x": values.view(-1, 1, 1, 1).expand(-1, 4, 4, 4)})
            images += size


class Toy:
    """A small network with dropout and BatchNorm, an adaptive loss, and a fault on demand."""

    def __init__(self, broken_at=None):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU(), nn.Dropout(0.1), nn.Conv2d(8, 4, 1))
        self.modules, self.source, self.progress = nn.ModuleDict({"toy": network}), Numbers(), 0.0
        self.diffusion = DiffusionLoss(Objective(weight="adaptive"))
        self.broken_at, self.seen = broken_at, []

    def loss(self, batch):
        self.seen += [key[2] for key in batch.keys]
        loss, numbers = self.diffusion(lambda x, r: self.modules["toy"](x) * r.view(-1, 1, 1, 1), batch.fields["x"], batch.keys)
        return (loss * math.nan if self.broken_at in self.seen else loss), numbers

    def conclude(self, join):
        self.diffusion.conclude(join)

    def state_dict(self):
        return self.diffusion.state_dict()

    def load_state_dict(self, state):
        self.diffusion.load_state_dict(state)

    def weights(self, averages):
        return averages


class Slow(Toy):
    """Never at its end, however late somebody comes to kill it."""

    def loss(self, batch):
        time.sleep(0.03 if self.progress < 0.7 else 900)
        return super().loss(batch)


def final(folder: Path):
    """Everything a run ended with, but for the seconds it took."""
    state = checkpoint.load(folder / "checkpoints", checkpoint.latest(folder / "checkpoints"))
    state["place"].pop("seconds")
    tensors = {}
    return json.dumps(checkpoint.split(state, tensors)), tensors, load_file(folder / "weights.safetensors")


def assert_equal_runs(a: Path, b: Path):
    for left, right in zip(final(a), final(b), strict=True):
        if isinstance(left, str):
            assert left == right
        else:
            assert left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)
    losses = [[(line["images"], line["loss"]) for line in map(json.loads, (run / "stats.jsonl").open())][:-1] for run in (a, b)]
    assert dict(losses[1]).items() <= dict(losses[0]).items()


@pytest.fixture
def unbroken(tmp_path):
    train(Toy(), OPTIONS, tmp_path / "unbroken", lambda status: None)
    return tmp_path / "unbroken"


def test_a_run_stopped_by_a_signal_saves_leaves_and_goes_on_to_the_same_end(tmp_path, unbroken):
    def stop_once(status):
        if status.images == 40 and status.outcome == "running":
            os.kill(os.getpid(), signal.SIGTERM)

    status = train(Toy(), OPTIONS, tmp_path / "run", stop_once)
    assert (status.outcome, status.images) == ("interrupted", 40)
    assert train(Toy(), OPTIONS, tmp_path / "run", lambda status: None).outcome == "finished"
    assert_equal_runs(unbroken, tmp_path / "run")


def test_a_run_killed_at_any_moment_goes_on_to_the_same_end(tmp_path, unbroken):
    checkpoints = tmp_path / "run" / "checkpoints"
    environment = os.environ | {"PYTHONPATH": str(Path(sotediffusion.__file__).parents[1])}
    process = subprocess.Popen([sys.executable, __file__, str(tmp_path / "run")], env=environment)
    end = time.monotonic() + 600
    while checkpoint.latest(checkpoints) is None and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert process.returncode == -signal.SIGKILL and checkpoint.latest(checkpoints)
    assert 0 < int(checkpoint.latest(checkpoints)) < OPTIONS.images
    train(Toy(), OPTIONS, tmp_path / "run", lambda status: None)
    assert_equal_runs(unbroken, tmp_path / "run")


def test_a_loss_that_is_not_a_number_stops_the_run_and_names_the_last_good_checkpoint(tmp_path):
    with pytest.raises(UserError, match=r"loss nan .* after 40 images; the last good checkpoint is .*000000000040"):
        train(Toy(broken_at=41), replace(OPTIONS, save_minutes=0), tmp_path / "run", lambda status: None)
    state = checkpoint.load(tmp_path / "run" / "checkpoints", "000000000040")
    assert all(torch.isfinite(value).all() for value in state["modules"].values())


def test_a_run_may_end_by_time_and_its_rate_has_fallen_then(tmp_path, monkeypatch):
    ticks = itertools.count()  # a busy machine's own clock may jump over the whole fall
    monkeypatch.setattr("sotediffusion.train.loop.time", SimpleNamespace(monotonic=lambda: next(ticks) * 0.01))
    options = replace(OPTIONS, images=10**6, minutes=0.02)
    status = train(Toy(), options, tmp_path / "run", lambda status: None)
    assert status.outcome == "finished" and status.images < 10**6
    assert status.lr < 0.3 * options.lr


def test_a_finished_run_goes_on_warm_from_before_its_rate_fell(tmp_path, unbroken):
    toy = Toy()
    status = train(toy, replace(OPTIONS, images=20), tmp_path / "more", lambda status: None, continue_from=unbroken)
    assert toy.seen[0] == 76  # the first batch of the first run's cooldown, at three quarters of 96
    assert status.images == 76 + 20


def test_a_run_does_not_go_on_with_other_data_but_another_may_start_from_it(tmp_path, unbroken):
    other = Toy()
    other.source.identity = "other numbers"
    with pytest.raises(UserError, match=r"data: .*unbroken was trained on other data than is given now; .*--continue-from"):
        train(other, replace(OPTIONS, images=120), unbroken, lambda status: None)
    assert train(other, replace(OPTIONS, images=20), tmp_path / "more", lambda status: None, unbroken).outcome == "finished"
    with pytest.raises(UserError, match="data: .*more was trained on other data"):
        train(Toy(), replace(OPTIONS, images=40), tmp_path / "more", lambda status: None)


def test_a_checkpoint_that_does_not_say_its_data_goes_on(tmp_path, unbroken):
    checkpoints = unbroken / "checkpoints"
    state = checkpoint.load(checkpoints, checkpoint.latest(checkpoints))
    del state["place"]["data"]
    checkpoint.save(checkpoints, checkpoint.latest(checkpoints), state)
    assert train(Toy(), replace(OPTIONS, images=120), unbroken, lambda status: None).images == 120


def test_a_finished_run_with_more_images_asked_for_goes_on(tmp_path, unbroken):
    assert train(Toy(), replace(OPTIONS, images=120), unbroken, lambda status: None).images == 120


@pytest.mark.parametrize("shape", SHAPES)
def test_rates_warm_up_and_stay_within_their_peak(shape):
    schedule = Schedule(shape, warmup=100, cooldown=0.2)
    rates = [rate(schedule, images, images / 1000) for images in range(1001)]
    assert rates[0] <= 0.01 and rates[100] >= 0.9 and max(rates) <= 1
    assert rates[-1] == (1 if shape == "constant" else schedule.floor)


def test_an_unknown_schedule_lists_the_known_ones():
    with pytest.raises(UserError, match="schedule.shape: 'steps' is not known; known are, nearest first, .*cosine"):
        rate(Schedule("steps"), 0, 0.0)


def test_restarts_begin_again_at_the_peak_and_need_a_shape_that_falls():
    for shape in ("cosine", "linear"):
        again = Schedule(shape, warmup=0, restarts=3, floor=0)
        assert [round(rate(again, 9, progress / 8), 6) for progress in range(9)] == [1, 0.5, 1, 0.5, 1, 0.5, 1, 0.5, 0]
    with pytest.raises(UserError, match="3 restarts mean nothing to constant; take cosine or linear"):
        rate(Schedule("constant", restarts=3), 0, 0.0)


def test_a_rate_that_vanishes_in_half_precision_weights_is_refused(tmp_path):
    toy = Toy()
    toy.modules.bfloat16()
    with pytest.raises(UserError, match="lr: a step of 1e-05 reaches 11.7% of bfloat16 weights"):
        train(toy, replace(OPTIONS, lr=1e-5), tmp_path / "run", lambda status: None)


if __name__ == "__main__":  # the run that is killed
    torch.set_num_threads(1)
    train(Slow(), replace(OPTIONS, save_minutes=0), Path(sys.argv[1]), lambda status: None)
