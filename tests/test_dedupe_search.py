"""The search for near hashes is exact, and the groups made of it depend on nothing but the hashes and the order."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sotediffusion.curate.dedupe.crops import STEPS, crop_pairs
from sotediffusion.curate.dedupe.groups import Nodes, stars
from sotediffusion.curate.dedupe.neighbours import distinct, near_pairs, pair_blocks, plan
from sotediffusion.curate.dedupe.phash import BLANK, distance, phash, phashes
from sotediffusion.curate.dedupe.verdicts import Verdicts


def hashes_of(seed, count, skew=0.5, most_flips=40):
    """Random hashes, bits set with probability `skew`, a third of them copies of others with some bits flipped."""
    rng = np.random.default_rng(seed)
    bits = rng.random((count, 256)) < skew
    for copy in range(count - count // 3, count):
        bits[copy] = bits[rng.integers(0, max(1, copy))]
        bits[copy, rng.choice(256, rng.integers(0, most_flips), replace=False)] ^= True
    return np.packbits(bits, axis=1, bitorder="little")


def brute(hashes, radius):
    far = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(2)
    one, other = np.nonzero(np.triu(far <= radius, 1))
    return set(zip(one.tolist(), other.tolist(), far[one, other].tolist(), strict=True))


def found(pairs):
    return list(zip(*(column.tolist() for column in pairs), strict=True))


@given(st.integers(0, 2**32), st.integers(2, 120), st.sampled_from([0.5, 0.2, 0.03]), st.integers(0, 40))
def test_the_search_finds_each_pair_once_and_no_other(seed, count, skew, radius):
    hashes = hashes_of(seed, count, skew)
    pairs = found(near_pairs(hashes, radius, threads=2))
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == brute(hashes, radius)


@pytest.mark.parametrize("radius", [10, 24])
def test_it_is_exact_on_some_thousands_too_however_many_threads(radius):
    hashes = hashes_of(3, 2500, 0.4, 30)
    one, three = (sorted(found(near_pairs(hashes, radius, threads))) for threads in (1, 3))
    assert one == three
    assert set(one) == brute(hashes, radius)


def test_pairs_come_in_bounded_blocks_even_from_one_huge_bucket():
    """Hashes that differ in the last bits only: all share nearly every bucket."""
    hashes = np.zeros((1200, 32), np.uint8)
    hashes[:, :2] = np.arange(1200, dtype=np.uint16)[:, None].view(np.uint8)
    blocks = list(pair_blocks(hashes, 12, threads=1))
    assert sum(len(block.one) for block in blocks) == 1200 * 1199 // 2
    assert max(len(block.one) for block in blocks) <= 1 << 17


def test_the_chunks_are_those_that_make_the_search_exact():
    assert len(plan(6_000_000, 10).chunks) == 11 and plan(6_000_000, 10).reach == 0
    assert len(plan(6_000_000, 24).chunks) == 13 and plan(6_000_000, 24).reach == 1


@pytest.mark.parametrize(("width", "dtype", "radius"), [(8, np.uint8, 3), (32, float, 3), (32, np.uint8, 41)])
def test_what_cannot_be_searched_is_said(width, dtype, radius):
    with pytest.raises(ValueError, match="hashes are|radius of"):
        near_pairs(np.zeros((3, width), dtype), radius)


@given(st.lists(st.integers(0, 5), max_size=40))
def test_distinct_gives_the_first_row_of_every_hash(values):
    hashes = np.zeros((len(values), 32), np.uint8)
    hashes[:, 7] = values
    first, number = distinct(hashes)
    assert [values.index(value) for value in values] == first[number].tolist()
    assert first.tolist() == sorted(set(first.tolist()))


def slow_stars(hashes, order, radius):
    keeper = {}
    for row in order:
        if row in keeper:
            continue
        keeper[row] = row
        for other in range(len(hashes)):
            if other not in keeper and np.bitwise_count(hashes[row] ^ hashes[other]).sum() <= radius:
                keeper[other] = row
    return [keeper[row] for row in range(len(hashes))]


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.integers(2, 60), st.permutations(range(60)))
def test_groups_are_stars_by_the_order_and_each_picture_is_near_its_keeper(seed, count, permutation):
    hashes = hashes_of(seed, count, most_flips=14)
    hashes[-1] = hashes[0]
    order = np.array([row for row in permutation if row < count])
    nodes = Nodes.of(hashes, pa.nulls(count, pa.string()), np.zeros(count, bool), Verdicts())
    pairs = near_pairs(nodes.hashes, 10, threads=1)
    involved = set(nodes.rows_in(pairs).tolist())
    keeper = stars(nodes, pairs, np.array([row for row in order if row in involved], np.int64))
    assert keeper.tolist() == slow_stars(hashes, order.tolist(), 10)


def test_crops_are_looked_for_among_pictures_of_the_same_light_only():
    hashes = hashes_of(5, 400, most_flips=90)
    light = np.random.default_rng(6).uniform(60, 72, (400, 3))
    near = {(a, b) for a, b, _ in brute(hashes, 80)}
    wanted = sorted((a, b) for a, b in near if (np.abs(light[a] - light[b]) <= STEPS).all())
    assert wanted and [tuple(both) for both in crop_pairs(hashes, light, 80).tolist()] == wanted
    assert len(crop_pairs(hashes, light, 0)) == 0


def test_the_hash_has_its_documented_bits_and_golden_values():
    y, x = np.mgrid[0:64, 0:64]
    wave = 128 + 60 * np.cos(np.pi * 3 * (x + 0.5) / 64)  # one horizontal frequency alone
    bits = np.unpackbits(np.frombuffer(phash(wave), np.uint8), bitorder="little")
    assert set(np.flatnonzero(bits)) == {0, 3}
    picture = (x * 3 + (y // 8) * (x // 16) * 11 + (x - 20) ** 2 // (y + 3)) % 256
    assert phash(picture.astype(np.uint8)).hex() == GOLDEN
    assert bytes(phashes(np.stack([wave, picture]))[1]) == phash(picture)


GOLDEN = "59e9482fb4a5d9d6765a924c5592b56cb7969696b3642db59ba42629da4a9740"  # as ImageHash 4.3 has it, by scipy's DCT


@given(st.integers(0, 255))
def test_a_picture_without_structure_has_the_blank_hash_and_no_other_has(level):
    assert phash(np.full((64, 64), level)) == BLANK
    assert phash(np.random.default_rng(level).normal(level, 9, (64, 64))) != BLANK


def test_noise_brightness_and_contrast_leave_the_hash_nearly_alone():
    rng = np.random.default_rng(1)
    smooth = np.cumsum(np.cumsum(rng.normal(size=(64, 64)), 0), 1)
    picture = 128 + 50 * smooth / smooth.std()
    assert distance(phash(picture), phash(picture * 0.8 + 20)) == 0
    assert distance(phash(picture), phash(picture + rng.normal(size=(64, 64)))) <= 10
