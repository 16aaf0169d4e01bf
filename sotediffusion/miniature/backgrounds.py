"""The places behind the figures: looks up the painter of a name of `vocabulary.BACKGROUNDS`, and softens it for depth."""

from dataclasses import replace

import skia

from sotediffusion.miniature import nature, rooms, town
from sotediffusion.miniature.brush import Brush

SOFT_SCALE = 0.16  # px per unit
PAINTERS = {
    "living room": rooms.living_room, "bedroom": rooms.bedroom, "library": rooms.library, "cafe": rooms.cafe,
    "night sky": nature.night_sky, "beach": nature.beach, "forest": nature.forest, "mountain": nature.mountain,
    "snow": nature.snow, "city": town.city, "simple background": town.simple_background,
}


def draw_background(brush: Brush, place: str, beauty: float) -> None:
    """Paints the whole canvas with `place`; below a `beauty` of 0.5 its colours clash more and more with the figure's."""
    canvas = brush.canvas
    ugliness = max(0.0, 0.5 - beauty) / 0.5
    turn = brush.rng.choice((-1, 1)) * brush.rng.uniform(0.6, 1) * 75 * ugliness
    saturation = brush.style.saturation * (1 + 0.35 * ugliness)
    style = replace(brush.style, hue_shift=brush.style.hue_shift + turn, saturation=saturation)
    canvas.save()
    if brush.rng.random() < 0.5:
        canvas.translate(brush.width, 0)
        canvas.scale(-1, 1)
    if style.realistic:
        _out_of_focus(replace(brush, style=style), place)
    else:
        PAINTERS[place](replace(brush, style=style))
    canvas.restore()


def _out_of_focus(brush: Brush, place: str) -> None:
    """A lens leaves the far side soft: painted small, blurred, and enlarged."""
    width, height = round(brush.width * SOFT_SCALE), round(brush.height * SOFT_SCALE)
    sharp, soft = skia.Surface(width, height), skia.Surface(width, height)
    sharp.getCanvas().scale(SOFT_SCALE, SOFT_SCALE)
    PAINTERS[place](replace(brush, canvas=sharp.getCanvas()))
    blur = skia.Paint(ImageFilter=skia.ImageFilters.Blur(2, 2, skia.TileMode.kClamp))
    soft.getCanvas().drawImage(sharp.makeImageSnapshot(), 0, 0, skia.SamplingOptions(), blur)
    whole = skia.Rect(0, 0, brush.width, brush.height)
    brush.canvas.drawImageRect(soft.makeImageSnapshot(), whole, skia.SamplingOptions(skia.FilterMode.kLinear))
