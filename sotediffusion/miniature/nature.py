"""Outdoor places without houses: night sky, beach, forest, mountain, snow."""

import math

from sotediffusion.miniature.brush import Brush
from sotediffusion.miniature.palette import Color, mix

WHITE = (255, 255, 255)
SKIES = (  # top, middle, horizon
    ((70, 142, 226), (136, 194, 244), (222, 240, 250)),
    ((96, 160, 232), (170, 212, 246), (240, 246, 250)),
    ((94, 96, 180), (236, 140, 150), (255, 210, 150)),
)


def cloud(b: Brush, x: float, y: float, size: float, light: Color = WHITE, shade: Color = (206, 220, 240)) -> None:
    """A heap of cumulus about `size` units wide, flat below."""
    puffs = [(dx, (0.2 - 0.3 * abs(dx) ** 1.5) * b.rng.uniform(0.75, 1.15)) for dx in (-0.4, -0.27, -0.14, 0.0, 0.13, 0.26, 0.39)]
    base = y + 0.06 * size
    for tone, lift, shrink in ((shade, 0.0, 1.0), (light, 0.035, 0.9)):
        for dx, r in puffs:
            at = (x + dx * size - lift * size * 0.4, base - r * size * 0.75 - lift * size)
            b.oval(at, (r * size * shrink, r * size * shrink * 0.9), tone)
        b.rect((x - 0.46 * size, base - 0.075 * size - lift * size, x + 0.46 * size, base - lift * size), tone,
               round_by=0.04 * size)


def ridge(b: Brush, base: float, height: float, color: Color, roughness: int = 9) -> list[tuple[float, float]]:
    """A range of hills across the canvas, filled down to the bottom; returns its line."""
    line = [(b.width * i / roughness * 1.1 - b.width * 0.05, base - height * b.rng.random()) for i in range(roughness + 1)]
    b.poly([(-20, b.height + 20), *line, (b.width + 40, b.height + 20)], color)
    return line


def night_sky(b: Brush) -> None:
    """Deep blue, a river of stars, a big moon, dark hills."""
    w, h = b.width, b.height
    top = b.rng.choice(((14, 18, 60), (24, 14, 66), (8, 26, 62)))
    b.fall(0, h, [top, mix(top, (60, 70, 160), 0.6), mix(top, (150, 110, 190), 0.65)])
    for i in range(5):
        t = i / 4
        b.oval((w * (0.02 + t), h * (0.62 - 0.6 * t)), (w * 0.2, h * 0.13), (130, 130, 220), alpha=0.13, blur=26)
    for _ in range(130):
        x, y, size = w * b.rng.random(), h * 0.82 * b.rng.random(), b.rng.choice((2, 2.6, 3.4, 5))
        b.oval((x, y), (size, size), b.rng.choice((WHITE, (255, 240, 200), (200, 220, 255))))
    for _ in range(9):
        _sparkle(b, w * b.rng.random(), h * 0.6 * b.rng.random(), b.rng.uniform(16, 30))
    mx, my, r = w * 0.82, h * 0.17, 92
    b.glow(mx, my, 330, (200, 210, 255), 0.6)
    b.oval((mx, my), (r, r), (255, 248, 220))
    for dx, dy, k in ((-0.3, -0.2, 0.2), (0.25, 0.3, 0.26), (0.3, -0.35, 0.14), (-0.25, 0.42, 0.14)):
        b.oval((mx + dx * r, my + dy * r), (k * r, k * r), (236, 222, 190))
    b.line([(w * 0.1, h * 0.1), (w * 0.27, h * 0.2)], WHITE, 3.5, 0.85)
    ridge(b, h * 0.86, h * 0.1, mix(top, (50, 56, 120), 0.5), 7)
    line = ridge(b, h * 0.93, h * 0.06, mix(top, (10, 14, 40), 0.6), 9)
    for x, y in line[::2]:
        _pine(b, x, y + 40, 120, mix(top, (8, 12, 34), 0.7), snowy=False)


