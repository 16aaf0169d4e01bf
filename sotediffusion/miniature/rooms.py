"""Indoor places in one-point perspective: living room, bedroom, library, cafe."""

from dataclasses import dataclass

import skia

from sotediffusion.miniature.brush import Brush
from sotediffusion.miniature.palette import Color, mix

WARM, COOL, INK = (255, 236, 200), (214, 232, 255), (70, 50, 48)
BOOKS: tuple[Color, ...] = (
    (150, 58, 52), (52, 92, 124), (66, 110, 76), (196, 158, 84), (116, 76, 116), (222, 204, 172), (62, 60, 84),
)


@dataclass(frozen=True)
class Room:
    """A box seen from its open side; (left, top, right, bottom) is the far wall in units, (width, height) the open side."""

    left: float
    top: float
    right: float
    bottom: float
    width: float
    height: float

    def at(self, u: float, v: float, depth: float) -> tuple[float, float]:
        """Point at u across, v down (both 0 to 1) and `depth` 0 (open side) to 1 (far wall)."""
        near_x, near_y = u * self.width, v * self.height
        far_x, far_y = self.left + u * (self.right - self.left), self.top + v * (self.bottom - self.top)
        share = depth * 2 / (1 + depth)  # further things crowd together
        return near_x + (far_x - near_x) * share, near_y + (far_y - near_y) * share

    def side(self, u: float, v0: float, v1: float, d0: float, d1: float) -> list[tuple[float, float]]:
        """A rectangle on the left (u=0) or right (u=1) wall."""
        return [self.at(u, v0, d0), self.at(u, v0, d1), self.at(u, v1, d1), self.at(u, v1, d0)]

    def flat(self, u0: float, u1: float, v: float, d0: float, d1: float) -> list[tuple[float, float]]:
        """A rectangle lying at height v: a floor plank, a table top."""
        return [self.at(u0, v, d0), self.at(u1, v, d0), self.at(u1, v, d1), self.at(u0, v, d1)]


def _shell(b: Brush, wall: Color, floor: Color, ceiling: Color, planks: int = 9) -> Room:
    """Walls, ceiling and a boarded floor; returns the room to furnish."""
    w, h = b.width, b.height
    room = Room(w * b.rng.uniform(0.12, 0.2), h * 0.09, w * b.rng.uniform(0.8, 0.88), h * 0.66, w, h)
    b.fall(0, room.bottom, [mix(wall, WARM, 0.25), wall])
    b.poly(room.side(0, 0, 1, 0, 1), mix(wall, INK, 0.12))
    b.poly(room.side(1, 0, 1, 0, 1), mix(wall, WARM, 0.25))
    b.poly(room.flat(0, 1, 0, 0, 1), ceiling)
    b.poly(room.flat(0, 1, 1, 0, 1), floor)
    for i in range(planks + 1):
        b.line([room.at(i / planks, 1, 0), room.at(i / planks, 1, 1)], mix(floor, INK, 0.3), 2.2)
    b.poly(room.flat(0, 1, 1, 0.82, 1), mix(floor, INK, 0.5), alpha=0.25)
    b.rect((room.left, room.bottom - h * 0.022, room.right, room.bottom), mix(wall, (255, 255, 255), 0.55), ink=1.5)
    for corner in ((room.left, room.top, room.left, room.bottom), (room.right, room.top, room.right, room.bottom)):
        b.line([corner[:2], corner[2:]], mix(wall, INK, 0.35), 2)
    return room


