"""Procedural faces: invented people, drawn from a few dozen numbers each, at any resolution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

HAIR = ("no", "short", "long", "curly", "fringed", "bun")
HAIR_COLORS = {
    "black": (0.10, 0.09, 0.11),
    "brown": (0.36, 0.22, 0.13),
    "blond": (0.87, 0.71, 0.39),
    "red": (0.68, 0.29, 0.12),
    "grey": (0.70, 0.70, 0.72),
}
EYE_COLORS = {
    "brown": (0.33, 0.19, 0.10),
    "blue": (0.25, 0.47, 0.75),
    "green": (0.27, 0.52, 0.30),
    "grey": (0.45, 0.50, 0.55),
}
GLASSES = ("no", "glasses", "sunglasses")
HATS = ("no", "beanie", "sun hat")
COLORS = {  # of backgrounds, clothes and hats
    "red": (0.80, 0.30, 0.28),
    "orange": (0.92, 0.60, 0.30),
    "yellow": (0.93, 0.83, 0.47),
    "green": (0.42, 0.66, 0.45),
    "teal": (0.34, 0.65, 0.68),
    "blue": (0.38, 0.52, 0.80),
    "purple": (0.60, 0.46, 0.72),
    "grey": (0.68, 0.69, 0.72),
}
SKIN = ((0.98, 0.85, 0.76), (0.93, 0.74, 0.60), (0.80, 0.58, 0.42), (0.60, 0.40, 0.27), (0.37, 0.24, 0.17))
NAMES = {  # categorical attributes: the words their numbers stand for
    "hair": HAIR,
    "hair_color": tuple(HAIR_COLORS),
    "eye_color": tuple(EYE_COLORS),
    "glasses": GLASSES,
    "hat": HATS,
    "beard": ("no", "beard"),
    "mouth_open": ("closed", "open"),
    "background": tuple(COLORS),
    "clothes": tuple(COLORS),
    "hat_color": tuple(COLORS),
}
CHANCES = {  # where the words are not equally likely
    "hair": (0.08, 0.28, 0.22, 0.16, 0.16, 0.10),
    "hair_color": (0.26, 0.28, 0.20, 0.13, 0.13),
    "eye_color": (0.45, 0.25, 0.17, 0.13),
    "glasses": (0.68, 0.22, 0.10),
    "hat": (0.76, 0.13, 0.11),
    "beard": (0.84, 0.16),
    "mouth_open": (0.68, 0.32),
}
RANGES = {  # attributes that are numbers: (least, greatest), evenly spread
    "pose": (-1.0, 1.0),  # where the face looks: -1 = to the left of the image, 1 = to the right
    "tilt": (-0.16, 0.16),  # radians, clockwise
    "skin": (0.0, 1.0),  # light to dark
    "light": (-1.0, 1.0),  # where the light comes from: left to right
    "smile": (-0.7, 1.0),
    "width": (-1.0, 1.0),
    "jaw": (0.0, 1.0),
    "eye_size": (-1.0, 1.0),
    "brow": (-1.0, 1.0),  # worried to stern
    "nose": (-1.0, 1.0),
    "zoom": (-1.0, 1.0),
    "x": (-1.0, 1.0),
    "y": (-1.0, 1.0),
    "warmth": (-1.0, 1.0),  # colour of the light
}
CHUNK = 128  # images drawn at once: their layers fit into a processor's cache


class Faces(NamedTuple):
    """What `faces` returns: images (n, 3, H, W) in [0, 1], attributes (a tensor (n,) each) and n captions."""

    images: Tensor
    attributes: dict[str, Tensor]
    captions: list[str]


def faces(n: int, size: int = 32, seed: int = 0, fixed: Mapping[str, float | int] | None = None) -> Faces:
    """`n` invented faces: images (n, 3, size, size) in [0, 1], float32, with their attributes and captions.

    Face i depends on `seed`, i and `fixed` only: not on `n`, and not on `size`, which only sets how finely the same face
    is drawn. Edges are antialiased by their coverage of the pixel. `attributes` maps each name of RANGES to a number and
    each name of NAMES to an index into its words; `captions` say the striking ones in words. `fixed` sets attributes for
    every face, the others stay what they were: faces(8, fixed={"glasses": 1}) are the people of faces(8), wearing glasses.

    The law is symmetric: the mirror image of a face is as likely as the face. There is no file behind the faces and
    nobody whom they show. Raises ValueError for bad arguments and for an attribute that does not exist.
    """
    for value, argument, least in ((n, "n", 1), (size, "size", 8), (seed, "seed", 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{argument} must be a whole number, at least {least}, but {value!r} came")
    attributes = _draw(n, seed)
    for name, value in (fixed or {}).items():
        _check_attribute(name, value)
        attributes[name] = torch.full_like(attributes[name], value)
    images = torch.empty(n, 3, size, size)
    for i in range(0, n, CHUNK):
        images[i : i + CHUNK] = _render({name: value[i : i + CHUNK] for name, value in attributes.items()}, size)
    return Faces(images, attributes, [_caption(attributes, i) for i in range(n)])


def _check_attribute(name: str, value: float) -> None:
    if name not in RANGES and name not in NAMES:
        raise ValueError(f"fixed must name attributes among {', '.join([*RANGES, *NAMES])}, but {name!r} came")
    low, high = RANGES.get(name, (0, len(NAMES.get(name, ())) - 1))
    if not low <= value <= high or (name in NAMES and value != int(value)):
        kind = "a whole number" if name in NAMES else "a number"
        raise ValueError(f"fixed[{name!r}] must be {kind} from {low} to {high}, but {value!r} came")


def _draw(n: int, seed: int) -> dict[str, Tensor]:
    """The attributes of n faces. Rows of one table of uniform numbers, so face i does not depend on n."""
    uniform = np.random.default_rng(seed).random((n, 32))
    attributes = {}
    for column, (name, (low, high)) in enumerate(RANGES.items()):
        attributes[name] = torch.from_numpy(low + (high - low) * uniform[:, column]).float()
    for column, (name, words) in enumerate(NAMES.items(), start=len(RANGES)):
        chances = np.asarray(CHANCES.get(name, np.ones(len(words)) / len(words)))
        index = np.searchsorted(chances.cumsum() / chances.sum(), uniform[:, column], side="right")
        attributes[name] = torch.from_numpy(index.clip(0, len(words) - 1)).long()
    return attributes


def _caption(attributes: dict[str, Tensor], i: int) -> str:
    """One sentence; left and right are the image's."""
    number = {name: attributes[name][i].item() for name in ("pose", "smile")}
    word = {name: words[attributes[name][i]] for name, words in NAMES.items()}
    mood = "smiling" if number["smile"] > 0.35 else "sad" if number["smile"] < -0.25 else "calm"
    hair = "no hair" if word["hair"] == "no" else f"{word['hair_color']} hair in a bun"
    if word["hair"] not in ("no", "bun"):
        hair = f"{word['hair']} {word['hair_color']} hair"
    extras = [hair]
    if word["beard"] != "no":
        extras.append("a beard")
    if word["glasses"] != "no":
        extras.append(word["glasses"])
    if word["hat"] != "no":
        extras.append(f"a {word['hat_color']} {word['hat']}")
    listed = extras[0] if len(extras) == 1 else f"{', '.join(extras[:-1])} and {extras[-1]}"
    looking = "" if abs(number["pose"]) < 0.4 else f", looking {'left' if number['pose'] < 0 else 'right'}"
    caption = f"a {mood} face with {listed}{looking}, on a {word['background']} background"
    return caption.replace(" a orange", " an orange")


