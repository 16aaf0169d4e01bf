"""From numbers to words: scores and tag probabilities cut into tags, late, so that a threshold moves without any model."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sotediffusion.config import plain
from sotediffusion.curate.compose.vocabulary import KINDS, Vocabulary
from sotediffusion.curate.lists import Array, encode, flatten, joined, nest, typed
from sotediffusion.curate.step import Step
from sotediffusion.curate.tag.taglist import CHARACTER, GENERAL, TagList, words
from sotediffusion.safety.rating import RATINGS, rating_of
from sotediffusion.types import UserError

LETTERS = "gsqe"  # a booru's ratings, in the order of RATINGS
TAGGERS_WORDS = ("questionable", "explicit")  # what a tagger calls the last two of RATINGS
TAGS = pa.list_(pa.string())
READS = pa.schema([
    ("tag_ids", pa.list_(pa.uint16())), ("tag_probs", pa.list_(pa.float16())),
    ("rating_probs", pa.list_(pa.float32(), len(RATINGS))), ("side_tags", TAGS), ("side_general", TAGS),
    ("side_character", TAGS), ("side_series", TAGS), ("side_artist", TAGS),
    ("side_meta", TAGS), ("side_rating", pa.string()), ("group_tags", TAGS),
])  # fmt: skip
ASIDE = (*KINDS, "artist", "meta")  # kinds that a sidecar may name a tag with


@dataclass(frozen=True)
class AestheticTable:
    """The card's tags of aesthetic-shadow-v2: a score strictly above a number has its tag, the highest such number counts."""

    score: str = "aesthetic-shadow-v2"
    cuts: tuple[tuple[float, str], ...] = (
        (0.90, "extremely aesthetic"), (0.80, "very aesthetic"), (0.70, "aesthetic"), (0.50, "slightly aesthetic"),
        (0.40, "not displeasing"), (0.30, "not aesthetic"), (0.20, "slightly displeasing"), (0.10, "displeasing"),
    )  # fmt: skip
    rest: str = "very displeasing"


@dataclass(frozen=True)
class QualityTable:
    """The card's tags of aes-B32-v0, read like those of the other table."""

    score: str = "aes-B32-v0"
    cuts: tuple[tuple[float, str], ...] = (
        (0.980, "best quality"), (0.900, "high quality"), (0.750, "great quality"), (0.500, "medium quality"),
        (0.250, "normal quality"), (0.125, "bad quality"), (0.025, "low quality"),
    )  # fmt: skip
    rest: str = "worst quality"


Table = AestheticTable | QualityTable


def tags_of(table: Table) -> list[str]:
    """The table's tags from best to worst."""
    return [*(tag for _, tag in table.cuts), table.rest]


def check_table(table: Table, where: str) -> None:
    """Raise UserError unless the cuts descend and no two tags are the same."""
    bounds = [bound for bound, _ in table.cuts]
    if any(low >= high for high, low in zip(bounds, bounds[1:], strict=False)):
        raise UserError(f"{where}.cuts", f"{bounds} do not descend; write the highest cut first and none twice")
    if len(set(tags_of(table))) <= len(bounds):
        raise UserError(f"{where}.cuts", "two cuts have the same tag; give each its own")


def cut(scores: pa.Array, table: Table) -> pa.Array:
    """The tag of each score, a dictionary array of the table's tags; null where the score is null or not a number.

    Scores are float32 and so is the comparison: a score of 0.98 as it is stored is not above a cut at 0.98.
    """
    numbers = pc.fill_null(scores.cast(pa.float32()), np.nan).to_numpy(zero_copy_only=False)
    rising = np.array([bound for bound, _ in reversed(table.cuts)], np.float32)
    place = len(rising) - np.searchsorted(rising, numbers, side="left")  # how many cuts are not below the score
    indices = pa.array(place.astype(np.int8), mask=np.isnan(numbers))
    return pa.DictionaryArray.from_arrays(indices, pa.array(tags_of(table), pa.string()))


@dataclass(frozen=True)
class CutSettings:
    """From which probability a tag counts, and what becomes of the tags a picture came with."""

    general: float = 0.35  # the card's thresholds: a probability at or above them counts
    character: float = 0.50
    thresholds: dict[str, float] = field(default_factory=dict)  # of single tags, by their name in the tag list or as written out
    merge: Literal["both", "tagger", "sidecar"] = "both"  # sidecar: the tagger speaks only of pictures that came without tags
    rating: Literal["tagger", "sidecar"] = "tagger"  # who is asked first
    not_series: tuple[str, ...] = (  # last brackets of a character's name that are no series
        "cosplay", "ultimate", "swimsuit", "summer", "casual", "school uniform", "young", "adult", "male", "female",
    )  # fmt: skip


