"""Claims about the order of training: each sample once, whoever computes it, from any point on."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sotediffusion.train.order import Order, Ranks
from sotediffusion.types import UserError

TABLES = st.lists(st.tuples(st.integers(-1, 4), st.integers(1, 3)), min_size=1, max_size=60).filter(
    lambda rows: any(bucket >= 0 for bucket, _ in rows)
)
STEP = st.integers(1, 16)


def order_of(table, size, last="keep"):
    buckets, repeats = np.array(table).T
    return Order(buckets, repeats, size, last)


def rows_of(order, numbers):
    return order.row(np.concatenate(numbers)).tolist()


@given(TABLES, STEP, st.integers(0, 3))
def test_every_sample_is_seen_once_an_epoch_times_its_repeats(table, size, epoch):
    order = order_of(table, size)
    numbers = order.epoch(7, epoch)
    assert len(set(numbers.tolist())) == len(numbers) == order.epoch_images
    wanted = [row for row, (bucket, repeats) in enumerate(table) if bucket >= 0 for _ in range(repeats)]
    assert sorted(order.row(numbers).tolist()) == wanted


@given(TABLES, STEP)
def test_every_step_has_the_size_asked_for_but_the_last_of_an_epoch(table, size):
    order = order_of(table, size)
    steps = -(-order.epoch_images // size)
    found = [len(step) for _, _, step in islice(order.steps(0, 0), steps)]
    assert all(count == size for count in found[:-1]) and sum(found) == order.epoch_images


@given(TABLES, STEP)
def test_a_filled_epoch_has_whole_steps_only_and_still_every_sample(table, size):
    order = order_of(table, size, "fill")
    numbers = order.epoch(0, 2)
    assert len(numbers) % size == 0 and len(set(numbers.tolist())) == len(numbers)
    assert set(order_of(table, size).epoch(0, 2).tolist()) <= set(numbers.tolist())
    assert all(table[row][0] >= 0 for row in order.row(numbers).tolist())


@given(st.integers(1, 40), st.integers(1, 40), STEP)
def test_steps_are_of_one_bucket_until_less_than_a_step_of_it_is_left(first, second, size):
    order = order_of([(0, 1)] * first + [(1, 1)] * second, size)
    steps = [step for _, _, step in islice(order.steps(3, 0), -(-(first + second) // size))]
    mixed = [step for step in steps if len(set(order.buckets[order.row(step)].tolist())) > 1]
    assert len(mixed) <= 1 and sum(len(step) < size for step in steps) <= 1


@given(TABLES, STEP, st.integers(1, 5), st.one_of(st.none(), st.integers(1, 5)))
def test_ranks_together_see_each_step_once_in_lockstep_and_alike_to_one(table, size, ranks, micro):
    order = order_of(table, size)
    for _, _, step in islice(order.steps(1, 0), 4):
        pieces = [order.pieces(step, Ranks(rank, ranks, micro)) for rank in range(ranks)]
        assert len({len(some) for some in pieces}) == 1
        for together in zip(*pieces, strict=True):
            buckets = {int(order.buckets[order.row(number)]) for piece in together for number in piece.numbers}
            assert len(buckets) == 1 and len({piece.last for piece in together}) == 1
            assert all(0 < len(piece.numbers) <= (micro or size) for piece in together)
        assert [piece.last for piece in pieces[0]] == [False] * (len(pieces[0]) - 1) + [True]
        seen = {rank: rows_of(order, [p.numbers for p in some if not p.void] or [step[:0]]) for rank, some in enumerate(pieces)}
        assert all(seen[rank] == order.row(step[rank::ranks]).tolist() for rank in seen)


@given(TABLES, STEP, st.integers(0, 3), st.integers(0, 10))
def test_a_run_resumed_at_any_cursor_goes_on_as_if_it_had_not_stopped(table, size, seed, stop):
    order = order_of(table, size)
    unbroken = list(islice(order.steps(seed, 0), stop + 5))
    images = sum(len(step) for _, _, step in unbroken[:stop])
    resumed = list(islice(order_of(table, size).steps(seed, images), 5))
    for (epoch, number, step), (same_epoch, same_number, same_step) in zip(unbroken[stop:], resumed, strict=True):
        assert (epoch, number, step.tolist()) == (same_epoch, same_number, same_step.tolist())


def test_epochs_and_seeds_differ_in_order():
    order = order_of([(0, 1)] * 30 + [(1, 1)] * 30, 4)
    orders = {tuple(order.epoch(seed, epoch).tolist()) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4


def test_leftovers_of_buckets_meet_others_in_other_epochs():
    order = order_of([(bucket, 1) for bucket in range(12) for _ in range(2)], 4)

    def meetings(epoch):
        steps = order.epoch(0, epoch).reshape(-1, 4)
        return {frozenset(order.buckets[order.row(step)].tolist()) for step in steps}

    assert meetings(0) != meetings(1)


def test_what_cannot_be_meant_is_refused():
    with pytest.raises(UserError, match="keep"):
        order_of([(0, 1)], 4, "drop it")
    with pytest.raises(UserError, match="take 1 or more"):
        order_of([(0, 1)], 0)
