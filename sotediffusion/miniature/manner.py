"""Turns a scene's date, artist, score and realism into a drawing style, so that each of them can be seen."""

from sotediffusion.miniature import cast
from sotediffusion.miniature.scene import Scene
from sotediffusion.miniature.style import Style
from sotediffusion.miniature.vocabulary import AESTHETIC_CUTS, ERAS

MIDDLE_YEAR = 2016  # how a picture without a date is drawn


def age_of(scene: Scene) -> float:
    """How new the drawing looks, 0 oldest to 1 newest, in even steps from era to era."""
    year = MIDDLE_YEAR if scene.year is None else scene.year
    for step, (first, last) in enumerate(ERAS.values()):
        if year <= last:
            return (step + (max(year, first) - first) / (last - first + 1)) / len(ERAS)
    return 1.0


def beauty_of(scene: Scene) -> float:
    """The aesthetic score in even steps from tag to tag, 0 very displeasing to 1 extremely aesthetic."""
    bounds = [max(0.0, bound) for bound, _ in AESTHETIC_CUTS][::-1] + [1.0]
    for step, (low, high) in enumerate(zip(bounds, bounds[1:], strict=False)):
        if scene.aesthetic <= high:
            return (step + (scene.aesthetic - low) / (high - low)) / len(AESTHETIC_CUTS)
    return 1.0


def style_of(scene: Scene) -> Style:
    """The manner of drawing: the era's, changed by the artist's hand, muddied where the score is low."""
    age, beauty = age_of(scene), beauty_of(scene)
    hand = cast.ARTISTS[scene.artist] if scene.artist else cast.Hand()
    ugliness = max(0.0, 0.55 - beauty) / 0.55
    grace = max(0.0, beauty - 0.45) / 0.55
    return Style(
        line_width=0.0 if scene.realistic else (1.5 - 0.75 * age) * hand.line,
        shading=2 if scene.realistic or age >= 0.6 else int(age >= 0.2),
        saturation=(0.72 + 0.3 * age) * hand.saturation * (1 - 0.08 * ugliness + 0.14 * grace),
        brightness=0.93 + 0.09 * age - 0.06 * ugliness,
        softness=1.0 if scene.realistic else min(1.0, max(0.0, age * 0.9 - 0.2 + hand.softness)),
        eye_shape=hand.eyes or ("tall" if age < 0.4 else "round"),
        hue_shift=-8 * hand.warmth,
        outline=_ink(age),
        tinted_lines=min(1.0, max(0.0, age * 0.8 - 0.1 + hand.outline_tint)),
        muted=max(0.0, 0.4 - 0.55 * age) + 0.05 * ugliness,
        highlights=age >= 0.2 and beauty > 0.15,
        realistic=scene.realistic,
    )


def _ink(age: float) -> tuple[int, int, int]:
    """Black ink long ago, warm dark brown today."""
    return round(24 + 44 * age), round(20 + 22 * age), round(28 + 32 * age)