class Cut(Step):
    """Ratings and tags from the tagger's probabilities and the sidecar."""

    name = "cut"
    version = 1
    reads = tuple(READS.names)
    writes = pa.schema([("rating", pa.string()), ("character", TAGS), ("series", TAGS), ("general", TAGS)])

    def __init__(self, settings: CutSettings = CutSettings(), tags: TagList | None = None):
        """`tags` is the list that tag_ids point into; without it only sidecars are read."""
        self.settings, self.tags = settings, tags

    def identity(self) -> dict[str, Any]:
        """The thresholds and the list of tags."""
        return {**plain(self.settings), "tags": self.tags.sha256 if self.tags else ""}

    def setup(self) -> None:
        """Learn the tag list."""
        self.vocabulary = Vocabulary(self.tags, self.settings.not_series)
        self.bounds = _bounds(self.tags, self.settings)

    def process(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Rating, characters, series and general tags of each picture."""
        from sotediffusion.curate.compose.merging import by_kind

        columns = typed(rows, READS)
        columns["side_tags"] = _own_or_groups(columns)
        starts, codes = joined([*self._side(columns), self._tagged(columns)])
        spare = self.settings.merge == "sidecar"
        begins, numbers = by_kind(starts, codes, self.vocabulary.table, len(self.vocabulary.texts), spare)
        texts = self.vocabulary.texts.array
        lists = [nest(texts.take(pa.array(line[: ends[-1]])), ends) for ends, line in zip(begins, numbers, strict=True)]
        return pa.record_batch([ratings(columns, self.settings.rating), *lists], schema=self.writes)

    def _side(self, columns: dict[str, pa.Array]) -> list[tuple[Array, Array]]:
        """What the sidecars say, as rows of the vocabulary: tags without a kind, then those with one.

        Of the tags without a kind only those count that the sidecar does not name with one too.
        """
        from sotediffusion.curate.compose.merging import said_by

        if self.settings.merge == "tagger":
            return []
        found = [flatten(columns[name]) for name in ("side_tags", *(f"side_{kind}" for kind in ASIDE))]
        starts = [begins for begins, _ in found]
        codes, texts = encode([values for _, values in found])
        told = joined(list(zip(starts[1:], codes[1:], strict=True)))
        places = [self._places(code, texts, kind) for code, kind in zip(codes, (None, *KINDS), strict=False)]
        places[0][said_by(starts[0], codes[0], *told, len(texts) + 1)] = self.vocabulary.nothing
        return list(zip(starts, places, strict=False))

    def _places(self, codes: Array, texts: pa.Array, kind: str | None) -> Array:
        """Rows of the vocabulary for codes into texts; what is null is nothing."""
        place = np.full(len(texts) + 1, self.vocabulary.nothing, np.int32)
        used = np.bincount(codes, minlength=len(place))[:-1] > 0
        place[:-1][used] = self.vocabulary.places(texts.filter(pa.array(used)).to_pylist(), kind)
        return place[codes]

    def _tagged(self, columns: dict[str, pa.Array]) -> tuple[Array, Array]:
        """What the tagger says, in the same form."""
        starts, ids = flatten(columns["tag_ids"])
        output = ids.to_numpy(zero_copy_only=False)
        probability = columns["tag_probs"].flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        return starts, np.where(probability >= self.bounds[output], output, np.int32(self.vocabulary.nothing))


def _own_or_groups(columns: dict[str, pa.Array]) -> pa.Array:
    """The tags without a kind; of a picture whose sidecar names no tags at all those of its copies."""
    own = [columns["side_tags"], *(columns[f"side_{kind}"] for kind in KINDS)]
    bare = np.logical_and.reduce([pc.list_value_length(tags).fill_null(0).to_numpy() == 0 for tags in own])
    bare &= columns["group_tags"].is_valid().to_numpy(zero_copy_only=False)
    if not bare.any():
        return own[0]
    return pa.concat_arrays([own[0], columns["group_tags"]]).take(pa.array(np.arange(len(bare)) + len(bare) * bare))


def ratings(columns: dict[str, pa.Array], first: str) -> pa.Array:
    """The card's rating of each picture: the tagger's likeliest, the booru's letter, a rating among the sidecar's tags."""
    side = pc.index_in(columns["side_rating"], pa.array(list(LETTERS))).fill_null(-1).to_numpy(zero_copy_only=False)
    head = _likeliest(columns["rating_probs"])
    asked = [head, side] if first == "tagger" else [side, head]
    chosen = _first_known([*asked, _rating_words(columns["side_tags"])])
    return pa.array(RATINGS, pa.string()).take(pa.array(chosen, mask=chosen < 0))


def _likeliest(probabilities: pa.Array) -> Array:
    """The place in RATINGS of what the tagger says, -1 where it says nothing or no numbers."""
    values = np.full((len(probabilities), len(RATINGS)), np.nan, np.float32)
    known = probabilities.is_valid().to_numpy(zero_copy_only=False)
    values[known] = probabilities.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, len(RATINGS))
    found = np.full(len(values), -1, np.int64)
    known = np.isfinite(values).all(axis=1)
    found[known] = rating_of(values[known])
    return found


def _rating_words(tags: pa.Array) -> Array:
    """The place in RATINGS of the first rating among each picture's tags, -1 where there is none."""
    starts, values = flatten(tags)
    named = pc.index_in(values, pa.array([*RATINGS, *TAGGERS_WORDS])).fill_null(-1).to_numpy(zero_copy_only=False)
    found = np.full(len(tags), -1, np.int64)
    told = np.flatnonzero(named >= 0)[::-1]  # of several the first is assigned last
    found[np.searchsorted(starts, told, side="right") - 1] = np.array([*range(len(RATINGS)), 2, 3])[named[told]]
    return found


def _first_known(choices: list[Array]) -> Array:
    chosen = choices[0]
    for choice in choices[1:]:
        chosen = np.where(chosen >= 0, chosen, choice)
    return chosen


def _bounds(tags: TagList | None, settings: CutSettings) -> Array:
    """The threshold of each tag of the list, float32; out of reach for what is neither general nor character."""
    kinds, own = {GENERAL: settings.general, CHARACTER: settings.character}, settings.thresholds
    listed = zip(tags.names, tags.categories, strict=True) if tags else ()
    return np.array([own.get(name, own.get(words(name), kinds.get(kind, np.inf))) for name, kind in listed], np.float32)
