"""Claims about several processes: they are one run, whatever their number, and their state is read by any other number."""

import os

import pytest
import torch
from torch import nn
from training_run import forked, go, go_together, losses, order, state, training_place

from sotediffusion.train.data import Batch
from sotediffusion.train.distributed import Ranks, joined
from sotediffusion.train.pieces import pieces
from sotediffusion.types import UserError

ADAPTIVE = ("objective.weight=adaptive", "save.state_minutes=0")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    path = training_place(tmp_path_factory.mktemp("runs"))
    assert forked(lambda: go(order(path, "one", *ADAPTIVE))) == [0]
    return path


def assert_same_run(one, other):
    assert losses(other).keys() == losses(one).keys() and len(losses(one)) == 6
    assert list(losses(other).values()) == pytest.approx(list(losses(one).values()), rel=1e-5)
    left, right = state(one), state(other)
    assert left.keys() == right.keys()
    for key, value in left.items():
        # A bias of attention's keys has no gradient but rounding, of which the optimizer makes whole steps.
        if key.startswith(("/modules", "/recipe", "/ema")) and not key.endswith(("in_proj_bias", "k_proj.bias")):
            torch.testing.assert_close(right[key], value, rtol=1e-3, atol=2e-5, msg=key)


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_processes_learn_what_one_does_from_the_same_batches(place, sharding):
    """Adaptive weights, accumulation, a joint clip, averages and batches of several buckets are all in it."""
    assert forked(lambda: go_together(order(place, sharding, *ADAPTIVE), sharding), 2) == [0, 0]
    assert_same_run(place / "one", place / sharding)
    assert len(list((place / sharding / "checkpoints").glob("*-of-2.safetensors"))) == 4  # two states
    models = [sorted(path.name for path in (place / run / "models" / "card-base").iterdir()) for run in ("one", sharding)]
    assert models[0] == models[1]


@pytest.mark.parametrize("sharding, before, after", [("ddp", 2, 1), ("fsdp", 2, 1), ("ddp", 1, 2), ("fsdp", 1, 2)])
def test_a_run_goes_on_in_another_number_of_processes(place, sharding, before, after):
    name = f"{sharding}-{before}-{after}"
    for count, steps in ((before, 3), (after, 6)):
        what = order(place, name, *ADAPTIVE, f"train.steps={steps}")
        work = (lambda what=what: go_together(what, sharding)) if count > 1 else (lambda what=what: go(what))
        assert forked(work, count) == [0] * count
    assert_same_run(place / "one", place / name)


def test_a_signal_to_one_process_stops_all_at_the_same_step(place):
    def stop(status):
        if status.images == 24 and status.outcome == "running":
            os.kill(os.getpid(), 15)

    assert forked(lambda: go_together(order(place, "stopped", *ADAPTIVE), report=stop), 2) == [0, 0]
    assert max(losses(place / "stopped")) == 24
    assert forked(lambda: go_together(order(place, "stopped", *ADAPTIVE)), 2) == [0, 0]
    assert_same_run(place / "one", place / "stopped")


def test_a_full_disk_in_one_process_is_told_to_all(place):
    def fill_up():
        from sotediffusion.train import checkpoint

        def full(*arguments):
            raise OSError(28, "No space left on device")

        if os.environ["RANK"] == "1":
            checkpoint.write_file = full
        with pytest.raises(UserError, match="No space left on device"):
            go_together(order(place, "full", *ADAPTIVE))

    assert forked(fill_up, 2) == [0, 0]


def test_rows_come_back_in_the_order_of_the_batch_also_where_some_have_none():
    def meet():
        with joined(int(os.environ["RANK"]), 3, 0, "cpu", minutes=1) as ranks:
            for whole in (1, 2, 3, 7):
                rows = ranks.rows(whole)
                values = torch.tensor([[row, row + 0.5] for row in rows]).reshape(len(rows), 2)
                assert ranks.join(values, whole).tolist() == [[row, row + 0.5] for row in range(whole)]
            assert ranks.lead([ranks.number, 5]) == [0, 5] and ranks.total([1, ranks.number]) == [3, 3]
            assert ranks.gather(ranks.number) == [0, 1, 2]

    assert forked(meet, 3) == [0, 0, 0]


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("size", [0, 1, 2, 9])
@pytest.mark.parametrize("whole", [1, 2, 5, 6])
def test_a_batch_is_cut_into_as_many_pieces_for_everyone_and_each_sample_counts_once(count, size, whole):
    def batches():
        while True:
            yield Batch([(0, 0, i) for i in range(whole)], [{}] * whole, {"x": torch.arange(whole)})

    found = [list(pieces(batches(), size, Ranks(number, count))) for number in range(count)]
    assert len({len(own) for own in found}) == 1
    assert all([piece.last for piece in own] == [False] * (len(own) - 1) + [True] for own in found)
    counted = [int(x) for own in found for piece in own if piece.share for x in piece.batch.fields["x"]]
    assert sorted(counted) == list(range(whole))
    assert sum(piece.share for own in found for piece in own) == pytest.approx(1)
    every = [piece for own in found for piece in own]
    assert all(piece.batch.void == (piece.share == 0) and (not size or piece.batch.size <= size) for piece in every)


def test_weights_that_are_spread_give_each_process_its_rows_and_only_these_are_brought_to_the_device():
    class Watched(nn.ModuleDict):
        rows: list[int] = []

        def to(self, device):
            self.rows.append(sum(p.to_local().numel() for p in self.parameters()))
            return super().to(device)

    def spread():
        from tiny import tiny_cascade

        with joined(int(os.environ["RANK"]), 2, 0, "cpu", "fsdp", minutes=1) as ranks:
            tiny = tiny_cascade()
            modules = Watched({"stage_c": tiny.stage_c, "text": tiny.text})
            whole = sum(p.numel() for p in modules.parameters())
            ranks.spread(modules, "cpu")
            assert len(modules.rows) == 1 and abs(modules.rows[0] - whole / 2) < whole / 50

    assert forked(spread, 2) == [0, 0]