def _sparkle(b: Brush, x: float, y: float, size: float) -> None:
    thin = size * 0.13
    b.poly([(x, y - size), (x + thin, y - thin), (x + size, y), (x + thin, y + thin), (x, y + size), (x - thin, y + thin),
            (x - size, y),
            (x - thin, y - thin)], (255, 252, 230))


def beach(b: Brush) -> None:
    """Sky with heaps of cloud, a glittering sea, wet sand, a palm and a parasol."""
    w, h = b.width, b.height
    sky = b.rng.choice(SKIES)
    horizon, shore = h * 0.5, h * 0.72
    b.fall(0, horizon, list(sky))
    for x, y, size in ((0.2, 0.42, 360), (0.85, 0.4, 420), (0.55, 0.16, 260)):
        cloud(b, w * x, h * y, size, mix(WHITE, sky[2], 0.15), mix(sky[1], WHITE, 0.4))
    b.fall(horizon, shore, [mix((40, 120, 200), sky[1], 0.2), (64, 190, 206), (150, 228, 220)])
    for _ in range(46):
        y = horizon + (shore - horizon) * b.rng.random() ** 1.6
        x, wide = w * b.rng.random(), 10 + 50 * (y - horizon) / (shore - horizon)
        b.line([(x, y), (x + wide, y)], WHITE, 3, 0.75)
    b.fall(shore, h, [(250, 226, 172), (236, 202, 146)])
    wave = [(w * i / 10, shore + 16 * math.sin(i * 1.7)) for i in range(11)]
    b.poly([(0, shore - 14), (w, shore - 14), *reversed(wave)], (150, 228, 220))
    b.line(wave, WHITE, 13, 0.95)
    _parasol(b, w * 0.88, h * 0.92, 300)
    _palm(b, w * 0.03, h * 0.86, h * 0.62)
    for x, y in ((0.2, 0.86), (0.4, 0.94), (0.72, 0.95)):
        b.oval((w * x, h * y), (14, 9), (250, 250, 240), ink=1.5)


def _palm(b: Brush, x: float, foot: float, tall: float) -> None:
    crown = (x + 70, foot - tall)
    b.poly([(x - 22, foot), (x + 22, foot), (crown[0] + 12, crown[1]), (crown[0] - 12, crown[1])], (156, 112, 76), ink=2.5)
    for i in range(1, 9):
        y = foot - tall * i / 9
        b.line([(x + 70 * i / 9 - 16, y), (x + 70 * i / 9 + 16, y + 5)], (120, 84, 60), 3)
    for angle in (-170, -140, -105, -70, -38, -8, 22):
        a = math.radians(angle)
        tip = (crown[0] + 230 * math.cos(a), crown[1] + 150 * math.sin(a) + 70)
        middle = (crown[0] + 120 * math.cos(a), crown[1] + 120 * math.sin(a) - 8)
        b.poly([crown, (middle[0], middle[1] - 24), tip, (middle[0] + 6, middle[1] + 26)], mix((50, 140, 84), (120, 190, 90),
                                                                                               (angle + 170) / 190),
               ink=2)


def _parasol(b: Brush, x: float, foot: float, size: float) -> None:
    b.line([(x, foot), (x - 24, foot - size)], (240, 236, 228), 11)
    top = (x - 24, foot - size - 90)
    for i in range(6):
        x0, x1 = x - 24 - size * 0.62 + size * 1.24 * i / 6, x - 24 - size * 0.62 + size * 1.24 * (i + 1) / 6
        b.poly([top, (x0, foot - size + 44), (x1, foot - size + 44)], ((236, 84, 84), (255, 250, 240))[i % 2], ink=2.2)


