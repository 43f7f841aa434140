"""A stand-in for PlanesNet that needs no download: satellite chips drawn from a seed, the same bytes everywhere.

A chip is 20x20 RGB pixels at 3 m a pixel. A quarter shows one whole plane in the middle. The others are, a third
each: open terrain; part of a plane, off centre and cut by the border; something else bright or straight (crossing
lines, buildings, vehicles, stripes). Everything on a chip is a bar: a fuselage, a wing, a road, a roof. A scene sets
sun, haze, colour cast, blur and noise for all of its chips, as one pass of a satellite does.

How the bytes stay the same: random numbers come from numpy's frozen legacy stream (MT19937 doubles and bytes), one
stream per (seed, scene index); the rest is elementwise + - * / sqrt, which IEEE 754 rounds one way only. No sine, no
logarithm, no BLAS and no sum of floats over an axis: those may differ in the last bit between machines.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

CLASS_NAMES = ("no-plane", "plane")
CHIP_SIDE = 20

Array = NDArray[np.float64]
Pixels = NDArray[np.float32]

# A block keeps the working arrays inside the cache; its size has no influence on the result.
_BLOCK_CHIPS = 384
_SCENE_NUMBERS, _CHIP_NUMBERS = 24, 72
# Bytes of noise per chip: 6x6 and 11x11 texture grids, fine texture (two bytes a pixel), sensor noise (one a channel).
_COARSE, _TEXTURE = 36, 36 + 121
_NOISE_BYTES = _TEXTURE + 5 * CHIP_SIDE * CHIP_SIDE

_PLANE, _TERRAIN, _PARTIAL, _CONFUSER = range(4)
# Per surface: red, green, blue; roughness in grey levels (coarse, middle, fine); cumulative share per kind of chip.
_SURFACES = np.array(
    [
        [196, 186, 170, 8, 4, 4, 0.46, 0.10, 0.46, 0.36],  # apron concrete
        [215, 206, 190, 9, 4, 4, 0.70, 0.20, 0.70, 0.58],  # bright concrete
        [142, 139, 136, 11, 5, 5, 0.86, 0.31, 0.86, 0.74],  # asphalt
        [188, 164, 136, 16, 9, 6, 0.93, 0.42, 0.93, 0.81],  # bare soil
        [158, 146, 112, 16, 11, 7, 0.98, 0.50, 0.98, 0.86],  # dry grass
        [84, 92, 66, 13, 14, 9, 0.98, 0.58, 0.98, 0.88],  # vegetation
        [52, 78, 92, 7, 2, 3, 0.98, 0.68, 0.98, 0.88],  # water
        [136, 127, 120, 24, 19, 9, 1.0, 1.0, 1.0, 1.0],  # built-up
    ]
)
_BUILT_UP = 7


class _Dice:
    """Hands out the columns of a table of uniform numbers [n, k], each once and in order."""

    def __init__(self, table: Array) -> None:
        self._columns: Iterator[Array] = iter(table.T)

    def between(self, low: float, high: float) -> Array:
        return low + (high - low) * next(self._columns)

    def direction(self) -> tuple[Array, Array]:
        """Unit vectors (x [n], y [n]), nearly even over the circle: rational points of it, so no sine is needed."""
        tan_half = self.between(-0.41421356, 0.41421356)
        scale = 1.0 / (1.0 + tan_half * tan_half)
        x, y = (1.0 - tan_half * tan_half) * scale, 2.0 * tan_half * scale
        quarter = np.floor(self.between(0, 4))
        sign = np.where(quarter >= 2, -1.0, 1.0)
        return sign * np.where(quarter % 2 == 1, -y, x), sign * np.where(quarter % 2 == 1, x, y)


def draw_chips(count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[str]]:
    """Draw `count` labelled chips, scene by scene.

    Returns images uint8 [count, 20, 20, 3] (RGB), labels int64 [count] (index into CLASS_NAMES) and the scene id of
    every chip (list of length count). The chips of a scene stand together.

    Promised: the same (count, seed) gives the same bytes on any machine and numpy version; fewer chips of a seed are
    the first of more chips of it; a scene has 4 to 156 chips, about 21 on average, of both classes (the last scene
    is cut where `count` ends); planes are 25 % of all, off by less than half a percent from 8,000 chips on.
    """
    if count < 1:
        raise ValueError(f"count={count} draws nothing: a dataset needs a chip. Use count >= 1.")
    images = np.empty((count, CHIP_SIDE, CHIP_SIDE, 3), dtype=np.uint8)
    labels = np.empty(count, dtype=np.int64)
    scenes: list[str] = []
    seed = int(seed)
    owed = 0.0
    block: list[tuple[Array, Array, NDArray[np.uint8]]] = []
    done = scene_index = 0
    while done < count:
        stream = _stream(seed, f"scene {scene_index}")
        scene = stream.random_sample(_SCENE_NUMBERS)
        # About PlanesNet's spread of scene sizes (median 9, a few above 100), never too few for both classes.
        u, u5 = float(scene[0]), float(scene[0] * scene[0] * scene[0] * scene[0] * scene[0])
        size = int(4 + 10 * u + 142 * u5 * u5)
        # Planes that the scenes so far have too few or too many are settled here, so that the overall share stays.
        planes = min(max(int(size * (0.11 + 0.28 * float(scene[1])) + owed + 0.5), 1), size // 2)
        owed += 0.25 * size - planes
        # A plane wherever the running share passes a whole number: they lie evenly along the scene.
        ticks = (np.arange(size + 1) * planes + int(scene[2] * size)) // size
        table = stream.random_sample((size, _CHIP_NUMBERS))
        noise = np.frombuffer(stream.bytes(size * _NOISE_BYTES), dtype=np.uint8).reshape(size, _NOISE_BYTES)
        kept = min(size, count - len(scenes))
        labels[len(scenes) : len(scenes) + kept] = np.diff(ticks)[:kept]
        block.append((np.broadcast_to(scene, (kept, _SCENE_NUMBERS)), table[:kept], noise[:kept]))
        scenes += [_scene_id(scene, scene_index + seed)] * kept
        scene_index += 1
        if len(scenes) - done >= _BLOCK_CHIPS or len(scenes) == count:
            lights, tables, noises = (np.concatenate(part) for part in zip(*block, strict=True))
            images[done : len(scenes)] = _render(lights, labels[done : len(scenes)], tables, noises)
            done = len(scenes)
            block.clear()
    return images, labels, scenes


def chip_names(labels: Sequence[int] | NDArray[np.int64], scenes: Sequence[str], seed: int) -> list[str]:
    """File names in PlanesNet's form, `<label>__<scene>__<lon>_<lat>.png`, one per chip and no two alike.

    Longitude and latitude are degrees near San Francisco, within 0.2 degrees of the middle of the chip's scene.
    """
    if len(labels) != len(scenes):
        raise ValueError(f"{len(labels)} labels but {len(scenes)} scenes: a chip has one of each. Pass equal lengths.")
    offsets = _stream(int(seed), "places").random_sample((len(labels), 2)) * 4000 - 2000
    names = []
    for i, (label, scene, offset) in enumerate(zip(labels, scenes, offsets, strict=True)):
        middle = hashlib.sha256(scene.encode()).digest()
        west, north = 1_222_000 - middle[0] * 20 + int(offset[0]), 376_000 + middle[1] * 20 + int(offset[1])
        # The chip's number in the last digits, centimetres and less, is what keeps names apart.
        lon, lat = (f"{place // 10_000}.{place % 10_000:04d}{i:06d}" for place in (west, north))
        names.append(f"{int(label)}__{scene}__-{lon}_{lat}.png")
    return names


def _stream(seed: int, part: str) -> np.random.RandomState:
    """Random numbers for one part of the data set, unrelated to those of any other part or seed."""
    return np.random.RandomState(list(hashlib.sha256(f"{seed} {part}".encode()).digest()))


def _scene_id(scene: Array, number: int) -> str:
    """`YYYYMMDD_HHMMSS_xxxx`; the last part runs through all its values before it repeats, so ids differ."""
    start = datetime.datetime(2014, 7, 1, 17, 30)
    taken = start + datetime.timedelta(days=int(scene[3] * 1200), seconds=int(scene[4] * 7200))
    return f"{taken:%Y%m%d_%H%M%S}_{number * 0x9E37 % 0x10000:04x}"


def _bars(*columns: Array | float) -> Array:
    """One bar per chip [n, 8]: middle x, y, direction x, y, half length, half width, widening per pixel, opacity."""
    return np.stack(np.broadcast_arrays(*columns), axis=1).astype(np.float64)


def _plane(dice: _Dice, x: Array, y: Array) -> Array:
    """Fuselage, two wings, two tailplanes [n, 5, 8], the middle of the plane at (x, y) pixels from the chip's."""
    c, s = dice.direction()
    half = dice.between(4.5, 9.0)
    girth, sweep, span = dice.between(0.10, 0.15), dice.between(0.05, 0.65), half * dice.between(0.8, 1.05)
    root, chord = half * dice.between(0.05, 0.25), np.maximum(half * dice.between(0.11, 0.17), 0.75)
    opacity = dice.between(0.75, 1.0)
    bars = [_bars(x, y, c, s, half, np.maximum(half * girth, 0.8), 0.03, 1.0)]
    for start, reach, width in ((root, span, chord), (half * -0.82, span * 0.38, chord * 0.7)):
        for across in (-reach, reach):
            along = -sweep * reach
            length = np.sqrt(along * along + across * across)
            dx, dy = along * c - across * s, along * s + across * c
            mid_x, mid_y = x + start * c + 0.5 * dx, y + start * s + 0.5 * dy
            bars.append(_bars(mid_x, mid_y, dx / length, dy / length, 0.5 * length, width, -width / length, opacity))
    return np.stack(bars, axis=1)


