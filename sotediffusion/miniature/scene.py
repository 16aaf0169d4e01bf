"""What one drawn picture shows, as plain data: the ground truth behind its pixels and its caption."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Person:
    """One figure. Names are those of `vocabulary`; None means the thing is absent."""

    kind: str  # "girl" or "boy", always grown up
    hair_color: str
    hair_length: str
    hair_style: str
    eye_color: str
    expression: str
    gaze: str
    outfit: str
    outfit_color: str  # a free colour name of `palette`
    bare_shoulders: bool = False
    ears: str | None = None
    headwear: str | None = None
    glasses: bool = False
    blush: bool = False
    held: str | None = None  # a key of HELD
    character: str | None = None  # a name of `cast.CHARACTERS`; then the looks above are that character's


@dataclass(frozen=True)
class Scene:
    """One picture. Everything random about its pixels follows from `seed` and these fields."""

    seed: int
    people: tuple[Person, ...]  # one or two
    background: str
    framing: str
    width: int  # px as published; a rendering may be smaller, of the same aspect
    height: int
    year: int | None  # None: the date is missing
    source: str
    aesthetic: float  # [0, 1], drives composition and palette
    quality: float  # [0, 1], drives blur, noise, JPEG damage, upscaling
    artist: str | None = None
    series: str | None = None
    visual_novel: str | None = None
    text: str | None = None  # a word of WORDS in a speech bubble
    monochrome: bool = False
    realistic: bool = False  # soft photographic shading without outlines
    extra: dict[str, str] = field(default_factory=dict)