class _Canvas:
    """Images being painted, back to front, with the coordinates of every pixel in the frame of each head."""

    def __init__(self, a: dict[str, Tensor], size: int):
        count = len(a["pose"])
        place = (torch.arange(size) + 0.5) / size * 2 - 1
        zoom = 1.09 + 0.06 * _per_face(a["zoom"])
        x = place.view(1, 1, size).expand(count, size, size)
        y = place.view(1, size, 1).expand(count, size, size)
        self.page = (x, y)
        x, y = x - 0.06 * _per_face(a["x"]), y - 0.04 * _per_face(a["y"]) - 0.07
        cos, sin = _per_face(a["tilt"]).cos(), _per_face(a["tilt"]).sin()
        self.x, self.y = (cos * x + sin * y) / zoom, (cos * y - sin * x) / zoom  # a head is about 1.1 wide, 1.4 high
        self.pixel = 2 / size / zoom
        self.image = torch.zeros(count, 3, size, size)

    def inside(self, distance: Tensor) -> Tensor:
        """The share of each pixel that a shape covers, from the signed distance to its edge (negative inside)."""
        return (0.5 - distance / self.pixel).clamp(0, 1)

    def paint(self, cover: Tensor, color: Tensor) -> None:
        """Lay a colour (B, 3, 1, 1) or (B, 3, H, W) over the image where `cover` (B, H, W) says."""
        self.image += cover[:, None] * (color - self.image)

    def ellipse(self, cx: Tensor | float, cy: Tensor | float, rx: Tensor | float, ry: Tensor | float) -> Tensor:
        """Signed distance to an ellipse, exact to first order at its edge, where it matters."""
        u, v = (self.x - cx) / rx, (self.y - cy) / ry
        radius = (u * u + v * v).sqrt()
        return (radius - 1) * radius / ((u / rx) ** 2 + (v / ry) ** 2).sqrt().clamp(min=1e-6)

    def band(self, x: Tensor, curve: Tensor, half_width: Tensor | float, slope: Tensor | float) -> Tensor:
        """Signed distance to a band around y = curve(x), for |x| < 1, thinner at its ends."""
        taper = (1 - x * x).clamp(min=0).sqrt()
        return ((self.y - curve).abs() - half_width * taper) / (1 + slope**2) ** 0.5 + (x.abs() > 1) * 1.0


