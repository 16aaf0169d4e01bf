"""Buckets: the sizes of kohya's trainer, and how a picture is laid into one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sotediffusion.buckets import RULES, BucketSettings, bucket_sizes, fit_all, select_bucket, select_no_upscale
from sotediffusion.types import UserError

MEGAPIXEL = 1024 * 1024

# What sd-scripts' BucketManager gives at 1024x1024, steps of 64: picture; bucket and scaled size with sides up to 1024, up to
# 2048, and with bucket_no_upscale.
GOLDEN = [
    ((1024, 1024), (1024, 1024, 1024, 1024), (1024, 1024, 1024, 1024), (1024, 1024, 1024, 1024)),
    ((960, 1088), (896, 1024, 904, 1024), (960, 1088, 960, 1088), (960, 1088, 960, 1088)),
    ((3072, 3000), (1024, 1024, 1049, 1024), (1024, 1024, 1049, 1024), (960, 960, 983, 960)),
    ((3000, 2000), (1024, 704, 1056, 704), (1216, 832, 1248, 832), (1216, 832, 1248, 832)),
    ((1000, 700), (1024, 704, 1024, 717), (1216, 832, 1216, 851), (960, 640, 1000, 700)),
    ((2000, 1100), (1024, 576, 1047, 576), (1344, 768, 1396, 768), (1280, 704, 1280, 704)),
    ((1100, 2000), (576, 1024, 576, 1047), (768, 1344, 768, 1396), (704, 1280, 704, 1280)),
    ((4096, 512), (1024, 256, 2048, 256), (2048, 256, 2048, 256), (2560, 320, 2560, 320)),
    ((640, 480), (1024, 768, 1024, 768), (1152, 896, 1195, 896), (640, 448, 640, 480)),
    ((300, 2000), (256, 1024, 256, 1707), (320, 2048, 320, 2133), (256, 1984, 300, 2000)),
    ((1920, 1080), (1024, 576, 1024, 576), (1344, 768, 1365, 768), (1344, 768, 1365, 768)),
    ((1080, 1920), (576, 1024, 576, 1024), (768, 1344, 768, 1365), (768, 1344, 768, 1365)),
    ((832, 1216), (704, 1024, 704, 1029), (832, 1216, 832, 1216), (832, 1216, 832, 1216)),
    ((1023, 1025), (1024, 1024, 1024, 1026), (1024, 1024, 1024, 1026), (960, 1024, 1023, 1025)),
    ((5000, 4000), (1024, 832, 1040, 832), (1152, 896, 1152, 922), (1088, 896, 1120, 896)),
    ((2903, 2926), (1024, 1024, 1024, 1032), (1024, 1024, 1024, 1032), (960, 960, 960, 968)),
    ((1327, 714), (1024, 576, 1071, 576), (1344, 768, 1427, 768), (1280, 704, 1327, 714)),
    ((382, 929), (448, 1024, 448, 1090), (640, 1536, 640, 1556), (320, 896, 382, 929)),
    ((995, 373), (1024, 384, 1024, 384), (1600, 640, 1707, 640), (960, 320, 995, 373)),
    ((376, 4903), (256, 1024, 256, 3338), (256, 2048, 256, 3338), (256, 3328, 256, 3338)),
    ((1922, 622), (1024, 320, 1024, 331), (1792, 576, 1792, 580), (1792, 576, 1792, 580)),
    ((1068, 4583), (256, 1024, 256, 1099), (448, 2048, 477, 2048), (448, 1920, 448, 1922)),
    ((3728, 3227), (1024, 896, 1035, 896), (1088, 960, 1109, 960), (1024, 896, 1035, 896)),
    ((952, 1250), (768, 1024, 780, 1024), (896, 1152, 896, 1176), (832, 1088, 832, 1092)),
    ((2053, 389), (1024, 256, 1351, 256), (2048, 384, 2048, 388), (2048, 384, 2053, 389)),
    ((1480, 687), (1024, 448, 1024, 475), (1472, 704, 1517, 704), (1472, 640, 1480, 687)),
    ((3551, 392), (1024, 256, 2319, 256), (2048, 256, 2319, 256), (2880, 320, 2899, 320)),
    ((2066, 3460), (640, 1024, 640, 1072), (768, 1280, 768, 1286), (768, 1280, 768, 1286)),
    ((610, 3706), (256, 1024, 256, 1555), (320, 2048, 337, 2048), (384, 2304, 384, 2333)),
    ((3480, 347), (1024, 256, 2567, 256), (2048, 256, 2567, 256), (3200, 320, 3209, 320)),
    ((2231, 331), (1024, 256, 1725, 256), (2048, 320, 2157, 320), (2176, 320, 2231, 331)),
    ((1285, 1073), (1024, 832, 1024, 855), (1088, 960, 1150, 960), (1088, 896, 1088, 909)),
    ((571, 794), (768, 1024, 768, 1068), (832, 1216, 874, 1216), (512, 768, 571, 794)),
    ((2912, 776), (1024, 256, 1024, 273), (1920, 512, 1921, 512), (1920, 512, 1921, 512)),
    ((493, 2177), (256, 1024, 256, 1130), (448, 2048, 464, 2048), (448, 1920, 448, 1978)),
    ((1108, 2855), (384, 1024, 397, 1024), (640, 1600, 640, 1649), (576, 1472, 576, 1484)),
    ((623, 783), (832, 1024, 832, 1046), (896, 1152, 917, 1152), (576, 768, 623, 783)),
    ((2863, 1298), (1024, 448, 1024, 464), (1472, 704, 1553, 704), (1408, 640, 1412, 640)),
    ((1296, 624), (1024, 512, 1063, 512), (1472, 704, 1472, 709), (1280, 576, 1296, 624)),
    ((343, 4103), (256, 1024, 256, 3062), (256, 2048, 256, 3062), (256, 3008, 256, 3062)),
]  # fmt: skip


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


@pytest.mark.parametrize(("longest", "rule", "column"), [(1024, "kohya", 1), (2048, "kohya", 2), (2048, "kohya_no_upscale", 3)])
def test_pictures_fall_into_the_buckets_of_kohyas_trainer(longest, rule, column):
    settings = BucketSettings(rule=rule, scale=1.0, cells=2, longest=longest)
    widths, heights = np.array([row[0] for row in GOLDEN]).T
    fits = fit_all(widths, heights, settings)
    assert [tuple(fit[:4]) for fit in fits.tolist()] == [row[column] for row in GOLDEN]


def test_without_buckets_kohyas_trainer_has_one_size():
    settings = BucketSettings((768, 1024), "one_size", scale=1.0, cells=2)
    fits = fit_all(np.array([500, 4000]), np.array([1000, 1000]), settings)
    assert fits.tolist() == [[768, 1024, 768, 1536, 0, 256], [768, 1024, 4096, 1024, 1664, 0]]


def test_resolution_is_that_of_the_picture_of_which_effnet_sees_three_quarters():
    sizes = np.array([[1024, 1024], [1024, 1536], [2048, 1152], [2048, 2048]])
    fits = fit_all(sizes[:, 0], sizes[:, 1], BucketSettings())
    assert (fits[:, :2] // 32).tolist() == [[24, 24], [19, 29], [32, 18], [24, 24]]
    whole = fit_all(sizes[:, 0], sizes[:, 1], BucketSettings((1536, 1536)))
    assert (whole[1:3, :2] // 32).tolist() == [[24, 36], [48, 27]]


def test_our_rule_keeps_a_nearly_square_picture_whole_where_kohyas_shrinks_it():
    large = np.array([3072]), np.array([3000])
    assert fit_all(*large, BucketSettings(rule="kohya_no_upscale", scale=1, cells=2))[0, :2].tolist() == [960, 960]
    assert fit_all(*large, BucketSettings(scale=1, cells=2))[0, :2].tolist() == [1024, 1024]


@given(st.lists(st.tuples(st.integers(40, 6000), st.integers(40, 6000)), min_size=1, max_size=20),
       st.sampled_from(RULES), st.sampled_from([(0.75, 1), (0.75, 3), (1.0, 2)]))  # fmt: skip
def test_every_fit_lies_on_the_grid_inside_the_scaled_picture_and_is_independent_of_its_neighbours(pictures, rule, scale):
    settings = BucketSettings(rule=rule, scale=scale[0], cells=scale[1])
    widths, heights = np.array(pictures).T
    fits = fit_all(widths, heights, settings)
    for picture, fit in zip(pictures, fits, strict=True):
        assert (fit_all(*np.array([picture]).T, settings)[0] == fit).all()
        bucket, resized, corner = fit[:2], fit[2:4], fit[4:]
        assert (bucket % settings.step == 0).all() and (corner >= 0).all() and (corner + bucket <= resized).all()
        if rule == "no_upscale":
            assert bucket.prod() <= settings.area and (resized <= np.array(picture) * settings.scale + 1).all()


@given(st.integers(300, 4000), st.integers(300, 4000))
def test_our_rule_shows_as_much_of_a_picture_as_any_size_on_the_grid(width, height):
    settings = BucketSettings(scale=1.0, cells=2)
    fit = fit_all(np.array([width]), np.array([height]), settings)[0]
    best = 0.0
    for across in range(256, 2049, 64):
        for down in range(256, 2049, 64):
            scale = max(across / width, down / height)
            if across * down <= settings.area and scale <= 1:
                best = max(best, (across * down / (scale**2 * width * height)) ** 2 * across * down)
    scale = max(fit[0] / width, fit[1] / height)
    shown = (fit[0] * fit[1] / (scale**2 * width * height)) ** 2 * fit[0] * fit[1] if fit[0] else 0.0
    assert shown == pytest.approx(best, rel=1e-9)


def test_an_unknown_rule_names_the_known_ones():
    with pytest.raises(UserError, match="no_upscale"):
        fit_all(np.array([1000]), np.array([1000]), BucketSettings(rule="no-upscale"))
