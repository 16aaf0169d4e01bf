"""The list of tags that a tagger knows: `selected_tags.csv` in the WD contract, and how its names read in a caption."""

import csv
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

from sotediffusion.curate.engine.store import Store
from sotediffusion.types import UserError

FILE = "selected_tags.csv"
HEADER = ["tag_id", "name", "category"]
RATING, GENERAL, CHARACTER = "9", "0", "4"
RATINGS = 4  # the first outputs: general, sensitive, questionable, explicit

# Faces, whose underscore is a mouth and no space (SmilingWolf's list).
KAOMOJI = frozenset(
    "0_0 (o)_(o) +_+ +_- ._. <o>_<o> <|>_<|> =_= >_< 3_3 6_9 >_o @_@ ^_^ o_o u_u x_x |_| ||_||".split()
)


@dataclass(frozen=True)
class TagList:
    """A tagger's names in the order of its outputs: four ratings, then general tags and characters."""

    names: tuple[str, ...]
    categories: tuple[str, ...]  # RATING, GENERAL, CHARACTER, or another as the file has it
    counts: tuple[int, ...]  # pictures that had the tag where the tagger learned; 0 where the file does not say
    sha256: str  # of the file

    def of(self, category: str) -> list[str]:
        """The names of one category, in order."""
        return [name for name, kind in zip(self.names, self.categories, strict=True) if kind == category]


def read_taglist(path: str | Path) -> TagList:
    """The tags of a `selected_tags.csv`; UserError where it is not one."""
    try:
        return taglist_of(Path(path).read_bytes(), str(path))
    except OSError as error:
        raise UserError("tags", f"{path} cannot be read ({error.strerror}); it belongs beside the tagger's model.onnx") from None


def taglist_of(content: bytes, path: str) -> TagList:
    """The tags in the bytes of such a file, or of one kept by `keep_taglist`; `path` is what it is called in a UserError."""
    try:
        rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError("tags", f"{path} is not a list of tags ({error}); fetch the tagger again") from None
    if not rows or rows[0][:3] != HEADER:
        raise UserError("tags", f"{path} begins with {str(rows[:1])[:80]}, not with {','.join(HEADER)}; fetch the tagger again")
    rows = [row for row in rows[1:] if row]
    if any(len(row) < 3 for row in rows) or [n for n, row in enumerate(rows) if row[2] == RATING] != list(range(RATINGS)):
        raise UserError("tags", f"{path} does not begin with four ratings; only taggers in the WD contract are understood")
    counts = tuple(int(row[3]) if len(row) > 3 and row[3].isdecimal() else 0 for row in rows)
    return TagList(tuple(row[1] for row in rows), tuple(row[2] for row in rows), counts, hashlib.sha256(content).hexdigest())


def keep_taglist(path: Path, store: Store) -> str:
    """Copy a tagger's list into a catalogue's taglists under its hash, unless it is there; returns its name."""
    content = path.read_bytes()
    kept = f"taglists/{hashlib.sha256(content).hexdigest()}.csv"
    if not store.exists(kept):
        store.write(kept, content)
    return kept


def words(name: str) -> str:
    """A tag as it is written in a caption: underscores as spaces, but for those that are drawn."""
    return name if name in KAOMOJI else name.replace("_", " ")


def character_and_series(name: str) -> tuple[str, str | None]:
    """Whom a character tag names and where from, both still with underscores: `a_(b)_(c)` is `a_(b)` of `c`.

    The series is the last group of brackets, whole with what is nested in it; None where there is none, or where brackets do
    not match.
    """
    depth = 0
    if name.endswith(")"):
        for place in range(len(name) - 1, 0, -1):
            depth += (name[place] == ")") - (name[place] == "(")
            if depth == 0:
                series, character = name[place + 1 : -1], name[:place].rstrip("_")
                matched = character.count("(") == character.count(")")
                return (character, series) if matched and series and character else (name, None)
    return name, None