def _window(b: Brush, x0: float, y0: float, x1: float, y1: float, sky: tuple[Color, Color], curtain: Color) -> None:
    """A window with a view, a cross bar and gathered curtains."""
    b.rect((x0 - 12, y0 - 12, x1 + 12, y1 + 12), (250, 246, 238), ink=2.5, round_by=4)
    b.canvas.save()
    b.canvas.clipRect(skia.Rect(x0, y0, x1, y1))
    b.fall(y0, y1, list(sky), x0, x1)
    b.oval((x0 + (x1 - x0) * 0.3, y1), ((x1 - x0) * 0.3, (y1 - y0) * 0.2), mix(sky[1], (90, 150, 90), 0.6))
    b.oval((x0 + (x1 - x0) * 0.75, y1 - 2), ((x1 - x0) * 0.24, (y1 - y0) * 0.28), mix(sky[1], (80, 140, 96), 0.7))
    b.canvas.restore()
    b.rect((x0 - 12, y1, x1 + 12, y1 + 16), (250, 246, 238), ink=2)
    b.line([((x0 + x1) / 2, y0), ((x0 + x1) / 2, y1)], (250, 246, 238), 10)
    b.line([(x0, (y0 + y1) / 2), (x1, (y0 + y1) / 2)], (250, 246, 238), 8)
    for edge, inner in ((x0 - 26, x0 + (x1 - x0) * 0.2), (x1 + 26, x1 - (x1 - x0) * 0.2)):
        b.poly([(edge, y0 - 30), (inner, y0 - 30), (inner - (inner - edge) * 0.3, (y0 + y1) / 2), (inner, y1 + 40), (edge,
                                                                                                                     y1 + 40)],
               curtain, ink=2.5)
        for k in (0.3, 0.6):
            b.line([(edge + (inner - edge) * k, y0 - 26), (edge + (inner - edge) * k * 0.7, y1 + 36)], mix(curtain, INK, 0.25),
                   3, 0.7)
    b.line([(x0 - 50, y0 - 32), (x1 + 50, y0 - 32)], (150, 110, 76), 9)


def _frame(b: Brush, x: float, y: float, w: float, h: float, picture: tuple[Color, Color]) -> None:
    """A small landscape in a wooden frame."""
    b.rect((x, y, x + w, y + h), (146, 102, 66), ink=2.5)
    b.fall(y + 10, y + h - 10, [picture[0], mix(picture[0], (255, 255, 255), 0.5)], x + 10, x + w - 10)
    b.poly([(x + 10, y + h - 10), (x + 10, y + h * 0.6), (x + w * 0.4, y + h * 0.42), (x + w - 10, y + h * 0.7), (x + w - 10,
                                                                                                                  y + h - 10)],
           picture[1])


def _plant(b: Brush, x: float, y: float, size: float) -> None:
    """A potted plant standing at (x, y)."""
    for lean in (-0.95, -0.62, -0.3, 0.02, 0.36, 0.68, 1.0):
        tip = (x + lean * size * 0.62, y - size * (1.25 - 0.5 * abs(lean)))
        middle = (x + lean * size * 0.26, y - size * 0.62)
        wide = size * 0.1
        green = mix((58, 122, 74), (128, 178, 96), 0.5 + 0.4 * lean)
        b.poly([(x, y - size * 0.3), (middle[0] - wide, middle[1]), tip, (middle[0] + wide, middle[1] + wide * 0.4)], green,
               ink=1.8)
    b.poly([(x - size * 0.26, y - size * 0.34), (x + size * 0.26, y - size * 0.34), (x + size * 0.19, y), (x - size * 0.19, y)],
           (206, 122, 88), ink=2.5)


def _lamp(b: Brush, x: float, top: float, foot: float) -> None:
    """A standing lamp that is on."""
    b.line([(x, top + 60), (x, foot)], (96, 78, 70), 9)
    b.oval((x, foot), (46, 10), (96, 78, 70), ink=2)
    b.poly([(x - 36, top), (x + 36, top), (x + 64, top + 96), (x - 64, top + 96)], (255, 232, 176), ink=2.5)
    b.glow(x, top + 60, 260, (255, 214, 140), 0.5)


