"""The default manner of `sote curate tag`: kohya's flags without kohya's faults.

Run again, it changes nothing. Faces keep their underscores, a character and its series are two tags, transparency is laid on
white, pictures are upright and in sRGB, and AVIF and JPEG XL are read too.
"""

import re
from collections.abc import Iterable
from os.path import splitext
from pathlib import Path

from sotediffusion.curate.inference.views import Array, square
from sotediffusion.curate.tag.kohya import Chosen, Flags, Items, Kohya, replacements
from sotediffusion.curate.tag.taglist import CHARACTER, TagList, character_and_series, words
from sotediffusion.pictures.pixels import decode

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", ".jxl")


class Repaired(Kohya):
    """Chooses and writes single tags, each once."""

    one_each = True

    def __init__(self, flags: Flags, tags: TagList, not_series: tuple[str, ...] = ()):
        """`not_series`: last brackets of characters' names that name no series, with spaces. UserError as for kohya's manner."""
        self.not_series = not_series
        super().__init__(flags, tags)
        self.first = [tag.strip() for tag in self.first]

    def names(self, groups: dict[str, list[str]]) -> dict[str, list[Items]]:
        """The list's names as single tags, none of which has a separator in it."""
        changed = dict(replacements(self.flags.tag_replacement))
        return {kind: [self._single(changed.get(item, item) for item in self._items(kind, name)) for name in names]
                for kind, names in groups.items()}  # fmt: skip

    def _items(self, kind: str, name: str) -> Items:
        character, series = character_and_series(name) if kind == CHARACTER and self.flags.character_tag_expand else (name, None)
        items = (name,) if series is None or words(series) in self.not_series else (character, series)
        return tuple(words(item) for item in items) if self.flags.remove_underscore else items

    def _single(self, items: Iterable[str]) -> Items:
        return tuple(part.strip() for item in items for part in item.split(self.flags.cut) if part.strip())

    def is_picture(self, name: str) -> bool:
        """Whether a file of this name is tagged; case does not matter."""
        return name.lower().endswith(SUFFIXES)

    def load(self, content: bytes, size: int) -> Array:
        """The tagger's input of a file: (size, size, 3) BGR. Undecodable, with the reason, where there is none."""
        return square(decode(content), size)

    def choose(self, probabilities: Array) -> Chosen:
        """What to say of a picture, no tag twice."""
        chosen = super().choose(probabilities)
        items, general, characters = (tuple(dict.fromkeys(part)) for part in (chosen.items, chosen.general, chosen.characters))
        return Chosen(items, general, characters, chosen.rating)

    def caption_path(self, picture: Path) -> Path:
        """The picture's name with the extension, with or without its dot."""
        return Path(f"{splitext(picture)[0]}.{self.flags.caption_extension.removeprefix('.')}")

    def read(self, content: bytes) -> list[str]:
        """The tags of a caption file, lines being separators too; UnicodeDecodeError where it is not UTF-8."""
        lines = re.split("[\r\n]+", content.decode("utf-8-sig"))
        return [item.strip() for line in lines for item in line.split(self.flags.cut) if item.strip()]
