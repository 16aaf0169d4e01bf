"""Figures: the same seed gives the same pixels, and every word of the vocabulary can be seen."""

import random
from dataclasses import replace

import numpy as np
import pytest
import skia

from sotediffusion.miniature import vocabulary
from sotediffusion.miniature.figure import Place, draw_person, headroom
from sotediffusion.miniature.palette import CLOTH, EYES, HAIR, luma
from sotediffusion.miniature.scene import Person
from sotediffusion.miniature.style import Style

PLAIN = Person("girl", "pink", "long hair", "straight hair", "orange", "smile", "looking at viewer", "casual", "blue")
GROUND = (200, 214, 226)
HEADS = {"portrait": 0.58, "upper body": 0.46, "cowboy shot": 0.36, "full body": 0.26}  # of the height of a 256 px picture


def drawn(person: Person, framing: str = "upper body", seed: int = 0, size: int = 256, **style: object) -> np.ndarray:
    pixels = np.empty((size, size, 4), np.uint8)
    pixels[:] = (*GROUND, 255)
    canvas = skia.Surface(pixels, colorType=skia.kRGBA_8888_ColorType).getCanvas()
    head = HEADS[framing] * size
    draw_person(canvas, person, Style(**style), Place(size / 2, 0.3 * head, head, 0, framing), random.Random(seed))
    return pixels[:, :, :3].astype(np.int16)


def changed(a: np.ndarray, b: np.ndarray) -> int:
    """Pixels that differ clearly."""
    return int((np.abs(a - b).max(axis=2) > 24).sum())


def extent(a: np.ndarray, b: np.ndarray) -> int:
    """The longer side, in px, of the box in which two pictures differ clearly."""
    ys, xs = np.nonzero(np.abs(a - b).max(axis=2) > 24)
    return int(max(np.ptp(ys), np.ptp(xs)) + 1) if len(ys) else 0


def eye_box(pixels: np.ndarray, framing: str) -> np.ndarray:
    """The patch round the eye on the left."""
    unit = HEADS[framing] * len(pixels) / 100
    x, y = len(pixels) / 2 - 19.5 * unit, (30 + 60) * unit
    return pixels[round(y - 10 * unit):round(y + 10 * unit), round(x - 9 * unit):round(x + 9 * unit)]


VARIANTS = {
    "hair_color": vocabulary.HAIR_COLORS,
    "hair_length": vocabulary.HAIR_LENGTHS,
    "hair_style": vocabulary.HAIR_STYLES,
    "eye_color": vocabulary.EYE_COLORS,
    "expression": vocabulary.EXPRESSIONS,
    "gaze": vocabulary.GAZES,
    "outfit": vocabulary.OUTFITS,
    "outfit_color": tuple(CLOTH),
    "ears": (None, *vocabulary.ANIMAL_EARS),
    "headwear": (None, *vocabulary.HEADWEAR),
    "held": (None, *vocabulary.HELD),
    "glasses": (False, True),
    "blush": (False, True),
    "kind": ("girl", "boy"),
}


def test_the_same_seed_gives_the_same_pixels_and_another_seed_others() -> None:
    person = replace(PLAIN, held="guitar", ears="cat ears", gaze="looking to the side")
    assert np.array_equal(drawn(person, seed=5), drawn(person, seed=5))
    assert any(changed(drawn(person, seed=5), drawn(person, seed=s)) > 100 for s in range(6, 9))


@pytest.mark.parametrize("field", VARIANTS)
def test_every_value_is_told_apart_from_every_other_by_pixels(field: str) -> None:
    pictures = {value: drawn(replace(PLAIN, **{field: value})) for value in VARIANTS[field]}
    values = list(pictures)
    for i, a in enumerate(values):
        for b in values[:i]:
            assert changed(pictures[a], pictures[b]) >= 100, (a, b)


@pytest.mark.parametrize("outfit", vocabulary.BARE_SHOULDER_OUTFITS)
def test_bare_shoulders_show_skin_where_the_outfit_was(outfit: str) -> None:
    assert changed(drawn(replace(PLAIN, outfit=outfit)), drawn(replace(PLAIN, outfit=outfit, bare_shoulders=True))) > 400