def _per_face(value: Tensor) -> Tensor:
    return value.float().view(-1, 1, 1)


def _colors(table: Tensor, index: Tensor) -> Tensor:
    return table[index].view(-1, 3, 1, 1)


def _table(colors: Mapping[str, tuple[float, float, float]]) -> Tensor:
    return torch.tensor(list(colors.values()))


def _between(low: Tensor | float, high: Tensor | float, value: Tensor) -> Tensor:
    """0 below low, 1 above high, smooth in between."""
    share = ((value - low) / (high - low)).clamp(0, 1)
    return share * share * (3 - 2 * share)


def _skin(tone: Tensor) -> Tensor:
    place = tone.float() * (len(SKIN) - 1)
    left = place.floor().clamp(max=len(SKIN) - 2).long()
    table, share = torch.tensor(SKIN), (place - left).view(-1, 1)
    return (table[left] * (1 - share) + table[left + 1] * share).view(-1, 3, 1, 1)


def _render(a: dict[str, Tensor], size: int) -> Tensor:
    """Images (B, 3, size, size) of faces with attributes `a`, painted back to front."""
    c = _Canvas(a, size)
    p = {name: _per_face(value) for name, value in a.items()}
    hair, hat = p["hair"], p["hat"]
    head_x, jaw = 0.53 + 0.045 * p["width"], 0.10 + 0.16 * p["jaw"]
    head_y = 0.68
    narrow = 1 - jaw * _between(-0.1, head_y, c.y)  # of the lower half: the chin
    turn = p["pose"]
    skin = _skin(a["skin"])
    hair_color = _colors(_table(HAIR_COLORS), a["hair_color"])

    _paint_background(c, a)

    # Hair behind the head, then neck and shoulders, then ears.
    long = ((c.x.abs() / (head_x + 0.17)) ** 4 + ((c.y - 0.12) / 0.98) ** 4) ** 0.25
    c.paint(c.inside((long - 1) * 0.6) * (hair == 2), hair_color * 0.72)
    c.paint(c.inside(_curls(c, head_x)) * (hair == 3) * (hat == 0), hair_color * 0.82)
    c.paint(c.inside(c.ellipse(-0.1 * turn, -0.80, 0.20, 0.19)) * (hair == 5) * (hat == 0), hair_color * 0.9)
    clothes = _colors(_table(COLORS), a["clothes"]) * 0.82
    c.paint(c.inside(c.ellipse(0.0, 1.29, 0.86, 0.55)), clothes)
    collar = torch.where(c.y < 0.74, -1.0, c.ellipse(0.0, 0.74, 0.25, 0.15))
    neck = torch.maximum(torch.maximum(c.x.abs() - 0.24, 0.3 - c.y), collar)
    c.paint(c.inside(neck), skin * 0.74)
    for side in (-1, 1):
        ear = c.ellipse(side * head_x * 0.98 - 0.10 * turn, 0.10, 0.10, 0.15)
        c.paint(c.inside(ear), skin * 0.86)

    # The head, lit from one side.
    u, v = c.x / (head_x * narrow), c.y / head_y
    radius = (u * u + v * v).sqrt()
    head_distance = (radius - 1) * radius / ((u / head_x) ** 2 + (v / head_y) ** 2).sqrt().clamp(min=1e-6)
    head = c.inside(head_distance)
    depth = (1 - (u * u + v * v)).clamp(min=0).sqrt()
    lit = 0.45 * p["light"] * u - 0.25 * v + 0.55 * depth
    shade = (0.72 + 0.42 * lit).clamp(0.45, 1.16)
    c.paint(head, skin * shade[:, None])
    for side in (-1, 1):  # cheeks
        blush = (-((c.x - side * 0.30 - 0.17 * turn) ** 2 + (c.y - 0.22) ** 2) / 0.018).exp()
        c.paint(0.22 * blush * head, skin * torch.tensor([0.95, 0.55, 0.50]).view(1, 3, 1, 1))

    _paint_beard(c, a, head, turn, hair_color)
    _paint_eyes(c, a, turn, skin, hair_color)
    _paint_nose(c, p, turn, skin)
    _paint_mouth(c, a, p, turn, skin)
    _paint_hair(c, a, p, head_x, head_distance, shade, hair_color)
    _paint_glasses(c, p, turn, head_x)
    _paint_hat(c, a, p, head_x, turn)

    tint = torch.tensor([0.05, 0.0, -0.06]).view(1, 3, 1, 1) * p["warmth"][:, None]
    return (c.image * (1 + tint)).clamp(0, 1)