def _confuser(dice: _Dice, x: Array, y: Array) -> Array:
    """Crossing lines, blocks, a row of bars, or one bar [n, 5, 8] about (x, y)."""
    (c, s), (c2, s2) = dice.direction(), dice.direction()
    which = np.searchsorted([0.3, 0.58, 0.83], dice.between(0, 1))
    width, length, gap = dice.between(0.6, 1.5), dice.between(2.0, 8.0), dice.between(2.4, 4.2)
    bars = []
    for k in range(5):
        spread, jut, present = dice.between(-5.5, 5.5), dice.between(-5.5, 5.5), dice.between(0, 1)
        size, aspect, shift = dice.between(1.4, 5.0), dice.between(0.3, 1.0), (k - 2) * gap
        # Of two crossing lines the first leaves the chip at both ends; the other may stop.
        crossing = (1.0, 0.4 + 0.6 * present, 0.0, 0.0, 0.0)[k]
        opacity = np.choose(which, [crossing, (0.4 + 0.6 * present) * (k < 3), present > 0.15, float(k == 0)])
        half = np.choose(which, [30.0 if k == 0 else 5.0 + size * 4.0, size, length, length])
        thick = np.where(which == 1, size * aspect, width)
        at_x = x + np.choose(which, [0.0, spread, -shift * s, 0.0])
        at_y = y + np.choose(which, [0.0, jut, shift * c, 0.0])
        turn = (which == 0) & (k > 0)
        bars.append(_bars(at_x, at_y, np.where(turn, c2, c), np.where(turn, s2, s), half, thick, 0.0, opacity))
    return np.stack(bars, axis=1)