def living_room(b: Brush) -> None:
    """Cream walls, a window, pictures, a sofa with cushions, a lamp, a plant, a rug."""
    wall = b.rng.choice(((240, 222, 192), (226, 228, 204), (238, 214, 198)))
    sofa = b.rng.choice(((84, 142, 140), (196, 116, 92), (92, 110, 156)))
    room = _shell(b, wall, (196, 146, 102), (250, 244, 232))
    w, h = b.width, b.height
    b.oval((w / 2, h * 0.86), (w * 0.4, h * 0.1), mix(sofa, (255, 240, 220), 0.55), ink=2)
    b.oval((w / 2, h * 0.86), (w * 0.34, h * 0.075), mix(sofa, (255, 240, 220), 0.75))
    _window(b, w * 0.2, h * 0.16, w * 0.2 + min(230, w * 0.24), h * 0.42, ((126, 190, 244), (226, 242, 250)), mix(sofa, WARM,
                                                                                                                  0.45))
    for i, x in enumerate((0.62, 0.74)):
        _frame(b, w * x, h * (0.17 + 0.05 * i), 96, 120 - 26 * i, ((150, 196, 220), (110, 150, 104)))
    _sofa(b, w * 0.14, w * 0.86, h * 0.5, h * 0.74, sofa)
    _lamp(b, w * 0.9, h * 0.24, h * 0.79)
    _plant(b, w * 0.075, h * 0.82, 260)
    b.poly([(w * 0.2, h * 0.16), (w * 0.42, h * 0.16), (w * 0.8, h), (w * 0.4, h)], (255, 246, 214), alpha=0.14)
    b.glow(room.left, h * 0.28, w * 0.5, (255, 246, 220), 0.35)


def _sofa(b: Brush, left: float, right: float, top: float, foot: float, color: Color) -> None:
    tall = foot - top
    b.rect((left, top, right, foot), color, ink=3, round_by=34)
    b.rect((left + 30, top + tall * 0.08, right - 30, top + tall * 0.5), mix(color, (255, 255, 255), 0.12), round_by=26)
    for edge in (left - 30, right - 40):
        b.rect((edge, top + tall * 0.3, edge + 70, foot + 6), mix(color, (255, 255, 255), 0.08), ink=3, round_by=28)
    b.rect((left + 36, top + tall * 0.54, right - 36, foot - tall * 0.1), mix(color, (255, 255, 255), 0.2), ink=2.5, round_by=18)
    for x, tone in ((left + 70, (250, 214, 120)), (right - 190, (240, 150, 130))):
        b.rect((x, top + tall * 0.2, x + 120, top + tall * 0.62), tone, ink=2.5, round_by=24)


def bedroom(b: Brush) -> None:
    """Lilac or rose walls, a bed with pillows, fairy lights, a shelf with a plush bear, a window at dusk."""
    wall = b.rng.choice(((224, 204, 236), (246, 208, 216), (202, 216, 240)))
    quilt = b.rng.choice(((246, 168, 190), (150, 170, 226), (178, 150, 214)))
    _shell(b, wall, (222, 186, 158), (252, 246, 250), planks=7)
    w, h = b.width, b.height
    _window(b, w * 0.66, h * 0.17, w * 0.66 + min(220, w * 0.22), h * 0.42, ((120, 110, 190), (250, 180, 160)), mix(quilt,
                                                                                                                    (255, 255,
                                                                                                                     255), 0.6))
    _bed(b, quilt)
    _shelf(b, w * 0.13, w * 0.13 + 230, h * 0.27)
    points = [(w * i / 12, h * (0.07 + 0.045 * (1 - ((i % 4) / 2 - 1) ** 2))) for i in range(13)]
    b.line(points, (140, 110, 130), 2.5)
    for i, (x, y) in enumerate(points):
        tone = ((255, 226, 140), (255, 170, 190), (170, 220, 255))[i % 3]
        b.oval((x, y + 10), (11, 14), tone)
        b.glow(x, y + 10, 60, tone, 0.55)


def _bed(b: Brush, quilt: Color) -> None:
    """Headboard to the left, the quilt running out of the picture on both sides."""
    w, h = b.width, b.height
    b.rect((-40, h * 0.44, w * 0.1, h * 0.9), (164, 112, 84), ink=3, round_by=30)
    b.rect((-40, h * 0.6, w * 1.1, h * 1.1), mix(quilt, INK, 0.12), ink=3, round_by=40)
    b.rect((-40, h * 0.59, w * 1.1, h * 0.7), (252, 248, 252), ink=2.5, round_by=36)
    for x, y in ((w * 0.09, h * 0.53), (w * 0.2, h * 0.56)):
        b.rect((x - 30, y, x + 150, y + h * 0.1), (255, 252, 250), ink=2.5, round_by=36)
    size = 70
    for row in range(4):
        for column in range(int(w / size / 2) + 2):
            x, y = (column * 2 + row % 2) * size - 40, h * 0.73 + row * size
            b.oval((x, y), (15, 15), mix(quilt, (255, 255, 255), 0.55))


