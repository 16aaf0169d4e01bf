"""Draws a scene: background, figures, trimmings, then greys and damage."""

import math
import random
from dataclasses import replace

import numpy as np
import skia
from PIL import Image

from sotediffusion.miniature.atmosphere import draw_light_before, draw_light_behind
from sotediffusion.miniature.backgrounds import draw_background
from sotediffusion.miniature.brush import Brush
from sotediffusion.miniature.compose import SOLES, Layout, lay_out
from sotediffusion.miniature.damage import shown_size, spoil
from sotediffusion.miniature.extras import draw_extras
from sotediffusion.miniature.figure import draw_person
from sotediffusion.miniature.manner import beauty_of, style_of
from sotediffusion.miniature.scene import Scene


def render(scene: Scene, width: int, height: int) -> np.ndarray:
    """The picture of a scene as uint8 (height, width, 3); other sizes of one aspect show the same picture rescaled."""
    layout = lay_out(scene, width / height)
    pixels = np.zeros((*shown_size(scene.quality, width, height)[::-1], 4), dtype=np.uint8)
    canvas = skia.Surface(pixels, colorType=skia.kRGBA_8888_ColorType).getCanvas()
    canvas.scale(pixels.shape[1] / layout.width, pixels.shape[0] / layout.height)
    _draw(Brush(canvas, layout.width, layout.height, style_of(scene), random.Random()), scene, layout)
    image = Image.fromarray(pixels).convert("RGB")
    if scene.monochrome:
        image = image.convert("L").convert("RGB")
    image = spoil(image, scene.quality, scene.seed)
    return np.asarray(image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR))


def _draw(brush: Brush, scene: Scene, layout: Layout) -> None:
    """Every layer, from the far wall to the speech bubble."""
    beauty = beauty_of(scene)
    brush.canvas.save()
    _lean(brush.canvas, layout)
    draw_background(_fresh(brush, scene, "place"), scene.background, beauty)
    brush.canvas.restore()
    draw_light_behind(_fresh(brush, scene, "behind"), beauty)
    if scene.framing == "full body":
        for place in layout.places:
            feet = (place.x, place.top + SOLES * place.head)
            brush.oval(feet, (0.62 * place.head, 0.09 * place.head), (40, 30, 60), alpha=0.28)
    for index, (person, place) in enumerate(zip(scene.people, layout.places, strict=True)):
        draw_person(brush.canvas, person, brush.style, place, random.Random(f"person {index} {scene.seed}"))
    draw_light_before(_fresh(brush, scene, "before"), beauty)
    draw_extras(_fresh(brush, scene, "extras"), scene, layout)


def _fresh(brush: Brush, scene: Scene, layer: str) -> Brush:
    """The same brush with the layer's own dice, so that no layer changes when another one does."""
    return replace(brush, rng=random.Random(f"{layer} {scene.seed}"))


def _lean(canvas: skia.Canvas, layout: Layout) -> None:
    """Tilts the camera; the scene is enlarged so that its corners still cover the frame."""
    lean = abs(math.radians(layout.tilt))
    stretch = max(layout.width / layout.height, layout.height / layout.width)
    grown = math.cos(lean) + math.sin(lean) * stretch
    canvas.translate(layout.width / 2, layout.height / 2)
    canvas.rotate(layout.tilt)
    canvas.scale(grown, grown)
    canvas.translate(-layout.width / 2, -layout.height / 2)