def _objects(kind: NDArray[np.int64], built_up: NDArray[np.bool_], table: Array) -> Array:
    """What stands on each chip, as bars [n, 6, 8]; the last is clutter near the border, on chips of every kind."""
    bars = np.zeros((len(kind), 6, 8))
    rest = _Dice(table)
    (c, s), x, y = rest.direction(), rest.between(-1.2, 1.2), rest.between(-1.2, 1.2)
    half, width, present = rest.between(2.0, 7.0), 1 + 2 * np.abs(x), rest.between(-1, 0.6)
    bars[:, 5] = _bars(-13 * s, 13 * c, c, s, half, width, 0.0, present)
    # Off centre by 5 to 10 pixels in x or y: a part of the plane is always over the border or close to it.
    away = np.where(kind == _PARTIAL, rest.between(5.0, 10.0), 0.0) / np.maximum(np.abs(c), np.abs(s))
    x, y = x + away * c, y + away * s
    for this in (_PLANE, _PARTIAL, _CONFUSER):
        at = np.flatnonzero(kind == this)
        draw = _confuser if this == _CONFUSER else _plane
        bars[at, :5] = draw(_Dice(table[at, 7:]), x[at], y[at])
    at = np.flatnonzero((kind == _TERRAIN) & built_up)
    dice = _Dice(table[at, 7:])
    c, s = dice.direction()
    for k in range(5):
        x, y, half, width = (dice.between(*span) for span in ((-11, 11), (-11, 11), (1.5, 5.0), (1.0, 4.0)))
        bars[at, k] = _bars(x, y, c, s, half, width, 0.0, dice.between(0.2, 1.0))
    return bars


