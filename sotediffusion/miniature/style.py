"""How a drawing is inked and coloured: everything by which eras, artists, aesthetic and realism change a figure or a room."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Style:
    """Drawing manners. The default is a clean, bright, softly shaded picture of today."""

    line_width: float = 1.0  # times the normal outline, 0 draws no outlines
    shading: int = 2  # 0 flat, 1 one hard shadow, 2 shadows, gradients and highlights
    saturation: float = 1.0  # times the palette's
    brightness: float = 1.0  # times the palette's
    softness: float = 0.0  # [0, 1] how far shadow edges are blurred
    eye_shape: str = "round"  # "round", "tall" or "sharp"
    hue_shift: float = 0.0  # degrees, small: an artist's colour cast
    outline: tuple[int, int, int] = (52, 34, 48)  # RGB of ink
    tinted_lines: float = 0.5  # [0, 1] how far lines take the colour of what they bound
    muted: float = 0.0  # [0, 1] towards warm grey
    highlights: bool = True  # shine on hair and eyes
    realistic: bool = False  # no ink, smooth volumes