@pytest.mark.parametrize("framing", vocabulary.FRAMINGS)
@pytest.mark.parametrize("field, values", [
    ("ears", vocabulary.ANIMAL_EARS), ("headwear", vocabulary.HEADWEAR), ("glasses", (True,)), ("blush", (True,)),
    ("held", tuple(vocabulary.HELD)), ("expression", vocabulary.EXPRESSIONS[1:]),
])
def test_judged_features_span_twenty_pixels_at_256(framing: str, field: str, values: tuple[object, ...]) -> None:
    plain = drawn(PLAIN, framing)
    for value in values:
        assert extent(plain, drawn(replace(PLAIN, **{field: value}), framing)) >= 20, value


@pytest.mark.parametrize("framing", vocabulary.FRAMINGS)
def test_an_eye_is_twenty_pixels_wide_at_256(framing: str) -> None:
    left = slice(0, 128)
    shut = drawn(replace(PLAIN, expression="closed eyes"), framing)[:, left]
    assert extent(drawn(PLAIN, framing)[:, left], shut) >= 20


@pytest.mark.parametrize("style", [{}, {"shading": 0, "saturation": 0.8, "muted": 0.35}, {"softness": 1.0, "saturation": 1.15}])
@pytest.mark.parametrize("name", vocabulary.HAIR_COLORS)
def test_drawn_hair_is_nearest_to_its_own_name(name: str, style: dict[str, float]) -> None:
    bald_spot = drawn(replace(PLAIN, hair_color=name), "portrait", **style)
    unit = HEADS["portrait"] * 256 / 100
    patch = bald_spot[round(22 * unit):round(60 * unit), round(128 - 25 * unit):round(128 + 25 * unit)].reshape(-1, 3)
    assert nearest(np.median(patch, axis=0), HAIR, style) == name


@pytest.mark.parametrize("framing", vocabulary.FRAMINGS)
@pytest.mark.parametrize("name", vocabulary.EYE_COLORS)
def test_drawn_irises_are_nearest_to_their_own_name(name: str, framing: str) -> None:
    others = [eye_box(drawn(replace(PLAIN, eye_color=n), framing), framing) for n in vocabulary.EYE_COLORS]
    iris = np.std(np.stack(others), axis=0).sum(axis=2) > 90  # where the name makes the difference
    mine = others[vocabulary.EYE_COLORS.index(name)][iris]
    assert nearest(np.median(mine, axis=0), EYES, {}) == name


def nearest(color: np.ndarray, names: dict[str, tuple[int, int, int]], style: dict[str, float]) -> str:
    from sotediffusion.miniature.palette import grade

    return min(names, key=lambda n: float(np.sum((np.array(grade(names[n], Style(**style))) - color) ** 2)))


@pytest.mark.parametrize("names", (HAIR, EYES))
def test_named_colours_stay_apart(names: dict[str, tuple[int, int, int]]) -> None:
    colors = np.array(list(names.values()), float)
    gaps = np.linalg.norm(colors[:, None] - colors[None], axis=2) + 1e9 * np.eye(len(colors))
    assert gaps.min() > 45


def test_black_grey_and_white_hair_differ_in_brightness() -> None:
    assert luma(HAIR["black"]) + 80 < luma(HAIR["grey"]) < luma(HAIR["white"]) - 80


@pytest.mark.parametrize("ears, headwear", [(e, None) for e in vocabulary.ANIMAL_EARS] + [(None, h) for h in vocabulary.HEADWEAR])
def test_headroom_says_how_far_the_figure_rises(ears: str | None, headwear: str | None) -> None:
    person = replace(PLAIN, ears=ears, headwear=headwear)
    pixels = np.empty((300, 300, 4), np.uint8)
    pixels[:] = (*GROUND, 255)
    canvas = skia.Surface(pixels, colorType=skia.kRGBA_8888_ColorType).getCanvas()
    draw_person(canvas, person, Style(), Place(150, 120, 100), random.Random(0))
    top = np.nonzero((pixels[:, :, :3] != GROUND).any(axis=(1, 2)))[0][0]
    assert 0 <= top - (120 - 100 * headroom(person)) < 12


@pytest.mark.parametrize("style", [
    {"realistic": True, "softness": 1.0}, {"shading": 0, "muted": 0.6}, {"eye_shape": "sharp"}, {"eye_shape": "tall"},
    {"hue_shift": 12.0}, {"line_width": 2.0}, {"saturation": 0.0}, {"highlights": False}, {"tinted_lines": 1.0},
    {"brightness": 0.8}, {"outline": (200, 40, 40)},
])
def test_every_manner_of_drawing_changes_the_picture(style: dict[str, object]) -> None:
    assert changed(drawn(PLAIN, "portrait"), drawn(PLAIN, "portrait", **style)) > 60
