"""Chooses what a picture shows: one random scene per (seed, index), spread so that every tag is seen often."""

import math
import random
from collections.abc import Sequence
from typing import Any

from sotediffusion.miniature import cast
from sotediffusion.miniature.palette import CLOTH
from sotediffusion.miniature.scene import Person, Scene
from sotediffusion.miniature.vocabulary import (
    AESTHETIC_CUTS,
    ANIMAL_EARS,
    BACKGROUNDS,
    BARE_SHOULDER_OUTFITS,
    ERAS,
    EXPRESSIONS,
    EYE_COLORS,
    FRAMINGS,
    GAZES,
    HAIR_COLORS,
    HEADWEAR,
    HELD,
    OUTFITS,
    QUALITY_CUTS,
    SOURCES,
    WORDS,
)

STYLES_BY_LENGTH = {  # which cuts exist at which length
    "short hair": ("straight hair", "wavy hair", "spiky hair", "bob cut"),
    "medium hair": ("straight hair", "wavy hair", "spiky hair", "bob cut", "ponytail", "twintails", "braid", "hair bun"),
    "long hair": ("straight hair", "wavy hair", "hime cut", "ponytail", "twintails", "braid", "hair bun"),
}
BOY_STYLES = ("straight hair", "wavy hair", "spiky hair", "ponytail")
GIRL_OUTFITS_ONLY = ("dress", "maid")
ASPECTS = {  # source -> width / height of its pictures
    "image board": (1.0, 2 / 3, 3 / 4, 5 / 7, 0.5625, 0.6, 4 / 3, 3 / 2),
    "pixiv": (1.0, 2 / 3, 3 / 4, 5 / 7, 0.5625, 0.6),
    "visual novel cg": (4 / 3, 16 / 10, 16 / 9),
    "anime wallpaper": (16 / 10, 16 / 9, 16 / 9, 4 / 3),
}
SMALLEST_AREA, LARGEST_AREA = 768_000, 3_000_000  # px
WIDEST = {"portrait": 9.0, "upper body": 9.0, "cowboy shot": 1.1,
          "full body": 0.8}  # aspect up to which a framing keeps eyes large
TOP_SHARE = {"aesthetic": 0.2, "quality": 0.32}  # how many pictures have the best tag; the others share the rest evenly


def sample_scene(seed: int, index: int) -> Scene:
    """The scene number `index` of the endless series `seed`; the same numbers always give the same scene."""
    rng = random.Random(f"miniature {seed} {index}")
    source = rng.choices(SOURCES, (55, 17, 14, 14))[0]
    aspect = rng.choice(ASPECTS[source])
    width, height = _size(rng, aspect)
    framing = rng.choices(*_framings(aspect))[0]
    people = _people(rng, framing, count=2 if rng.random() < 0.12 else 1)
    named = [p.character for p in people if p.character]
    return Scene(
        seed=rng.getrandbits(48), people=people, background=rng.choice(tuple(BACKGROUNDS)), framing=framing,
        width=width, height=height,
        year=None if rng.random() < 0.06 else rng.randint(*rng.choice(tuple(ERAS.values()))),
        source=source,
        aesthetic=_score(rng, AESTHETIC_CUTS, TOP_SHARE["aesthetic"]), quality=_score(rng, QUALITY_CUTS, TOP_SHARE["quality"]),
        artist=rng.choice(tuple(cast.ARTISTS)) if source == "pixiv" else None,
        series=cast.series_of(named[0]) if named else None,
        visual_novel=rng.choice(tuple(cast.VISUAL_NOVELS)) if source == "visual novel cg" else None,
        text=rng.choice(WORDS) if rng.random() < 0.09 and source != "visual novel cg" else None,
        monochrome=rng.random() < 0.045, realistic=rng.random() < 0.045,
    )


def _size(rng: random.Random, aspect: float) -> tuple[int, int]:
    area = math.exp(rng.uniform(math.log(SMALLEST_AREA * 1.02), math.log(LARGEST_AREA * 0.98)))
    return round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))


