"""Cut, rules and compose once more, one picture after another and as plainly as can be written: what the fast ones must equal."""

import json
from fnmatch import fnmatch
from itertools import product
from string import Formatter

import numpy as np

from sotediffusion.curate.compose.tagrules import GROUPS
from sotediffusion.curate.compose.vocabulary import word
from sotediffusion.curate.tag.taglist import words
from sotediffusion.curate.text.step import says
from sotediffusion.safety.rating import RATINGS

KINDS = {"0": "general", "4": "character"}


def cut(picture: dict, settings, tags) -> dict:
    """What `Cut` says of one picture."""
    listed = zip(tags.names, tags.categories, strict=True)
    known = [word(name, KINDS.get(kind, "other"), settings.not_series) for name, kind in listed]
    by_text: dict = {}
    for one in known:
        by_text.setdefault(one.name, one)
        if one.series:
            by_text.setdefault(f"{one.name} ({one.series})", one)
    for one in known:
        if one.series:
            by_text.setdefault(one.series, word(one.series, "series"))
    if not any(picture.get(f"side_{kind}") for kind in ("tags", "character", "series", "general")):
        picture = picture | {"side_tags": picture.get("group_tags")}
    side = [] if settings.merge == "tagger" else list(side_words(picture, settings, by_text))
    seen = list(tagged(picture, settings, tags, known))
    found: dict[str, list[str]] = {"character": [], "series": [], "general": []}
    said = any(one.name and one.kind in found for one in side)
    for one in side if said and settings.merge == "sidecar" else side + seen:
        if one.kind in found and one.name:
            found[one.kind].append(one.name)
        if one.series:
            found["series"].append(one.series)
    return {"rating": rating(picture, settings), **{kind: list(dict.fromkeys(names)) for kind, names in found.items()}}


def side_words(picture, settings, by_text):
    kinds = ("character", "series", "general", "artist", "meta")
    told = {tag for kind in kinds for tag in picture.get(f"side_{kind}") or ()}
    for tag in picture.get("side_tags") or ():
        if tag not in told:
            plain = word(tag, "general", settings.not_series)
            yield by_text.get(plain.name, plain) if plain.name else plain
    for kind in kinds[:3]:
        yield from (word(tag, kind, settings.not_series) for tag in picture.get(f"side_{kind}") or ())


def tagged(picture, settings, tags, known):
    for place, probability in zip(picture.get("tag_ids") or (), picture.get("tag_probs") or (), strict=True):
        name, own = tags.names[place], settings.thresholds
        bound = {"general": settings.general, "character": settings.character}.get(KINDS.get(tags.categories[place]), np.inf)
        if np.float32(np.float16(probability)) >= np.float32(own.get(name, own.get(words(name), bound))):
            yield known[place]


def rating(picture, settings):
    head = picture.get("rating_probs")
    head = RATINGS[max(range(4), key=lambda place: np.float32(head[place]))] if head else None
    letter = dict(zip("gsqe", RATINGS, strict=True)).get(picture.get("side_rating"))
    told = {**{name: name for name in RATINGS}, "questionable": "nsfw", "explicit": "explicit nsfw"}
    tag = next((told[tag] for tag in picture.get("side_tags") or () if tag in told), None)
    return (head or letter or tag) if settings.rating == "tagger" else (letter or head or tag)


def caption(picture: dict, settings, rules) -> list[dict]:
    """The caption that `Compose` makes of one picture; `rules` are its compiled ones, asked for names alone."""
    general = picture.get("general") or []
    earlier = [tag for tag in general if tag.startswith('The text says "')]
    groups = {name: picture.get(name) or [] for name in ("custom", "character", "series")}
    groups |= {name: [picture[name]] if picture.get(name) is not None else [] for name in ("date", "rating")}
    for name, table, score in (("aesthetic", settings.aesthetic, "score_aesthetic_shadow_v2"),
                               ("quality", settings.quality, "score_aes_b32_v0")):  # fmt: skip
        groups[name] = [tag] if (tag := level(picture.get(score), table)) else []
    groups["rest"] = [tag for tag in general if tag not in earlier]
    groups["rest"] += [tag for column, tag in settings.measured.items() if picture.get(column)]
    text = says(picture.get("text")) or next(iter(earlier), None)
    scheme = {*settings.tags.scheme, *levels(settings.aesthetic), *levels(settings.quality)}
    named = {name: [tag for tag in map(rules.name, groups.get(name, ())) if tag] for name in GROUPS}
    named["rest"] = [tag for tag in named["rest"] if tag not in scheme]
    said = {other for tags in named.values() for tag in tags for other in says_besides(tag, settings.tags)}
    made = []
    for name in GROUPS:
        tags = [tag for tag in dict.fromkeys(named[name]) if tag not in said]
        said |= set(tags)
        tags = [text] if name == "text" and text else tags
        made += [{"group": name, "tags": tags}] if tags else []
    return made


