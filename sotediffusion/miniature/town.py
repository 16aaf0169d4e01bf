"""The city street, and the background that is no place at all."""

from sotediffusion.miniature.brush import Brush
from sotediffusion.miniature.nature import SKIES, cloud
from sotediffusion.miniature.palette import Color, mix

WALLS: tuple[Color, ...] = ((176, 186, 204), (206, 192, 180), (150, 166, 190), (190, 170, 164), (222, 216, 206), (130, 146, 172))
SIGNS: tuple[Color, ...] = ((230, 80, 80), (60, 150, 200), (250, 200, 80), (90, 180, 120), (220, 110, 170))
PASTELS: tuple[Color, ...] = (
    (250, 250, 252), (252, 232, 226), (226, 240, 250), (236, 246, 226), (250, 242, 216), (236, 228, 248), (214, 216, 224),
    (255, 222, 230),
)


def city(b: Brush) -> None:
    """A street running away between tall houses with windows and signs; wires overhead."""
    w, h = b.width, b.height
    sky = b.rng.choice(SKIES)
    dusk = sky is SKIES[2]
    vx, vy = w * 0.5, h * 0.6
    b.fall(0, h * 0.66, list(sky))
    cloud(b, w * 0.5, h * 0.2, 320, mix((255, 255, 255), sky[2], 0.2), mix(sky[1], (255, 255, 255), 0.4))
    for i in range(7):
        x0 = w * (0.24 + 0.075 * i)
        b.rect((x0, h * b.rng.uniform(0.36, 0.5), x0 + w * 0.08, vy + 20), mix(WALLS[i % 6], sky[2], 0.5))
    b.rect((-20, vy, w + 20, h + 20), (192, 190, 194))
    b.poly([(vx - w * 0.34, h + 20), (vx - 22, vy), (vx + 22, vy), (vx + w * 0.34, h + 20)], (122, 124, 138))
    for side in (-1, 1):
        b.line([(vx + side * 22, vy), (vx + side * w * 0.34, h + 20)], (232, 230, 226), 7)
        for step in (3, 2, 1, 0):
            _house(b, side, step, (vx, vy), dusk)
    for k in (0.12, 0.32, 0.6):
        y = vy + (h - vy) * k
        b.poly([(vx - 4 - 10 * k, y), (vx + 4 + 10 * k, y), (vx + 6 + 14 * k, y + 40 * k + 8), (vx - 6 - 14 * k,
                                                                                                y + 40 * k + 8)], (244, 240, 220))
    for i in range(3):
        b.line([(-10, h * (0.05 + 0.035 * i)), (w * 0.5, h * (0.13 + 0.02 * i)), (w + 10, h * (0.03 + 0.04 * i))], (60, 60, 76),
               3)


def _house(b: Brush, side: int, step: int, vanish: tuple[float, float], dusk: bool) -> None:
    """One facade; `step` 0 is nearest. Its face recedes to the vanishing point."""
    w, h = b.width, b.height
    near, far = (0.56, 0.4, 0.27, 0.17)[step] * w, (0.4, 0.27, 0.17, 0.1)[step] * w
    tall = h * b.rng.uniform(0.5, 0.75) if step else h * 0.8
    wall = mix(b.rng.choice(WALLS), (255, 190, 150) if dusk else (230, 240, 250), 0.08 * step + (0.15 if dusk else 0))
    vx, vy = vanish

    def at(reach: float, up: float) -> tuple[float, float]:
        """Point on the facade's plane: `reach` from the middle line, `up` 0 at eye level."""
        return vx + side * reach, vy - up * tall * reach / (0.5 * w)

    floor = -0.36
    b.poly([at(near, 1), at(far, 1), at(far, floor), at(near, floor)], wall, ink=2)
    lit = (255, 226, 140) if dusk else (224, 240, 250)
    rows, columns = 6, 3
    for row in range(rows):
        for column in range(columns):
            r0, r1 = near + (far - near) * (column + 0.2) / columns, near + (far - near) * (column + 0.8) / columns
            u0, u1 = 0.12 + 0.145 * row, 0.21 + 0.145 * row
            glass = lit if b.rng.random() < 0.6 else mix(wall, (50, 64, 100), 0.6)
            b.poly([at(r0, u1), at(r1, u1), at(r1, u0), at(r0, u0)], glass)
    for column in range(2):  # shop fronts: a pane and a door
        r0, r1 = near + (far - near) * (0.08 + 0.48 * column), near + (far - near) * (0.46 + 0.46 * column)
        b.poly([at(r0, -0.04), at(r1, -0.04), at(r1, -0.24 - 0.1 * column), at(r0, -0.24 - 0.1 * column)],
               mix(lit, (120, 140, 170), 0.25 + 0.3 * column), ink=2)
    shop = b.rng.choice(SIGNS)
    b.poly([at(near, 0.09), at(far, 0.09), at(far, 0.0), at(near, 0.0)], shop, ink=1.5)
    reach = far + (near - far) * 0.3
    sign = [at(reach, 0.62), at(reach, 0.28)]
    wide = 0.09 * near
    b.rect((min(sign[0][0], sign[0][0] - side * wide), sign[0][1], max(sign[0][0], sign[0][0] - side * wide), sign[1][1]),
           b.rng.choice(SIGNS), ink=2, round_by=4)


def simple_background(b: Brush) -> None:
    """One pale colour, sometimes with a disc, dots or stripes of a near one."""
    w, h = b.width, b.height
    tone = b.rng.choice(PASTELS)
    deep = mix(tone, b.rng.choice(SIGNS), 0.18)
    b.rect((-20, -20, w + 20, h + 20), tone)
    pattern = b.rng.choice(("plain", "plain", "fade", "disc", "dots", "stripes"))
    if pattern == "fade":
        b.fall(0, h, [tone, deep])
    elif pattern == "disc":
        b.oval((w / 2, h * 0.42), (400, 400), deep)
    elif pattern == "dots":
        for row in range(int(h / 110) + 2):
            for column in range(int(w / 110) + 2):
                b.oval(((column + 0.5 * (row % 2)) * 110, row * 110), (17, 17), deep)
    elif pattern == "stripes":
        for i in range(-8, int(w / 120) + 2):
            b.poly([(i * 120, -20), (i * 120 + 60, -20), (i * 120 + 60 + h * 0.6, h + 20), (i * 120 + h * 0.6, h + 20)], deep)
