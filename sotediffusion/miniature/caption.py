"""Says what a scene shows in the model card's tags, group by group in the card's order."""

import random
from collections.abc import Iterable

from sotediffusion.miniature import cast
from sotediffusion.miniature.scene import Person, Scene
from sotediffusion.miniature.vocabulary import AESTHETIC_CUTS, BACKGROUNDS, ERAS, HELD, QUALITY_CUTS, cut

GROUPS = ("aesthetic", "quality", "date", "custom", "rating", "character", "series", "rest")
DATED_SOURCES = ("image board", "anime wallpaper")  # on the card, pixiv and visual novels are tagged by artist or title instead


def era_of(year: int | None) -> str | None:
    """The date tag of a year; None without a year. Years outside the table take the nearest era."""
    if year is None:
        return None
    return next((era for era, (_, last) in ERAS.items() if year <= last), "newest")


def tags_of(scene: Scene) -> dict[str, list[str]]:
    """Every tag of the scene by group; groups are `GROUPS` in order, empty ones included."""
    era = era_of(scene.year) if scene.source in DATED_SOURCES else None
    return {
        "aesthetic": [cut(scene.aesthetic, AESTHETIC_CUTS)],
        "quality": [cut(scene.quality, QUALITY_CUTS)],
        "date": [era] if era else [],
        "custom": _custom(scene),
        "rating": ["general"],
        "character": _unique(p.character for p in scene.people if p.character),
        "series": _unique(cast.series_of(p.character) for p in scene.people if p.character),
        "rest": _rest(scene),
    }


def caption(scene: Scene, rng: random.Random | None = None) -> str:
    """The comma-separated caption in the card's order, or shuffled by `rng` as the trainer reads it."""
    tags = [tag for group in tags_of(scene).values() for tag in group]
    if rng:
        rng.shuffle(tags)
    return ", ".join(tags)


def _unique(tags: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(tags))


def _custom(scene: Scene) -> list[str]:
    tags = []
    if scene.artist:
        tags.append(f"art by {scene.artist}")
    if scene.visual_novel:
        tags += [f"{scene.visual_novel} ({cast.VISUAL_NOVELS[scene.visual_novel]})", "visual novel cg"]
    if scene.source == "anime wallpaper":
        tags.append("anime wallpaper")
    if scene.text:
        tags.append(f'The text says "{scene.text}"')
    return tags


def _rest(scene: Scene) -> list[str]:
    place = BACKGROUNDS[scene.background]
    tags = _counts(scene.people)
    for person in scene.people:
        tags += _person_tags(person, scene.framing, scene.monochrome)
    tags += [place] if place else []
    tags += [scene.background, scene.framing]
    tags += ["monochrome"] * scene.monochrome + ["realistic"] * scene.realistic
    return _unique(tags)


def _counts(people: tuple[Person, ...]) -> list[str]:
    girls = sum(p.kind == "girl" for p in people)
    boys = len(people) - girls
    tags = [f"{n}{kind}{'s' * (n > 1)}" for n, kind in ((girls, "girl"), (boys, "boy")) if n]
    return tags + ["solo"] * (len(people) == 1)


def _person_tags(person: Person, framing: str, monochrome: bool) -> list[str]:
    """Only what can be seen: greys and closed eyes have no colour, and a portrait shows no outfit below the collar."""
    shut = person.expression == "closed eyes"
    tags = [person.ears, person.headwear, None if monochrome else f"{person.hair_color} hair",
            None if shut or monochrome else f"{person.eye_color} eyes",
            person.hair_length, person.hair_style, "glasses" if person.glasses else None,
            "bare shoulders" if person.bare_shoulders else None, None if shut else person.gaze, person.expression,
            "blush" if person.blush else None, person.outfit if framing != "portrait" else None,
            HELD[person.held] if person.held else None]
    return [tag for tag in tags if tag]