def forest(b: Brush) -> None:
    """Trunks behind trunks, a leafy roof, shafts of light, ferns."""
    w, h = b.width, b.height
    leaf = b.rng.choice(((84, 154, 76), (110, 160, 60), (60, 140, 100)))
    b.fall(0, h * 0.72, [mix(leaf, (30, 80, 60), 0.35), mix(leaf, (220, 240, 170), 0.45), mix(leaf, (236, 246, 200), 0.7)])
    b.fall(h * 0.68, h, [mix(leaf, (200, 214, 120), 0.3), mix(leaf, (50, 84, 50), 0.55)])
    for depth in range(3):
        far = (0.55, 0.28, 0.0)[depth]
        wood, wide = mix((84, 62, 50), (206, 224, 160), far), (26, 46, 84)[depth]
        for i in range((7, 5, 2)[depth]):
            x = w * (i + b.rng.uniform(0.1, 0.9)) / (7, 5, 2)[depth] if depth < 2 else w * (0.05, 0.93)[i]
            foot = h * (0.7, 0.76, 0.92)[depth]
            b.poly([(x - wide * 0.5, -10), (x + wide * 0.5, -10), (x + wide * 0.55, foot * 0.8), (x + wide * 0.95, foot),
                    (x - wide * 0.95, foot),
                    (x - wide * 0.55, foot * 0.8)], wood, ink=2 if depth == 2 else 0)
            b.poly([(x + wide * 0.12, -10), (x + wide * 0.5, -10), (x + wide * 0.55, foot * 0.8), (x + wide * 0.9, foot),
                    (x + wide * 0.2, foot)],
                   mix(wood, (40, 34, 50), 0.3))
    _canopy(b, leaf)
    for i in range(4):
        x = w * (0.15 + 0.24 * i)
        b.poly([(x, -10), (x + 50, -10), (x + 210, h * 0.85), (x + 70, h * 0.85)], (255, 252, 210), alpha=0.15)
    for i in range(15):
        _fern(b, w * (i + b.rng.random()) / 15, h * b.rng.uniform(0.93, 1.02), 100, mix(leaf, (40, 100, 60),
                                                                                        b.rng.random() * 0.6))


def _canopy(b: Brush, leaf: Color) -> None:
    w, h = b.width, b.height
    for row, shade in ((0, 0.15), (1, 0.4), (2, 0.62)):
        for i in range(11):
            x, y = w * (i + b.rng.random()) / 11, h * (0.15 - 0.055 * row) * b.rng.uniform(0.7, 1.15)
            r = b.rng.uniform(62, 96)
            b.oval((x, y), (r, r * 0.72), mix(mix(leaf, (190, 220, 110), 0.4), (24, 66, 52), shade))
    for _ in range(26):
        x, y = w * b.rng.random(), h * 0.24 * b.rng.random()
        b.oval((x, y), (9, 6), mix(leaf, (240, 250, 170), 0.6), alpha=0.9)


def _fern(b: Brush, x: float, y: float, size: float, color: Color) -> None:
    for lean in (-0.8, -0.4, 0.0, 0.4, 0.8):
        b.poly([(x - 8, y), (x + lean * size * 0.5 - 9, y - size * 0.5), (x + lean * size, y - size * (1 - 0.4 * abs(lean))),
                (x + lean * size * 0.5 + 9, y - size * 0.45), (x + 8, y)], color)


def mountain(b: Brush) -> None:
    """Ranges of peaks with snow on them, a meadow with flowers."""
    w, h = b.width, b.height
    sky = b.rng.choice(SKIES)
    b.fall(0, h * 0.7, list(sky))
    for x, y in ((0.15, 0.16), (0.7, 0.1)):
        cloud(b, w * x, h * y, 300, mix(WHITE, sky[2], 0.15), mix(sky[1], WHITE, 0.45))
    for x, top, half in ((0.5, 0.3, 0.3), (0.14, 0.22, 0.3), (0.87, 0.17, 0.34)):
        _peak(b, w * x, h * top, h * 0.68, max(w * half, 260), mix((92, 106, 150), sky[2], 0.3 if x == 0.5 else 0.08))
    ridge(b, h * 0.64, h * 0.06, mix((70, 122, 112), sky[2], 0.3), 9)
    ridge(b, h * 0.71, h * 0.05, (84, 146, 92), 7)
    b.fall(h * 0.72, h, [(140, 196, 100), (90, 156, 82)])
    for _ in range(56):
        t = b.rng.random()
        x, y, r = w * b.rng.random(), h * (0.74 + 0.26 * t), 5 + 10 * t
        b.oval((x, y), (r, r * 0.8), b.rng.choice((WHITE, (255, 220, 90), (250, 150, 180), (190, 150, 240))))


