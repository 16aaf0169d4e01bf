"""The words of the drawn world: every name here is a tag that can be drawn, seen again by a judge, and asked for.

Everything is general-rated, and everybody is a grown-up: there is no tag for anything else.
"""

HAIR_COLORS = ("black", "brown", "blonde", "red", "orange", "pink", "purple", "blue", "aqua", "green", "grey", "white")
HAIR_LENGTHS = ("short hair", "medium hair", "long hair")
HAIR_STYLES = ("straight hair", "wavy hair", "spiky hair", "bob cut", "hime cut", "ponytail", "twintails", "braid", "hair bun")
EYE_COLORS = ("blue", "red", "green", "purple", "orange", "yellow", "brown", "pink", "aqua", "grey")
EXPRESSIONS = ("smile", "open mouth", "frown", "angry", "surprised", "one eye closed", "closed eyes", "expressionless")
ANIMAL_EARS = ("cat ears", "fox ears", "rabbit ears")
HEADWEAR = ("witch hat", "beret", "straw hat", "hair ribbon")
OUTFITS = (
    "casual", "hoodie", "sweater", "dress", "suit", "kimono", "maid", "armor", "lab coat", "military uniform", "robe", "overalls",
)
BARE_SHOULDER_OUTFITS = ("casual", "dress", "sweater")  # these are also drawn with an off-shoulder cut
HELD = {  # what is held -> its tag
    "guitar": "playing guitar", "book": "holding book", "umbrella": "holding umbrella", "sword": "holding sword",
    "cup": "holding cup", "bouquet": "holding bouquet", "phone": "holding phone", "microphone": "holding microphone",
}
BACKGROUNDS = {  # place -> indoors or outdoors; None says neither
    "living room": "indoors", "bedroom": "indoors", "library": "indoors", "cafe": "indoors",
    "night sky": "outdoors", "beach": "outdoors", "forest": "outdoors", "city": "outdoors", "mountain": "outdoors",
    "snow": "outdoors", "simple background": None,
}
GAZES = ("looking at viewer", "looking to the side")
FRAMINGS = ("portrait", "upper body", "cowboy shot", "full body")

ERAS = {"oldest": (2005, 2010), "early": (2011, 2014), "mid": (2015, 2018), "recent": (2019, 2021), "newest": (2022, 2024)}
SOURCES = ("image board", "pixiv", "visual novel cg", "anime wallpaper")

# Cuts of the model card: a score above the number carries the tag; the last tag takes the rest.
AESTHETIC_CUTS = (
    (0.90, "extremely aesthetic"), (0.80, "very aesthetic"), (0.70, "aesthetic"), (0.50, "slightly aesthetic"),
    (0.40, "not displeasing"), (0.30, "not aesthetic"), (0.20, "slightly displeasing"), (0.10, "displeasing"),
    (float("-inf"), "very displeasing"),
)
QUALITY_CUTS = (
    (0.980, "best quality"), (0.900, "high quality"), (0.750, "great quality"), (0.500, "medium quality"),
    (0.250, "normal quality"), (0.125, "bad quality"), (0.025, "low quality"), (float("-inf"), "worst quality"),
)

WORDS = ("hello", "yes", "no", "thanks", "wow", "love", "go", "sorry")  # what a speech bubble may say


def cut(score: float, cuts: tuple[tuple[float, str], ...]) -> str:
    """The tag of a score in [0, 1] under a table of cuts, as on the model card."""
    return next(tag for bound, tag in cuts if score > bound)