def _shelf(b: Brush, left: float, right: float, y: float) -> None:
    b.rect((left, y, right, y + 14), (176, 124, 92), ink=2.5)
    for i in range(4):
        b.rect((left + 12 + i * 22, y - 70 - 12 * (i % 2), left + 32 + i * 22, y), BOOKS[(i * 2 + 1) % len(BOOKS)], ink=1.8)
    x = right - 62
    for dx in (-26, 26):
        b.oval((x + dx, y - 92), (14, 14), (196, 146, 104), ink=2)
    b.oval((x, y - 28), (34, 30), (196, 146, 104), ink=2)
    b.oval((x, y - 72), (36, 32), (206, 158, 116), ink=2)
    b.oval((x, y - 64), (14, 11), (244, 222, 196))


def library(b: Brush) -> None:
    """Bookcases on three sides, a tall arched window, a green desk lamp's glow."""
    wood = b.rng.choice(((124, 78, 50), (104, 66, 52), (140, 92, 56)))
    room = _shell(b, mix(wood, WARM, 0.3), (150, 100, 68), (92, 62, 50), planks=11)
    w, h = b.width, b.height
    for u in (0.0, 1.0):
        b.poly(room.side(u, -0.02, 1, 0, 1), mix(wood, INK, 0.3))
        for row in range(5):
            _side_books(b, room, u, 0.03 + row * 0.19, wood)
    middle = w / 2
    half = min(130, w * 0.13)
    for left, right in ((room.left, middle - half - 26), (middle + half + 26, room.right)):
        _bookcase(b, left, room.top, right, room.bottom, wood)
    arch = skia.Path().addRoundRect(skia.Rect(middle - half, room.top + 50, middle + half, room.bottom + half), half, half)
    b.canvas.save()
    b.canvas.clipRect(skia.Rect(0, 0, w, room.bottom - 60))
    b.shape(arch, (255, 240, 200), ink=8)
    b.canvas.restore()
    b.line([(middle, room.top + 50), (middle, room.bottom - 60)], wood, 7)
    for k in (0.3, 0.55, 0.8):
        y = room.top + 50 + (room.bottom - room.top - 110) * k
        b.line([(middle - half, y), (middle + half, y)], wood, 6)
    b.glow(middle, h * 0.3, w * 0.5, (255, 226, 160), 0.45)
    b.poly([(middle - half, room.top + 60), (middle + half, room.top + 60), (w * 0.86, h), (w * 0.3, h)], (255, 236, 180),
           alpha=0.11)


def _side_books(b: Brush, room: Room, u: float, top: float, wood: Color) -> None:
    """One shelf of a side wall: spines narrowing with depth."""
    count = 15
    for i in range(count):
        tall = 0.11 + 0.045 * b.rng.random()
        b.poly(room.side(u, top + 0.165 - tall, top + 0.165, i / count, (i + 0.9) / count), b.rng.choice(BOOKS))
    b.poly(room.side(u, top + 0.165, top + 0.19, 0, 1), wood, ink=1.5)


def _bookcase(b: Brush, left: float, top: float, right: float, bottom: float, wood: Color) -> None:
    b.rect((left, top, right, bottom), mix(wood, INK, 0.35), ink=2)
    rows, step = 6, (bottom - top) / 6
    for row in range(rows):
        x, base = left + 8, top + (row + 1) * step - 9
        while x < right - 20:
            wide, tall = b.rng.uniform(13, 26), step * b.rng.uniform(0.6, 0.84)
            color = b.rng.choice(BOOKS)
            b.rect((x, base - tall, min(x + wide, right - 4), base), color)
            b.line([(x + 2, base - tall * 0.75), (min(x + wide, right - 4) - 2, base - tall * 0.75)], mix(color, WARM, 0.5), 2.5)
            x += wide + 1.5
        b.rect((left, base, right, base + 11), wood, ink=1.5)