def _cover(bars: Array) -> Pixels:
    """How much of each pixel a bar covers, times its opacity: bars [n, 8] to [n, 1, 20, 20], 0 to 1."""
    x, y, c, s, half, width, widening, opacity = _per_chip(bars).transpose(1, 0, 2, 3)[..., None]
    pixel = np.arange(CHIP_SIDE, dtype=np.float32) - 9.5
    right, down = pixel - x, pixel[:, None] - y
    along, across = right * c + down * s, down * c - right * s
    # half + 0.5 - distance runs from 1 to 0 over the one pixel that an edge passes through.
    beside = along * widening + (width + 0.5) - np.abs(across)
    cover: Pixels = (half + 0.5 - np.abs(along)).clip(0, 1) * (beside.clip(0, 1) * opacity)
    return cover


def _doubled(grid: Pixels) -> Pixels:
    """[n, 1, m, m] to [n, 1, 2m-1, 2m-1], the new points half-way between the old."""
    grid = np.repeat(grid, 2, axis=2)
    grid = np.repeat((grid[:, :, :-1] + grid[:, :, 1:]) * 0.5, 2, axis=3)
    return (grid[..., :-1] + grid[..., 1:]) * 0.5


def _blurred(image: Pixels, weight: Pixels) -> Pixels:
    """Each pixel of [n, 3, 20, 20] takes `weight` [n, 1, 1, 1] of both neighbours, along y and then x."""
    image = np.pad(image, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    image = image[:, :, 1:-1] * (1 - 2 * weight) + (image[:, :, :-2] + image[:, :, 2:]) * weight
    return image[..., 1:-1] * (1 - 2 * weight) + (image[..., :-2] + image[..., 2:]) * weight


def _per_chip(values: Array) -> Pixels:
    """[n] or [n, k] to [n, 1, 1, 1] or [n, k, 1, 1], to go with images [n, channels, 20, 20]."""
    return values.astype(np.float32).reshape(*values.shape, *(1,) * (4 - values.ndim))


def _render(scene: Array, labels: NDArray[np.int64], table: Array, noise: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Chips uint8 [n, 20, 20, 3] from the numbers of their scenes [n, 24], their labels and their own numbers."""
    light, dice = _Dice(scene[:, 5:]), _Dice(table)
    kind = np.where(labels == 1, _PLANE, 1 + np.floor(dice.between(0, 3)).astype(np.int64))
    surface = (_SURFACES[:, 6:].T[kind] < dice.between(0, 1)[:, None]).sum(axis=1)
    other = np.floor(dice.between(0, len(_SURFACES))).astype(np.int64)
    ground = _SURFACES[surface, :3] + dice.between(-24, 24)[:, None]

    # Texture and sensor noise: bytes to -1 .. 1.
    grain: Pixels = (noise.astype(np.float32) - 127.5) * (1 / 127.5)
    coarse, middle = grain[:, :_COARSE].reshape(-1, 1, 6, 6), grain[:, _COARSE:_TEXTURE].reshape(-1, 1, 11, 11)
    pixels = grain[:, _TEXTURE:].reshape(-1, 5, CHIP_SIDE, CHIP_SIDE)
    rough = _per_chip(_SURFACES[surface, 3:6] * dice.between(0.7, 2.7)[:, None])
    texture = _doubled(_doubled(coarse * rough[:, :1]) + middle * rough[:, 1:2])
    texture = texture[:, :, :CHIP_SIDE, :CHIP_SIDE] + (pixels[:, :1] + pixels[:, 1:2]) * rough[:, 2:]
    image = texture + _per_chip(ground)

    # On the ground: where another surface begins, and lines.
    (c, s), edge = dice.direction(), dice.between(43, 51)
    region = _bars(edge * c, edge * s, c, s, 40.0, 40.0, 0.0, dice.between(-1.2, 0.8))
    layers = [(region, _SURFACES[other, :3] - ground)]
    for _ in range(2):
        (c, s), off, paint = dice.direction(), dice.between(-11, 11), dice.between(-45, 45)
        line = _bars(-s * off, c * off, c, s, 40.0, dice.between(0.2, 2.2), 0.0, dice.between(-1.6, 1.0))
        layers.append((line, np.stack([paint, paint, paint * 0.9], axis=1)))
    for bars, change in layers:
        at = np.flatnonzero(bars[:, 7] > 0)
        image[at] += _cover(bars[at]) * _per_chip(change[at])

    # Above the ground: objects, which throw a shadow.
    objects = _objects(kind, surface == _BUILT_UP, table[:, 28:])
    mask = np.zeros_like(texture)
    for bars in objects.transpose(1, 0, 2):
        at = np.flatnonzero(bars[:, 7] > 0)
        mask[at] = np.maximum(mask[at], _cover(bars[at]))
    (sun_x, sun_y), tall = light.direction(), light.between(0.6, 2.2) * dice.between(0.6, 1.15)
    # The shadow is the mask moved by whole pixels, read through a window into its padded copy.
    row, column = 3 + np.floor(0.5 + np.abs(sun_y) * tall), 3 + np.floor(0.5 - sun_x * tall)
    start = (row * 26 + column + np.arange(len(labels)) * 26 * 26).astype(np.int64)
    window = np.arange(CHIP_SIDE)[:, None] * 26 + np.arange(CHIP_SIDE)
    shade = np.pad(mask, ((0, 0), (0, 0), (3, 3), (3, 3))).reshape(-1)[start[:, None, None, None] + window]
    shade = 1 - shade * (1 - mask) * _per_chip(light.between(0.1, 0.6))
    contrast = dice.between(40, 115)
    contrast = np.where(dice.between(0, 1) < 0.02, -0.8 * contrast, contrast)
    contrast = np.where(kind == _TERRAIN, contrast * dice.between(-1.0, 1.2), contrast)
    tint = np.stack([dice.between(-10, 10), dice.between(-5, 5), dice.between(-6, 18)], axis=1)
    image = image * shade + mask * _per_chip(contrast[:, None] + tint)

    # The air and the camera.
    spans = ((0.85, 1.2), (-12, 22), (-0.05, 0.06), (-0.025, 0.025), (0.10, 0.24), (2.0, 9.0))
    gain, haze, warm, green, blur, sensor_noise = (light.between(*span) for span in spans)
    cast = np.stack([1 + warm, 1 + green, 1 - warm], axis=1) * gain[:, None]
    image = image * _per_chip(cast) + _per_chip(haze + 128 * (1 - gain))
    image = _blurred(image + pixels[:, 2:] * _per_chip(sensor_noise), _per_chip(blur))
    return np.moveaxis((image.clip(0, 255) + 0.5).astype(np.uint8), 1, 3)
