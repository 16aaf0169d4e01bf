"""Buckets: the sizes of kohya's trainer, and how a picture is laid into one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sotediffusion.buckets import bucket_sizes, select_bucket, select_no_upscale
from sotediffusion.types import UserError

MEGAPIXEL = 1024 * 1024


@pytest.mark.parametrize(("longest", "step", "count"), [(1024, 64, 25), (2048, 64, 41), (2048, 32, 81), (2048, 128, 21)])
def test_a_megapixel_has_as_many_buckets_as_in_kohyas_trainer(longest, step, count):
    sizes = bucket_sizes(MEGAPIXEL, step, longest=longest)
    assert len(sizes) == count
    assert sizes == sorted(set(sizes))


def test_buckets_are_never_above_the_area_and_come_both_ways_round():
    sizes = bucket_sizes(MEGAPIXEL, 64, longest=2048)
    assert (960, 1088) in sizes
    assert (1024, 1024) in sizes
    assert all(width * height <= MEGAPIXEL and (height, width) in sizes for width, height in sizes)


def test_the_miniatures_buckets_are_those_of_its_area():
    sizes = bucket_sizes(256 * 256, 32, 160, 416)
    assert (256, 256) in sizes
    assert all(side % 32 == 0 for size in sizes for side in size)


@pytest.mark.parametrize("values", [{"step": 0}, {"shortest": 32}, {"longest": 128}, {"area": 100}])
def test_settings_without_any_size_are_refused(values):
    with pytest.raises(UserError, match="leave no size"):
        bucket_sizes(**{"area": MEGAPIXEL, "step": 64, "shortest": 256, "longest": 1024} | values)


def test_an_exact_size_is_left_alone():
    fit = select_bucket(960, 1088, bucket_sizes(MEGAPIXEL, 64, longest=2048))
    assert (fit.bucket, fit.resized, fit.crop) == ((960, 1088), (960, 1088), (0, 0))


def test_a_wide_picture_goes_to_the_wide_bucket_and_is_cut_at_its_sides():
    fit = select_bucket(2000, 1100, [(768, 1280), (1024, 1024), (1280, 768)])
    assert fit.bucket == (1280, 768)
    assert fit.resized == (1396, 768)
    assert fit.crop == (58, 0)


def test_a_picture_within_the_area_is_only_cut():
    fit = select_no_upscale(1000, 700, MEGAPIXEL, 64)
    assert (fit.bucket, fit.resized, fit.crop) == ((960, 640), (1000, 700), (20, 30))


def test_a_larger_picture_is_scaled_to_the_area():
    fit = select_no_upscale(3000, 2000, MEGAPIXEL, 64)
    assert fit.bucket == (1216, 832)
    assert fit.resized == (1248, 832)


def test_a_picture_smaller_than_a_step_is_refused_not_given_a_side_of_zero():
    with pytest.raises(UserError, match="under the step of 64 px"):
        select_no_upscale(4000, 40, MEGAPIXEL, 64)


@given(st.integers(64, 6000), st.integers(64, 6000))
def test_the_cut_always_lies_inside_the_scaled_picture(width, height):
    fits = [select_bucket(width, height, bucket_sizes(MEGAPIXEL, 64, longest=2048))]
    if max(width, height) <= 12 * min(width, height):
        fits.append(select_no_upscale(width, height, MEGAPIXEL, 64))
        assert fits[1].resized[0] <= width
        assert fits[1].resized[1] <= height
    for fit in fits:
        assert all(crop >= 0 and crop + cut <= side for crop, cut, side in zip(fit.crop, fit.bucket, fit.resized, strict=True))