def _peak(b: Brush, x: float, top: float, foot: float, half: float, rock: Color) -> None:
    tall = foot - top
    b.poly([(x - half, foot), (x, top), (x + half, foot)], rock, ink=1.5)
    b.poly([(x, top), (x + half, foot), (x + half * 0.12, foot), (x - half * 0.06, top + tall * 0.5)], mix(rock, (40, 44, 90),
                                                                                                           0.3))
    cap = [(x, top), (x + half * 0.4, top + tall * 0.4), (x + half * 0.22, top + tall * 0.33), (x + half * 0.1,
                                                                                                top + tall * 0.46),
           (x - half * 0.06, top + tall * 0.33), (x - half * 0.2, top + tall * 0.45), (x - half * 0.38, top + tall * 0.38)]
    b.poly(cap, (250, 252, 255))
    b.poly([(x, top), *cap[1:4], (x - half * 0.02, top + tall * 0.25)], (206, 218, 242))


def snow(b: Brush) -> None:
    """A white field, firs under snow, falling flakes."""
    w, h = b.width, b.height
    sky = b.rng.choice((((150, 176, 214), (226, 236, 248)), ((120, 140, 190), (236, 220, 236)), ((176, 190, 206),
                                                                                                 (238, 242, 248))))
    b.fall(0, h * 0.75, list(sky))
    ridge(b, h * 0.58, h * 0.12, mix(sky[0], WHITE, 0.4), 7)
    for i in range(9):
        _pine(b, w * (i + b.rng.uniform(0.2, 0.8)) / 9, h * 0.68, b.rng.uniform(190, 260), mix((60, 100, 104), sky[0], 0.5))
    ridge(b, h * 0.7, h * 0.04, (226, 236, 250), 6)
    for x, size in ((0.05, 520), (0.2, 330), (0.8, 340), (0.95, 540)):
        _pine(b, w * x, h * 0.84, size, (44, 92, 88))
    b.fall(h * 0.86, h, [(246, 250, 255), (214, 226, 246)])
    for x, y in ((0.2, 0.84), (0.75, 0.85), (0.5, 0.87)):
        b.oval((w * x, h * y), (w * 0.34, h * 0.05), (246, 250, 255))
    for _ in range(60):
        r = b.rng.choice((4, 6, 8, 12))
        b.oval((w * b.rng.random(), h * b.rng.random()), (r, r), WHITE, alpha=0.92)


def _pine(b: Brush, x: float, foot: float, tall: float, color: Color, snowy: bool = True) -> None:
    b.rect((x - tall * 0.035, foot - tall * 0.16, x + tall * 0.035, foot), mix(color, (80, 54, 46), 0.6))
    for tier in range(4):
        y, half = foot - tall * (0.12 + 0.2 * tier), tall * (0.27 - 0.055 * tier)
        tip = y - tall * 0.33
        cone = [(x - half, y), (x, tip), (x + half, y), (x + half * 0.4, y - tall * 0.03), (x, y + tall * 0.02),
                (x - half * 0.4, y - tall * 0.03)]
        b.poly(cone, mix(color, (20, 40, 60), 0.12 * (3 - tier)))
        if snowy:
            drop = y - tip
            cap = [(x, tip), (x + half * 0.62, tip + drop * 0.62), (x + half * 0.2, tip + drop * 0.5), (x, tip + drop * 0.66),
                   (x - half * 0.25, tip + drop * 0.5), (x - half * 0.62, tip + drop * 0.62)]
            b.poly(cap, (244, 249, 255))
