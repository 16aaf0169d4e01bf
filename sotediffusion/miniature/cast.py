"""Who lives in the drawn world: its named characters and their series, its artists, its visual novels; all invented."""

from dataclasses import dataclass

SERIES = {  # series -> its characters
    "moonlit ledger": ("sorune", "mikaho", "tsukerra", "hakuveil"),
    "harbour of foxes": ("kohanei", "fuyumei", "renkaze", "itsurra"),
    "tin cathedral": ("oriveta", "garnesh", "lumiaro", "shiovane"),
    "nine lantern street": ("akamiru", "nazuyori", "tomarue", "kinuhaze"),
    "snowline radio": ("yukirest", "arumeka", "sazanelle", "hiorado"),
}

# The looks that make a character recognisable: fields of `Person`. What is not named here is free.
CHARACTERS: dict[str, dict[str, object]] = {
    "sorune": dict(kind="girl", hair_color="purple", hair_length="long hair", hair_style="hime cut", eye_color="yellow",
                   headwear="witch hat"),
    "mikaho": dict(kind="girl", hair_color="blonde", hair_length="medium hair", hair_style="braid", eye_color="green",
                   glasses=True),
    "tsukerra": dict(kind="girl", hair_color="white", hair_length="short hair", hair_style="bob cut", eye_color="red",
                     ears="rabbit ears"),
    "hakuveil": dict(kind="boy", hair_color="black", hair_length="short hair", hair_style="spiky hair", eye_color="blue",
                     glasses=True),
    "kohanei": dict(kind="girl", hair_color="orange", hair_length="long hair", hair_style="wavy hair", eye_color="blue",
                    ears="fox ears"),
    "fuyumei": dict(kind="girl", hair_color="white", hair_length="long hair", hair_style="straight hair", eye_color="purple",
                    ears="fox ears"),
    "renkaze": dict(kind="boy", hair_color="red", hair_length="short hair", hair_style="spiky hair", eye_color="yellow",
                    ears="fox ears"),
    "itsurra": dict(kind="girl", hair_color="brown", hair_length="medium hair", hair_style="ponytail", eye_color="aqua",
                    headwear="straw hat"),
    "oriveta": dict(kind="girl", hair_color="blue", hair_length="long hair", hair_style="twintails", eye_color="red",
                    outfit="armor"),
    "garnesh": dict(kind="boy", hair_color="grey", hair_length="medium hair", hair_style="straight hair", eye_color="orange",
                    outfit="robe"),
    "lumiaro": dict(kind="girl", hair_color="aqua", hair_length="medium hair", hair_style="bob cut", eye_color="pink",
                    outfit="maid"),
    "shiovane": dict(kind="boy", hair_color="white", hair_length="short hair", hair_style="wavy hair", eye_color="red",
                     outfit="military uniform"),
    "akamiru": dict(kind="girl", hair_color="red", hair_length="medium hair", hair_style="hair bun", eye_color="green",
                    outfit="kimono"),
    "nazuyori": dict(kind="girl", hair_color="pink", hair_length="long hair", hair_style="wavy hair", eye_color="orange",
                     ears="cat ears"),
    "tomarue": dict(kind="girl", hair_color="black", hair_length="long hair", hair_style="twintails", eye_color="purple",
                    headwear="hair ribbon"),
    "kinuhaze": dict(kind="boy", hair_color="brown", hair_length="short hair", hair_style="wavy hair", eye_color="green",
                     outfit="kimono"),
    "yukirest": dict(kind="girl", hair_color="aqua", hair_length="long hair", hair_style="straight hair", eye_color="grey",
                     headwear="beret"),
    "arumeka": dict(kind="girl", hair_color="green", hair_length="short hair", hair_style="spiky hair", eye_color="brown",
                    outfit="overalls"),
    "sazanelle": dict(kind="girl", hair_color="pink", hair_length="medium hair", hair_style="hair bun", eye_color="aqua",
                      outfit="lab coat"),
    "hiorado": dict(kind="boy", hair_color="blonde", hair_length="medium hair", hair_style="ponytail", eye_color="purple",
                    outfit="hoodie"),
}


@dataclass(frozen=True)
class Hand:
    """How an artist draws, as factors about 1 and offsets about 0 on what the era would give."""

    line: float = 1.0  # width of outlines
    saturation: float = 1.0
    warmth: float = 0.0  # [-1, 1], cool to warm light
    softness: float = 0.0  # added to the era's shading softness
    eyes: str | None = None  # the shape of eyes this hand always draws: "round", "tall" or "sharp"
    outline_tint: float = 0.0  # added: 0 black lines, 1 lines in the colour of what they bound


ARTISTS = {
    "Amberline": Hand(line=1.35, warmth=0.5),
    "Boku no Enpitsu": Hand(line=0.7, saturation=0.75, outline_tint=0.4),
    "Cyanotype": Hand(saturation=0.9, warmth=-0.7),
    "Dorayaki Studio": Hand(line=1.15, saturation=1.2, warmth=0.35, eyes="round"),
    "Emberfall": Hand(line=0.9, warmth=0.7, saturation=1.1),
    "Furin": Hand(line=0.75, saturation=0.85, softness=0.25, warmth=-0.25),
    "Glasswing": Hand(line=0.6, softness=0.35, outline_tint=0.5, eyes="tall"),
    "Hoshikuzu": Hand(saturation=1.25, warmth=-0.4, eyes="round"),
    "Inkwell": Hand(line=1.6, saturation=0.8, eyes="sharp", softness=-0.3),
    "Jellybean": Hand(line=1.2, saturation=1.35, eyes="round", softness=-0.15),
    "Kasumi no Mori": Hand(line=0.8, saturation=0.7, softness=0.3),
    "Lacquer": Hand(line=1.1, saturation=1.1, eyes="sharp", outline_tint=0.25),
}

VISUAL_NOVELS = {  # full name -> its three letters
    "Letters to an Autumn Sea": "las",
    "The Clockmaker's Ninth Door": "cnd",
    "Hollow Summer Signal": "hss",
    "Paper Cranes at Platform Six": "pcp",
    "Winter Garden Sonata": "wgs",
    "Ember and Ivy": "eai",
}


def series_of(character: str) -> str:
    """The series a character belongs to."""
    return next(series for series, names in SERIES.items() if character in names)
