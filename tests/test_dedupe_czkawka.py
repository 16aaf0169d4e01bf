"""Czkawka's hashes bit for bit: vectors of the crate image_hasher 3.1 (its own test of stability), on noise made as there."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from sotediffusion.curate.dedupe.czkawka import (
    ALGORITHMS,
    FILTERS,
    PRESETS,
    SIZES,
    czkawka_hash,
    says_nothing,
    similar,
    tolerance,
)
from sotediffusion.types import UserError

GOLDEN = json.loads((Path(__file__).parent / "data" / "czkawka.json").read_text())
WORD = 2**64 - 1


def rotated(value, by):
    return ((value << by) | (value >> (64 - by))) & WORD


@pytest.fixture(scope="module")
def noise():
    """256 x 256 RGBA of xoshiro256++, seeded with 0xc0ffee as rand 0.8 does it."""
    seed, words = 0xC0FFEE, []
    for _ in range(8):
        seed = (seed * 6364136223846793005 + 11634580027462260723) & WORD
        value, turn = (((seed >> 18) ^ seed) >> 27) & 0xFFFFFFFF, seed >> 59
        words.append(((value >> turn) | (value << (32 - turn))) & 0xFFFFFFFF)
    a, b, c, d = (words[i] | words[i + 1] << 32 for i in range(0, 8, 2))
    out = []
    for _ in range(256 * 256 // 2):
        out.append((rotated((a + d) & WORD, 23) + a) & WORD)
        shifted = (b << 17) & WORD
        c, d = c ^ a, d ^ b
        b, a = b ^ c, a ^ d
        c, d = c ^ shifted, rotated(d, 45)
    return np.array(out, np.uint64).view(np.uint8).reshape(256, 256, 4)


@pytest.mark.parametrize("algorithm", GOLDEN)
def test_hashes_equal_czkawkas_bit_for_bit(noise, algorithm):
    for size, by_filter in GOLDEN[algorithm].items():
        for name, wanted in by_filter.items():
            made = czkawka_hash(noise, algorithm, name, int(size))
            assert base64.b64encode(made).decode().rstrip("=") == wanted, (size, name)


def test_every_algorithm_and_filter_has_its_vectors():
    assert set(GOLDEN) == set(ALGORITHMS) and all(set(f) == set(FILTERS) for s in GOLDEN.values() for f in s.values())


def test_named_tolerances_are_czkawkas():
    assert [tolerance("high", size) for size in SIZES] == [2, 5, 10, 20]
    assert [tolerance("original", size) for size in SIZES] == [0] * 4
    assert all(list(bits) == sorted(bits) for bits in PRESETS.values())


def test_transparency_is_ignored_and_not_laid_on_white():
    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 4), np.uint8)
    assert czkawka_hash(picture) == czkawka_hash(picture[:, :, :3])


def test_blank_pictures_are_never_alike():
    blank = czkawka_hash(np.full((40, 40, 3), 9, np.uint8))
    assert says_nothing(blank)
    assert similar([blank, blank], 5, np.array([0, 1])).tolist() == [0, 1]


def test_the_best_of_a_group_keeps_and_takes_what_is_near_itself_only():
    hashes = [bytes([value]) + bytes([1] * 31) for value in (0b0, 0b11, 0b1111)]
    assert similar(hashes, 2, np.array([0, 1, 2])).tolist() == [0, 0, 2]
    assert similar(hashes, 2, np.array([1, 0, 2])).tolist() == [1, 1, 1]


@pytest.mark.parametrize("wrong", [{"algorithm": "gradint"}, {"filter": "cubic"}, {"size": 12}])
def test_unknown_names_are_told_with_the_known_ones(wrong):
    with pytest.raises(UserError, match="known are|take 8"):
        czkawka_hash(np.zeros((9, 9, 3), np.uint8), **wrong)