def _framings(aspect: float) -> tuple[list[str], list[float]]:
    weights = dict(zip(FRAMINGS, (22, 38, 34, 46), strict=True))
    fitting = [name for name in FRAMINGS if aspect <= WIDEST[name]]
    return fitting, [weights[name] for name in fitting]


def _score(rng: random.Random, cuts: Sequence[tuple[float, str]], top_share: float) -> float:
    """A score in [0, 1]: first a tag, then evenly within that tag's interval."""
    chosen = 0 if rng.random() < top_share else rng.randrange(1, len(cuts))
    high = 1.0 if chosen == 0 else cuts[chosen - 1][0]
    low = max(0.0, cuts[chosen][0])
    return high - (high - low) * rng.random() if chosen else low + (high - low) * (1 - rng.random())


def _people(rng: random.Random, framing: str, count: int) -> tuple[Person, ...]:
    pairs: tuple[tuple[str, ...], ...] = (("girl", "girl"), ("girl", "boy"), ("boy", "boy"))
    kinds = rng.choices(pairs, (50, 35, 15))[0] if count == 2 else rng.choices((("girl",), ("boy",)), (76, 24))[0]
    if rng.random() < 0.27:
        return _named_people(rng, framing, count)
    people: list[Person] = []
    for kind in kinds:
        people.append(_person(rng, framing, kind, {}, avoid=tuple(p.hair_color for p in people)))
    return tuple(people)


def _named_people(rng: random.Random, framing: str, count: int) -> tuple[Person, ...]:
    names = rng.sample(cast.SERIES[rng.choice(tuple(cast.SERIES))], count)
    return tuple(_person(rng, framing, str(cast.CHARACTERS[n]["kind"]), cast.CHARACTERS[n] | {"character": n}) for n in names)


def _person(rng: random.Random, framing: str, kind: str, fixed: dict[str, Any], avoid: tuple[str, ...] = ()) -> Person:
    length = rng.choice(tuple(STYLES_BY_LENGTH)) if kind == "girl" else rng.choices(tuple(STYLES_BY_LENGTH), (5, 3, 2))[0]
    styles = STYLES_BY_LENGTH[length] if kind == "girl" else tuple(s for s in STYLES_BY_LENGTH[length] if s in BOY_STYLES)
    outfit = rng.choice([o for o in OUTFITS if kind == "girl" or o not in GIRL_OUTFITS_ONLY])
    ears = rng.choice(ANIMAL_EARS) if rng.random() < 0.5 else None
    looks: dict[str, Any] = dict(
        kind=kind, hair_color=rng.choice([c for c in HAIR_COLORS if c not in avoid]), hair_length=length,
        hair_style=rng.choice(styles),
        eye_color=rng.choice(EYE_COLORS), expression=rng.choices(EXPRESSIONS, (3, 1, 1, 1, 1, 1, 1, 1.5))[0],
        gaze=rng.choices(GAZES, (0.65, 0.35))[0], outfit=outfit, outfit_color=rng.choice(tuple(CLOTH)), ears=ears,
        headwear=_headwear(rng, kind, ears), glasses=rng.random() < 0.18, blush=rng.random() < 0.22,
        held=rng.choice(tuple(HELD)) if framing != "portrait" and rng.random() < 0.62 else None,
    )
    if fixed:  # a character's ears and hats are part of who it is
        looks |= dict(ears=None, headwear=None, glasses=False) | fixed
    looks["bare_shoulders"] = kind == "girl" and looks["outfit"] in BARE_SHOULDER_OUTFITS and rng.random() < 0.6
    if looks["bare_shoulders"] and looks["outfit_color"] == "beige":  # cloth is never the colour of skin
        looks["outfit_color"] = "white"
    if looks["expression"] == "closed eyes":
        looks["gaze"] = GAZES[1]
    return Person(**looks)


def _headwear(rng: random.Random, kind: str, ears: str | None) -> str | None:
    """Hats would hide ears, so only a ribbon goes with them."""
    if rng.random() > 0.45:
        return None
    if ears:
        return "hair ribbon" if kind == "girl" and rng.random() < 0.5 else None
    return rng.choice([h for h in HEADWEAR if kind == "girl" or h != "hair ribbon"])