def _paint_background(c: _Canvas, a: dict[str, Tensor]) -> None:
    """A wall, lighter above and towards the light."""
    x, y = c.page
    glow = 1.02 - 0.14 * y + 0.10 * _per_face(a["light"]) * x
    c.image += _colors(_table(COLORS), a["background"]) * 0.92 * glow[:, None]


def _curls(c: _Canvas, head_x: Tensor) -> Tensor:
    """Signed distance to a mop of curls around the head."""
    angle = torch.atan2(c.x, -(c.y + 0.12))
    bumps = 0.035 * (11 * angle).cos()
    return c.ellipse(0.0, -0.12, head_x + 0.20, 0.74) - bumps


def _paint_beard(c: _Canvas, a: dict[str, Tensor], head: Tensor, turn: Tensor, hair_color: Tensor) -> None:
    x = c.x - 0.10 * turn
    edge = 0.30 + 0.10 * (7 * x).cos().clamp(min=-0.3) - 0.9 * (x.abs() - 0.34).clamp(min=0)
    lip = c.inside(c.ellipse(0.17 * turn, 0.375, 0.17, 0.06))  # the mouth stays free
    cover = _between(-0.04, 0.04, c.y - edge) * head * (1 - lip) * _per_face(a["beard"])
    c.paint(0.85 * cover, hair_color * 0.85)


