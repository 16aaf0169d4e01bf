"""What models are shown: each view equals the input that the model's own preprocessor makes."""

import pickle

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from tiny_models import CLIP, SHADOW
from transformers import CLIPImageProcessorPil, ViTImageProcessorPil

from sotediffusion.curate.inference.resampling import resized
from sotediffusion.curate.inference.turning import BAND, turn
from sotediffusion.curate.inference.views import FILTERS, batch, centre, centre_view, square, square_view, squashed, squashed_view

SIZES = [(300, 200), (200, 300), (97, 1024), (1100, 701), (448, 448), (64, 31), (7, 4), (447, 449)]  # height, width


def picture(height: int, width: int) -> np.ndarray:
    """Shapes and noise: smooth parts, hard edges and every value."""
    random = np.random.default_rng(height * 5000 + width)
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([(x * 255 // max(width - 1, 1)), (y * 255 // max(height - 1, 1)), (x + y) % 256], axis=2)
    return np.where((x // 37 + y // 23)[..., None] % 2, smooth, random.integers(0, 256, (height, width, 3))).astype(np.uint8)


def kohyas(image: np.ndarray, size: int) -> np.ndarray:
    """Written down again in numpy: BGR, padded with white to a centred square, the odd pixel behind, then one resize."""
    height, width = image.shape[:2]
    side = max(height, width)
    padded = np.full((side, side, 3), 255, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    padded[top : top + height, left : left + width] = image[:, :, ::-1]
    return cv2.resize(padded, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_LANCZOS4)


@pytest.mark.parametrize(("height", "width"), [*SIZES, (1344, 900), (2001, 40), (33, 1999), (500, 16), (500, 15)])
def test_the_taggers_view_is_kohyas(height, width):
    image = picture(height, width)
    assert np.array_equal(square(image), kohyas(image, 448))


SIDES = st.integers(1, 5 * BAND + 3)


@given(SIDES, SIDES, st.integers(16, 130))
@example(BAND, 3 * BAND, BAND)  # a whole factor
@example(BAND + 1, 300, 299)  # hardly any shrinking
@example(16, 4 * BAND + 1, 16)
@example(4 * BAND + 7, 17, 100)
def test_the_taggers_view_of_any_size_is_opencvs_to_the_bit(height, width, size):
    image = picture(height, width)
    assert np.array_equal(square(image, size), kohyas(image, size))


WANTED = st.integers(1, 3 * BAND)


@given(SIDES, SIDES, WANTED, WANTED, st.sampled_from(FILTERS), st.randoms(use_true_random=False))
@example(2 * BAND + 1, 300, 70, 290, 3, None)  # down the columns first
@example(300, 2 * BAND + 1, 290, 70, 3, None)
@example(16, 16, 150, 150, 2, None)
def test_resizing_and_cutting_out_is_pillows_to_the_bit(height, width, high, wide, filter, dice):
    image = picture(height, width)
    top, left = (dice.randrange(high), dice.randrange(wide)) if dice else (0, 0)
    rows, columns = (dice.randint(1, high - top), dice.randint(1, wide - left)) if dice else (high, wide)
    wanted = np.asarray(Image.fromarray(image).resize((wide, high), filter))[top : top + rows, left : left + columns]
    assert np.array_equal(resized(image, high, wide, filter, (top, left, rows, columns)), wanted)


@given(st.integers(8, BAND), st.integers(8, 300))
def test_turning_reaches_every_byte_and_no_other(rows, width):
    source = np.random.default_rng(rows * width).integers(1, 256, (rows, width)).astype(np.uint8)
    to = np.zeros((width, BAND), np.uint8)
    turn(source, to)
    assert np.array_equal(to[:, :rows], source.T) and not to[:, rows:].any()


@pytest.mark.parametrize("value", [0, 255])
def test_edges_of_full_contrast_are_clipped_as_pillow_clips_them(value):
    image = np.full((200, 300, 3), 255 - value, np.uint8)
    image[:, ::2] = value
    for filter in FILTERS:
        wanted = np.asarray(Image.fromarray(image).resize((131, 77), filter))
        assert np.array_equal(resized(image, 77, 131, filter), wanted)


def test_a_square_of_the_size_itself_comes_unchanged():
    image = picture(448, 448)
    assert np.array_equal(square(image), image[:, :, ::-1])


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_squashed_view_is_the_vit_preprocessors(height, width):
    image = picture(height, width)
    processor = ViTImageProcessorPil(size={"height": 256, "width": 256}, resample=2, do_rescale=True, do_normalize=True, **SHADOW)
    wanted = processor(image, return_tensors="np")["pixel_values"]
    ours = batch(squashed(image, 256, 2)[None], tuple(SHADOW["image_mean"]), tuple(SHADOW["image_std"]))
    assert ours.dtype == np.float32 and ours.flags.c_contiguous
    assert np.abs(ours - wanted).max() < 2e-6


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_centre_view_is_clips_preprocessors(height, width):
    image = picture(height, width)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224}, resample=3, **CLIP)
    wanted = processor(image, return_tensors="np")["pixel_values"]
    ours = batch(centre(image, 224, 3)[None], tuple(CLIP["image_mean"]), tuple(CLIP["image_std"]))
    assert np.abs(ours - wanted).max() < 2e-6


@pytest.mark.parametrize("view", [square_view(), square_view(64), squashed_view(1024), centre_view(224), centre_view(32, 2)])
def test_views_pickle_and_have_the_shape_they_promise(view):
    made = pickle.loads(pickle.dumps(view)).make(picture(120, 80))
    assert made.shape == view.shape and str(made.dtype) == view.dtype


def test_models_that_want_the_same_share_a_view():
    assert square_view().name == square_view(448).name != square_view(449).name
    assert squashed_view(64, 2).name != squashed_view(64, 3).name != centre_view(64, 3).name
