"""What kohya's tagger writes beside a picture, at cae5aa0a of sd-scripts, to the byte: names, order, thresholds and files.

Probabilities are compared with thresholds in float32, as numpy 2 does. Its oddities are kept on purpose: alpha is dropped, Exif's
orientation is not heeded, long faces lose their underscores, characters come backwards, an expanded `name, series` is one item.
"""

import re
from dataclasses import dataclass
from io import BytesIO
from os.path import splitext
from pathlib import Path

import numpy as np
from PIL import Image

from sotediffusion.curate.inference.views import Array, square
from sotediffusion.curate.tag.taglist import CHARACTER, GENERAL, RATING, RATINGS, TagList
from sotediffusion.types import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".PNG", ".JPG", ".JPEG", ".WEBP", ".BMP")
KINDS = (GENERAL, CHARACTER, RATING)  # the order in which a replaced name is looked for
Items = tuple[str, ...]


@dataclass(frozen=True)
class Flags:
    """kohya's flags that say what is written, by their names."""

    thresh: float = 0.35
    general_threshold: float | None = None  # None: thresh
    character_threshold: float | None = None
    remove_underscore: bool = False
    character_tag_expand: bool = False
    character_tags_first: bool = False
    use_rating_tags: bool = False
    use_rating_tags_as_last_tag: bool = False
    undesired_tags: str = ""
    always_first_tags: str | None = None
    tag_replacement: str | None = None
    append_tags: bool = False
    caption_separator: str = ", "
    caption_extension: str = ".txt"

    @property
    def general(self) -> float:
        """From which probability a general tag counts."""
        return self.thresh if self.general_threshold is None else self.general_threshold

    @property
    def character(self) -> float:
        """From which probability a character counts."""
        return self.thresh if self.character_threshold is None else self.character_threshold

    @property
    def cut(self) -> str:
        """Where an existing caption is taken apart."""
        return self.caption_separator.strip()


@dataclass(frozen=True)
class Chosen:
    """What is said of one picture: the items in the order of the file, and by group, undesired ones left out."""

    items: Items
    general: Items
    characters: Items
    rating: Items  # one or none


class Kohya:
    """kohya's manner of finding files, reading pictures, choosing items and writing them."""

    one_each = False  # a.jpg and a.png write one caption, one after the other

    def __init__(self, flags: Flags, tags: TagList):
        """UserError: a separator of spaces only, a replacement that is not `source,target`."""
        if not flags.cut:
            raise UserError("caption_separator", f"{flags.caption_separator!r} separates nothing; write for example ', '")
        self.flags = flags
        self.undesired = {tag.strip() for tag in flags.undesired_tags.split(flags.cut)} - {""}
        self.first = [tag for tag in (flags.always_first_tags or "").split(flags.cut) if tag.strip()]
        groups = self.names({kind: tags.of(kind) for kind in KINDS})
        self.general, self.character, self.rating = (groups[kind] for kind in KINDS)

    def names(self, groups: dict[str, list[str]]) -> dict[str, list[Items]]:
        """The list's names of each kind as items of a caption."""
        if self.flags.character_tag_expand:
            groups[CHARACTER] = [expanded(name, self.flags.caption_separator) for name in groups[CHARACTER]]
        if self.flags.remove_underscore:
            groups = {kind: [spaced(name) for name in names] for kind, names in groups.items()}
        for source, target in replacements(self.flags.tag_replacement):
            group = next((names for names in groups.values() if source in names), [])
            if group:
                group[group.index(source)] = target
        return {kind: [(name,) for name in names] for kind, names in groups.items()}

    def is_picture(self, name: str) -> bool:
        """Whether a file of this name is tagged."""
        return name.endswith(SUFFIXES)

    def load(self, content: bytes, size: int) -> Array:
        """The tagger's input of a file: (size, size, 3) BGR. Raises whatever Pillow does for what it cannot read."""
        with Image.open(BytesIO(content)) as image:
            return square(np.asarray(image.convert("RGB")), size)

    def choose(self, probabilities: Array) -> Chosen:
        """What to say of a picture by its probabilities (tags,), float32."""
        passing = [(general, self._desired(items)) for general, items in self._passing(probabilities)]
        general = [item for is_general, items in passing if is_general for item in items]
        characters = [items for is_general, items in passing if not is_general]
        rating = self._rating(probabilities)
        people = [item for items in (reversed(characters) if self.flags.character_tags_first else characters) for item in items]
        items = [*people, *general] if self.flags.character_tags_first else [*general, *people]
        items = [*rating, *items] if self.flags.use_rating_tags else [*items, *rating]
        for tag in self.first:
            if tag in items:
                items.remove(tag)
                items.insert(0, tag)
        return Chosen(tuple(items), tuple(general), tuple(item for items in characters for item in items), rating)

    def _passing(self, probabilities: Array) -> list[tuple[bool, Items]]:
        """Of each tag at or above its threshold, whether it is general, and its items."""
        count = len(self.general)
        bounds = np.full(len(probabilities) - RATINGS, np.float32(self.flags.character))
        bounds[:count] = np.float32(self.flags.general)
        places = np.nonzero(probabilities[RATINGS:] >= bounds)[0].tolist()
        if places and places[-1] >= count + len(self.character):
            raise UserError("model", "a tag that is neither general nor a character passed; give a tagger in the WD contract")
        return [(True, self.general[p]) if p < count else (False, self.character[p - count]) for p in places]

    def _rating(self, probabilities: Array) -> Items:
        """The likeliest rating where it is asked for, the milder on a tie."""
        asked = self.flags.use_rating_tags or self.flags.use_rating_tags_as_last_tag
        return self._desired(self.rating[int(probabilities[:RATINGS].argmax())]) if asked else ()

    def _desired(self, items: Items) -> Items:
        return tuple(item for item in items if item not in self.undesired)

    def caption_path(self, picture: Path) -> Path:
        """The picture's name with the extension as it was given: "txt" without a dot makes a.png into atxt."""
        return Path(splitext(picture)[0] + self.flags.caption_extension)

    def read(self, content: bytes) -> list[str]:
        """The items of a caption file; UnicodeDecodeError where it is not UTF-8."""
        text = re.sub("\r\n?", "\n", content.decode("utf-8")).strip("\n")
        return [item.strip() for item in text.split(self.flags.cut) if item.strip()]

    def write(self, chosen: Chosen, existing: list[str]) -> bytes:
        """The caption file: what was there, then what is new."""
        known = set(existing)
        items = [*existing, *(item for item in chosen.items if item not in known)]
        return (self.flags.caption_separator.join(items) + "\n").encode()


def expanded(name: str, separator: str) -> str:
    """`saber_(fate)` as the one item `saber, fate`: cut at the last opening bracket, all closing ones dropped behind it."""
    if not name.endswith(")"):
        return name
    character, _, series = name.rpartition("(")
    return character.removesuffix("_") + separator + series.replace(")", "")


def spaced(name: str) -> str:
    """Underscores as spaces in names longer than three letters."""
    return name.replace("_", " ") if len(name) > 3 else name


def replacements(text: str | None) -> list[tuple[str, str]]:
    r"""The pairs of `source,target;source,target`; `\,` and `\;` stand for themselves. UserError for what is no pair."""
    pairs = []
    for part in re.split(r"(?<!\\);", text) if text is not None else ():
        names = [name.replace(r"\,", ",").replace(r"\;", ";") for name in re.split(r"(?<!\\),", part)]
        if len(names) != 2:
            raise UserError("tag_replacement", f"{part!r} is not source,target; write pairs like `a,b;c,d`")
        pairs.append((names[0], names[1]))
    return pairs