def cafe(b: Brush) -> None:
    """A street window under an awning, hanging lamps, a counter with cups, a chalk board, brick."""
    brick = b.rng.choice(((186, 112, 84), (112, 136, 118), (168, 128, 104)))
    room = _shell(b, brick, (150, 112, 84), (84, 66, 58), planks=8)
    w, h = b.width, b.height
    for row in range(9):
        y = room.top + (room.bottom - room.top) * row / 9
        b.line([(room.left, y), (room.right, y)], mix(brick, WARM, 0.3), 2)
        for k in range(8):
            x = room.left + (room.right - room.left) * (k + 0.5 * (row % 2)) / 8
            b.line([(x, y), (x, y + (room.bottom - room.top) / 9)], mix(brick, WARM, 0.3), 2)
    _cafe_window(b, room)
    _chalk_board(b, w * 0.72, h * 0.2, min(200, w * 0.2), h * 0.26)
    _counter(b, w, h)
    for x in (0.14, 0.38, 0.62, 0.86):
        y = h * (0.15 if x in (0.14, 0.86) else 0.1)
        b.line([(w * x, 0), (w * x, y)], (54, 44, 44), 4)
        b.poly([(w * x - 14, y), (w * x + 14, y), (w * x + 44, y + 44), (w * x - 44, y + 44)], (62, 70, 72), ink=2)
        b.oval((w * x, y + 46), (22, 16), (255, 240, 190))
        b.glow(w * x, y + 50, 170, (255, 214, 140), 0.6)


def _cafe_window(b: Brush, room: Room) -> None:
    w, h = b.width, b.height
    left, right, top, bottom = room.left + 20, w * 0.62, h * 0.18, h * 0.5
    b.rect((left - 12, top - 12, right + 12, bottom + 12), (66, 54, 50), ink=2)
    b.fall(top, bottom, [(196, 226, 240), (250, 240, 220)], left, right)
    for i in range(4):
        x = left + (right - left) * i / 4
        b.rect((x + 6, top + 50 + 30 * (i % 2), x + (right - left) / 4 - 6, bottom), mix((204, 196, 190), (170, 190, 200), i / 3))
    for k in (1 / 3, 2 / 3):
        b.line([(left + (right - left) * k, top), (left + (right - left) * k, bottom)], (66, 54, 50), 10)
    stripes = 10
    for i in range(stripes):
        x0, x1 = left - 20 + (right - left + 40) * i / stripes, left - 20 + (right - left + 40) * (i + 1) / stripes
        b.poly([(x0 + 8, top - 34), (x1 + 8, top - 34), (x1, top + 26), (x0, top + 26)], ((206, 76, 70), (252, 246, 236))[i % 2],
               ink=1.2)


def _chalk_board(b: Brush, x: float, y: float, w: float, h: float) -> None:
    b.rect((x, y, x + w, y + h), (150, 108, 72), ink=2.5)
    b.rect((x + 12, y + 12, x + w - 12, y + h - 12), (52, 66, 62))
    for i in range(4):
        row = y + 44 + i * (h - 70) / 4
        b.line([(x + 30, row), (x + w * b.rng.uniform(0.5, 0.8), row)], (236, 236, 224), 6)
        b.oval((x + w - 36, row), (8, 8), (250, 214, 120))


def _counter(b: Brush, w: float, h: float) -> None:
    top = h * 0.66
    b.rect((-20, top, w + 20, h * 1.02), (122, 84, 62), ink=3)
    for i in range(9):
        b.line([(w * i / 8, top + 40), (w * i / 8, h)], (96, 64, 50), 4)
    b.rect((-20, top - 14, w + 20, top + 30), (186, 136, 96), ink=3, round_by=8)
    for x in (w * 0.1, w * 0.86):
        b.rect((x - 34, top - 68, x + 34, top - 12), (250, 248, 242), ink=2.5, round_by=14)
        b.oval((x, top - 66), (32, 9), (128, 84, 60), ink=1.5)
        for dx in (-10, 10):
            b.line([(x + dx, top - 84), (x + dx + 8, top - 104), (x + dx, top - 124)], (255, 255, 255), 4, 0.6)