def _paint_eyes(c: _Canvas, a: dict[str, Tensor], turn: Tensor, skin: Tensor, hair_color: Tensor) -> None:
    iris = _colors(_table(EYE_COLORS), a["eye_color"])
    size = 1 + 0.16 * _per_face(a["eye_size"])
    white, black = torch.tensor(0.97), torch.tensor(0.05)
    for side in (-1, 1):
        near = 1 - 0.22 * side * turn  # the eye that turns away looks narrower
        cx, cy = side * 0.225 * (1 - 0.06 * turn.abs()) + 0.18 * turn, -0.02
        rx, ry = 0.118 * size * near.clamp(max=1.1), 0.078 * size
        ball = c.inside(c.ellipse(cx, cy, rx, ry))
        c.paint(c.inside(c.ellipse(cx, cy, rx + 0.025, ry + 0.03)) * 0.35, skin * 0.62)
        c.paint(ball, white.view(1, 1, 1, 1))
        gaze = cx + 0.035 * turn
        c.paint(ball * c.inside(c.ellipse(gaze, cy, 0.072 * size, 0.076 * size)), iris)
        c.paint(ball * c.inside(c.ellipse(gaze, cy, 0.036 * size, 0.038 * size)), black.view(1, 1, 1, 1))
        glint = c.inside(c.ellipse(gaze + 0.025 * _per_face(a["light"]), cy - 0.03, 0.017, 0.017))
        c.paint(0.9 * glint * ball, white.view(1, 1, 1, 1))
        x = (c.x - cx) / (rx + 0.03)
        lid = cy - (ry + 0.004) * (1 - x * x).clamp(min=0)
        c.paint(0.8 * c.inside(c.band(x, lid, 0.018, 0.5)), hair_color * 0.25)
        x = (c.x - cx) / 0.155
        brow = cy - 0.175 - 0.035 * (1 - x * x) + 0.035 * side * x * -_per_face(a["brow"])
        c.paint(0.9 * c.inside(c.band(x, brow, 0.028, 0.3)), hair_color * 0.62)


def _paint_nose(c: _Canvas, p: dict[str, Tensor], turn: Tensor, skin: Tensor) -> None:
    tip_x, tip_y = 0.235 * turn, 0.185 + 0.02 * p["nose"]
    width = 0.075 + 0.018 * p["nose"]
    c.paint(0.55 * c.inside(c.ellipse(tip_x, tip_y + 0.012, width + 0.02, 0.052)), skin * 0.66)
    c.paint(c.inside(c.ellipse(tip_x, tip_y - 0.012, width, 0.052)), skin * 0.98)
    side = torch.where(p["light"] > 0, -1.0, 1.0)  # the shadow falls away from the light
    along = ((c.y - 0.08) / 0.13).clamp(-1, 1)
    ridge = (c.x - 0.21 * turn - side * (0.035 + 0.02 * along)).abs() - 0.018
    c.paint(0.28 * c.inside(torch.maximum(ridge, (c.y - 0.07).abs() - 0.11)) * p["light"].abs(), skin * 0.55)
    c.paint(0.35 * c.inside(c.ellipse(tip_x - side * 0.02, tip_y - 0.02, 0.026, 0.022)), skin * 0 + 1)


def _paint_mouth(c: _Canvas, a: dict[str, Tensor], p: dict[str, Tensor], turn: Tensor, skin: Tensor) -> None:
    lips = skin * torch.tensor([0.86, 0.46, 0.45]).view(1, 3, 1, 1) + torch.tensor([0.06, 0.0, 0.02]).view(1, 3, 1, 1)
    half = 0.165 + 0.035 * p["smile"].clamp(min=0)
    x = (c.x - 0.17 * turn) / (half * (1 - 0.12 * turn.abs()))
    bend = 0.085 * p["smile"]
    line = 0.375 - bend / 2 + bend * (1 - x * x)
    is_open = p["mouth_open"]
    gap = is_open * (0.045 + 0.025 * p["smile"].clamp(min=0))
    slope = 2 * bend / half * x
    c.paint(c.inside(c.band(x, line + gap / 2, 0.040 + gap, slope)), lips)
    inner = c.inside(c.band(x * 1.18, line + gap / 2, gap, slope)) * is_open
    c.paint(inner, torch.tensor([0.32, 0.08, 0.09]).view(1, 3, 1, 1))
    teeth = inner * c.inside(c.y - line + 0.012)
    c.paint(teeth, torch.tensor(0.95).view(1, 1, 1, 1))
    c.paint(0.75 * c.inside(c.band(x, line, 0.012, slope)) * (1 - is_open), lips * 0.45)