def says_besides(tag: str, settings) -> set[str]:
    said = set(settings.implications.get(tag, ()))
    if settings.implied == "words" and not tag.startswith(("no ", "without ")):
        parts = tag.split(" ")
        said |= {" ".join(parts[place:]) for place in range(1, len(parts))}
    return said | {further for one in said for further in says_besides(one, settings)}


def levels(table) -> list[str]:
    return [*(tag for _, tag in table.cuts), table.rest]


def level(score, table):
    if score is None or np.isnan(score):
        return None
    return next((tag for bound, tag in table.cuts if np.float32(score) > np.float32(bound)), table.rest)


def judge(picture: dict, settings) -> dict:
    """What `Rules` says of one picture."""
    names = [name.removesuffix(".tar") for name in picture["path"].rpartition("/")[0].replace("::", "/").split("/")]
    own = next((source for source in settings.sources if holds(source, names, picture)), None)
    custom = []
    for rule in ([own] if own else []) + [rule for rule in settings.custom if holds(rule, names, picture)]:
        keep = getattr(rule, "keep", ())
        custom += [words(tag) for tag in picture.get("side_tags") or () if tag and fits(words(tag), keep)]
        for template in rule.tags:
            choices = (fill(choice.strip(), below(rule, names) or "", picture) for choice in template.split(" | "))
            custom += next((tags for tags in choices if tags), [])
    date = era(picture, names, settings) if own is None or own.dated else None
    source = own.name if own else picture.get("side_site") or settings.other
    return {"date": date, "source": source, "custom": list(dict.fromkeys(custom))}


def era(picture, names, settings):
    year = (date_of(picture) or "")[:4]
    if len(year) == 4 and year.isascii() and year.isdigit():
        found = [one.tag for one in settings.eras if int(year) >= max(one.since, 1900)]
        if found:
            return found[0]
    tags = [tag for tag in picture.get("side_tags") or () if tag in {one.tag for one in settings.eras}]
    folders = [one.tag for name in reversed(names) for one in settings.eras if fits(name, one.folders)]
    return next(iter([*tags, *folders]), None)


def date_of(picture):
    return picture.get("side_date") or picture.get("group_date")


def fits(text, patterns) -> bool:
    return any(fnmatch(text.lower(), pattern.lower()) for pattern in patterns)


def below(rule, names):
    place = next((place for place, name in enumerate(names) if fits(name, rule.folders)), None)
    return None if place is None else (*names, "")[place + 1]


def holds(rule, names, picture) -> bool:
    values = field(rule.field, picture) if rule.field else []
    return below(rule, names) is not None or any(not rule.values or fits(value, rule.values) for value in values)


def field(name, picture) -> list[str]:
    known = {"site": ["side_site"], "artist": ["side_artist"], "series": ["side_series"],
             "tags": ["side_tags", "side_general", "side_meta"]}  # fmt: skip
    if name == "date":
        found = [date_of(picture)]
    elif name in known:
        found = [picture.get(column) for column in known[name]]
    else:
        try:
            value = json.loads(picture.get("side_extra") or "null")
        except ValueError:
            value = None
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        found = [value]
    flat = [item for one in found for item in (one if isinstance(one, list) else [one])]
    return [str(item) for item in flat if isinstance(item, str | int | float) and not isinstance(item, bool) and item != ""]


def fill(template, folder, picture) -> list[str]:
    names = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    values = [[folder] if name == "folder" else field(name, picture) for name in names]
    if not all(any(one) for one in values):
        return []
    filled = []
    for chosen in product(*values):
        given = iter(chosen)
        parts = [text + (next(given) if name is not None else "") for text, name, _, _ in Formatter().parse(template)]
        filled.append(" ".join(words("".join(parts)).replace(",", " ").split()))
    return filled