def _paint_hair(
    c: _Canvas,
    a: dict[str, Tensor],
    p: dict[str, Tensor],
    head_x: Tensor,
    head_distance: Tensor,
    shade: Tensor,
    hair_color: Tensor,
) -> None:
    """The hair that frames the forehead."""
    x = c.x - 0.05 * p["pose"]
    temples = 1.1 * (x.abs() - 0.30).clamp(min=0)
    hairline = -0.40 + 0.10 * (3.2 * x).cos() * 0.5 + temples * 1.5
    fringe = -0.27 + 0.03 * (26 * x).cos() + temples
    side = torch.where(p["light"] > 0, 1.0, -1.0)
    parted = -0.50 + 0.55 * (x + 0.18 * side).abs() + temples * 0.8
    style = p["hair"]
    edge = torch.where(style == 4, fringe, torch.where(style == 2, parted, hairline))
    thick = torch.where(style == 3, 0.10, torch.where(style == 1, 0.045, 0.07))
    lowest = torch.where(style == 2, 0.62, torch.where(style == 3, 0.12, 0.06))
    above = torch.maximum((c.y - edge) * 0.7, c.y - lowest)
    cap = torch.maximum(head_distance - thick, above)
    strands = 1 + 0.07 * (30 * (side * x + 0.25 * c.y)).sin()
    glow = (0.70 + 0.45 * (shade - 0.72)).clamp(0.5, 1.1) / 0.78
    c.paint(c.inside(cap) * (style > 0), hair_color * (glow * strands)[:, None])


def _paint_glasses(c: _Canvas, p: dict[str, Tensor], turn: Tensor, head_x: Tensor) -> None:
    worn, dark = p["glasses"] > 0, p["glasses"] == 2
    toward = torch.where(p["light"] > 0, 1.0, -1.0)
    frame = torch.tensor([0.13, 0.12, 0.15]).view(1, 3, 1, 1)
    for side in (-1, 1):
        cx = side * 0.235 * (1 - 0.06 * turn.abs()) + 0.18 * turn
        rim = c.ellipse(cx, -0.01, 0.185 * (1 - 0.12 * side * turn), 0.155)
        c.paint(c.inside(rim) * worn * torch.where(dark, 0.88, 0.14), torch.where(dark, 0.10, 0.90)[:, None])
        c.paint(c.inside(rim.abs() - 0.024) * worn, frame)
        shine = (toward * (c.x - cx) + c.y * 0.6 + 0.03).abs() - 0.03
        c.paint(0.30 * c.inside(torch.maximum(shine, rim + 0.03)) * dark, torch.tensor(0.9).view(1, 1, 1, 1))
        arm = torch.maximum((c.y + 0.05).abs() - 0.02, (c.x - side * (head_x + 0.36) / 2 - 0.05 * turn).abs() - 0.08)
        c.paint(c.inside(arm) * worn, frame)
    bridge = torch.maximum((c.y + 0.03).abs() - 0.02, (c.x - 0.18 * turn).abs() - 0.055)
    c.paint(c.inside(bridge) * worn, frame)


def _paint_hat(c: _Canvas, a: dict[str, Tensor], p: dict[str, Tensor], head_x: Tensor, turn: Tensor) -> None:
    color = _colors(_table(COLORS), a["hat_color"])
    light = 1 + 0.22 * p["light"] * c.x - 0.10 * (c.y + 0.6)
    beanie = (p["hat"] == 1) * 1.0
    dome = torch.maximum(c.ellipse(0.0, -0.28, head_x + 0.08, 0.56), c.y + 0.28)
    knit = 1 + 0.08 * (24 * c.x).cos()
    c.paint(c.inside(dome) * beanie, color * (light * knit)[:, None])
    cuff = torch.maximum((c.x.abs() - head_x - 0.075), (c.y + 0.33 + 0.10 * (c.x / head_x) ** 2 * -0.5).abs() - 0.085)
    c.paint(c.inside(cuff) * beanie, color * (light * 0.80 * knit)[:, None])
    c.paint(c.inside(c.ellipse(0.0, -0.86, 0.11, 0.11)) * beanie, color * 0.5 + 0.5)
    sun = (p["hat"] == 2) * 1.0
    crown = torch.maximum(c.ellipse(0.0, -0.42, head_x * 0.92, 0.46), c.y + 0.36)
    c.paint(c.inside(crown) * sun, color * light[:, None])
    ribbon = torch.maximum(c.x.abs() - head_x * 0.91, (c.y + 0.43).abs() - 0.05)
    c.paint(c.inside(ribbon) * sun, color * 0.45)
    brim = c.ellipse(0.03 * turn, -0.36, head_x + 0.34, 0.105)
    c.paint(c.inside(brim) * sun, color * (light * 0.90)[:, None])
