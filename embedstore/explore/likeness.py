"""Are two pictures the same one, slightly changed? Measured on pixels, in units of what saving as JPEG does to them.

Latents alone can't tell: of Fashion-MNIST's pictures shifted by one pixel, a sixth have their original not even among
their ten nearest latents, while others of the same trousers lie nearer. So pictures are compared themselves:

* Spectra find candidates: a shift leaves the magnitudes of a Fourier transform alone (but for what enters and leaves at
  the edge), so that the original of a shifted picture is among its three nearest in 98 of 100.
* The difference of a pair is what remains after the best shift of at most a pixel and the best gain.
* A difference counts against what JPEG does to the same picture: a checked shirt loses more of itself to any harmless
  change than a plain one, and no single number of grey levels, nor a share of the contrast, separates copies of
  the first from neighbours of the second.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.compute.space import LatentSpace
from embedstore.encoders.preprocess import fit_pictures
from embedstore.errors import StoreDamaged
from embedstore.metadata import catalog, items
from embedstore.progress import Progress
from embedstore.truth.layout import SEGMENTS
from embedstore.types import Metric, Picture, Vectors
from embedstore.vectors.segments import read_bytes

_BYTES = 512 * 2**20  # of pictures in memory
_SIDES = (64, 48, 32, 24)  # px, to which larger pictures are reduced: the first that fits into so many bytes
_BLOCK = 4096
_FREQUENCIES = 7  # of a spectrum, each way
_COMPONENTS = 64
_SURVEYED = 1_024  # pictures that say what the others are like
_EXACT = 20_000  # pictures, up to which all spectra are compared with all
_PROBED = 8  # lists of spectra, beyond that
_GAIN = 0.85  # the faintest; its inverse is the strongest
_FLOOR, _CONTRAST_FLOOR = 0.5, 4.0  # grey levels: rounding, and what is no contrast
REFERENCE = 75  # JPEG quality whose loss is the unit of differences
_QUALITIES = (80, 95)
CHANGE = 0.07  # of brightness, among the changes that are tried out
Floats = npt.NDArray[np.float32]


class Pictures:
    """The stored pictures of some items, brought to one size.

    Attributes:
        there: of the positions asked for, which have a picture (n,).
        pixels: uint8 (m, h, w, c) of those that do, in order.
    """

    def __init__(self, space: LatentSpace, positions: npt.NDArray[np.int64], progress: bool) -> None:
        rows = space.view.rows[positions]
        self.there = np.zeros(len(rows), dtype=bool)
        self.channels, self.size = 0, (1, 1)
        some = np.sort(np.random.default_rng(space.seed).permutation(len(rows))[:_SURVEYED])
        self._survey(read(space, rows[some]), len(rows))
        blocks: list[npt.NDArray[np.uint8]] = []
        with Progress("reading pictures", len(rows), progress and self.channels > 0) as bar:
            start = 0
            while start < len(rows):
                found = read(space, rows[start : start + _BLOCK])
                if max((picture.shape[2] for picture in found if picture is not None), default=0) > self.channels:
                    # The first picture, or the first in colour, that the survey didn't meet: all are read as such.
                    self._survey(found, len(rows))
                    start, blocks = 0, []
                    continue
                self.there[start : start + _BLOCK] = [picture is not None for picture in found]
                blocks.append(self.fitted([picture for picture in found if picture is not None]))
                start += len(found)
                bar.advance(len(found))
        self.pixels = np.concatenate(blocks) if blocks else np.empty((0, *self.size, 1), dtype=np.uint8)

    def _survey(self, found: Sequence[Picture | None], count: int) -> None:
        """Choose the channels and the size of all by some."""
        pictures = [picture for picture in found if picture is not None]
        self.channels = max((picture.shape[2] for picture in pictures), default=0)
        self.size = _size({picture.shape[:2] for picture in pictures}, count * max(self.channels, 1))

    @property
    def shifted(self) -> bool:
        """Whether pictures are compared at several shifts, for which small ones have no room."""
        return _edge(self.size) > 0

    def fitted(self, pictures: Sequence[Picture]) -> npt.NDArray[np.uint8]:
        """Others, as these are."""
        if pictures and all(one.shape == (*self.size, self.channels) for one in pictures):
            return np.stack(pictures)  # a tenth of the time
        return fit_pictures(pictures, self.size, self.channels)


def read(space: LatentSpace, rows: npt.NDArray[np.int64]) -> list[Picture | None]:
    """Stored pictures (h, w, 1 or 3) of rows; None for those without, or deleted since."""
    try:
        found = _raw(space, rows)
    except (
        StoreDamaged,
        ValueError,
    ):  # a compact may have moved them; `read_images` looks again, or says what is wrong
        found = {}
    rest = [row for row in rows.tolist() if row not in found]
    for row, image in zip(
        rest, space.searcher.read_images(np.array(rest, dtype=np.int64)) if rest else [], strict=True
    ):
        if image is not None:
            picture = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
            found[row] = picture if picture.ndim == 3 else picture[..., None]
    return [found.get(row) for row in rows.tolist()]


def _raw(space: LatentSpace, rows: npt.NDArray[np.int64]) -> dict[int, Picture]:
    """Pictures of those rows whose pixels are stored as they are; as image objects they'd take five times as long."""
    with space.database.read() as connection:
        places = items.raw_thumbs(connection, rows)
        names = {segment.id: segment.name for segment in catalog.read_segments(connection)}
    found: dict[int, Picture] = {}
    for segment in {place[1] for place in places}:
        mine = [place for place in places if place[1] == segment]
        path = space.database.path.parent / SEGMENTS / names[segment]
        blobs = read_bytes(path, [(start, length) for _, _, start, length, _ in mine])
        for (row, _, _, _, form), blob in zip(mine, blobs, strict=True):
            height, width, channels = map(int, form[4:].split("x"))
            found[row] = np.frombuffer(blob, dtype=np.uint8).reshape(height, width, channels)
    return found


def _size(sizes: set[tuple[int, ...]], planes: int) -> tuple[int, int]:
    """(h, w) of all: their own where they have one and there is room, else a square."""
    height, width = next(iter(sizes)) if len(sizes) == 1 else (max((max(size) for size in sizes), default=1),) * 2
    for side in _SIDES:
        ratio = min(1.0, side / max(height, width))
        size = max(1, round(height * ratio)), max(1, round(width * ratio))
        if size[0] * size[1] * planes <= _BYTES:
            break
    return size


def _edge(size: tuple[int, ...]) -> int:
    """How far pictures of a size (h, w) are shifted against each other."""
    return 1 if min(size) >= 8 else 0


def changed(pictures: Sequence[Picture], seed: int, *, shifted: bool = True) -> list[Picture]:
    """Each picture slightly changed: shifted by up to a pixel, up to 7 % brighter or darker, mostly saved as JPEG."""
    random = np.random.default_rng(seed)
    made = []
    for picture in pictures:
        down, right = random.integers(0, 3, 2) if shifted else (1, 1)
        height, width = picture.shape[:2]
        padded = np.pad(picture, ((1, 1), (1, 1), (0, 0)), mode="edge")[down : down + height, right : right + width]
        factor = random.uniform(1 - CHANGE, 1 + CHANGE)
        new = np.clip(np.rint(padded * factor), 0, 255).astype(np.uint8)
        quality = int(random.integers(*_QUALITIES, endpoint=True))
        made.append(_jpeg(new, quality) if random.random() < 0.75 else new)
    return made


def _jpeg(picture: Picture, quality: int) -> Picture:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream)).reshape(picture.shape)


class Spectra:
    """Fourier magnitudes of pictures (n, h, w, c), in few numbers, and which of them are near to each other."""

    def __init__(self, pixels: npt.NDArray[np.uint8], seed: int, progress: bool) -> None:
        full = _magnitudes(pixels[np.sort(np.random.default_rng(seed).permutation(len(pixels))[:10_000])])
        self._mean = full.mean(axis=0)
        centred = (full - self._mean).astype(np.float64)
        _, axes = np.linalg.eigh(centred.T @ centred)
        self._axes = np.ascontiguousarray(axes[:, ::-1][:, :_COMPONENTS].astype(np.float32))
        self.values = self.of(pixels)
        self._index = _index(self.values, seed, progress)

    def of(self, pixels: npt.NDArray[np.uint8]) -> Floats:
        """Of any pictures of that shape, (n, 64); about 1 is the length of the whole spectrum."""
        parts = [pixels[start : start + _BLOCK] for start in range(0, max(1, len(pixels)), _BLOCK)]
        return np.concatenate([(_magnitudes(part) - self._mean) @ self._axes for part in parts])

    def nearest(self, values: Floats, k: int, progress: bool = False) -> tuple[Floats, npt.NDArray[np.int64]]:
        """Distances and rows (n, k) of the nearest, -1 where none was found."""
        from embedstore.index import knobs

        far, found = np.empty((len(values), k), dtype=np.float32), np.empty((len(values), k), dtype=np.int64)
        parameters = knobs.search_parameters(self._index, _PROBED)
        with Progress("comparing pictures", len(values), progress) as bar:
            for start in range(0, len(values), _BLOCK):
                part = slice(start, start + _BLOCK)
                far[part], found[part] = self._index.search(values[part], k, params=parameters)
                bar.advance(len(far[part]))
        return np.sqrt(np.maximum(far, 0)), found


def _index(values: Floats, seed: int, progress: bool) -> Any:
    from embedstore.index import build

    lists = 1 << round(np.log2(2 * np.sqrt(len(values))))
    return build.build(
        [values], Metric.L2, "Flat" if len(values) <= _EXACT else f"IVF{lists},Flat", seed=seed, progress=progress
    )


def _magnitudes(pixels: npt.NDArray[np.uint8]) -> Floats:
    grey = pixels.mean(axis=3, dtype=np.float32)
    grey -= grey.mean(axis=(1, 2), keepdims=True)
    size = min(_FREQUENCIES, (min(grey.shape[1:]) + 1) // 2)
    found = np.abs(np.fft.rfft2(grey)).astype(np.float32)[:, :, :size]
    found = np.concatenate([found[:, :size], found[:, found.shape[1] - size + 1 :]], axis=1).reshape(len(grey), -1)
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    flat: Floats = found / (lengths + np.float32(grey[0].size ** 0.5 if len(grey) else 1))
    return flat


def differences(
    one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """What remains between pictures (n, h, w, c) and (n, h, w, c), pair by pair.

    After the best whole shift of at most a pixel, and the best gain from 0.85 to its inverse, without the edge.

    Returns:
        Root mean square (n,) in grey levels, and the same over the picture's contrast (its standard deviation).
    """
    rest, contrast = np.empty(len(one)), np.empty(len(one))
    for start in range(0, len(one), 1024):
        part = slice(start, start + 1024)
        rest[part], contrast[part] = _differences(one[part], other[part])
    return rest, rest / (contrast + _CONTRAST_FLOOR)


def _differences(
    one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    # Pairs along the last axis: every shift is then a view whose sums run over whole cache lines.
    edge = _edge(one.shape[1:3])
    a = np.ascontiguousarray(one.transpose(1, 2, 3, 0), dtype=np.float32)
    b = np.ascontiguousarray(other.transpose(1, 2, 3, 0), dtype=np.float32)
    height, width = a.shape[0] - 2 * edge, a.shape[1] - 2 * edge
    a = a[edge : edge + height, edge : edge + width]
    size = height * width * a.shape[2]
    own = np.einsum("hwcn,hwcn->n", a, a).astype(np.float64)
    contrast = np.sqrt(np.maximum(own / size - (a.sum(axis=(0, 1, 2), dtype=np.float64) / size) ** 2, 0))
    best = np.full(len(one), np.inf)
    for down in range(2 * edge + 1):
        for right in range(2 * edge + 1):
            view = b[down : down + height, right : right + width]
            both = np.einsum("hwcn,hwcn->n", a, view).astype(np.float64)
            theirs = np.einsum("hwcn,hwcn->n", view, view).astype(np.float64)
            gain = np.clip(both / np.maximum(own, 1e-9), _GAIN, 1 / _GAIN)
            best = np.minimum(best, theirs - 2 * gain * both + gain**2 * own)
    return np.sqrt(np.maximum(best, 0) / size), contrast


def losses(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """What JPEG of quality 75 does to pictures (n, h, w, c): the unit (n,) of differences, in grey levels."""
    if not len(pixels):
        return np.empty(0)
    return differences(pixels, np.stack([_jpeg(picture, REFERENCE) for picture in pixels]))[0] + _FLOOR


def distances(space: LatentSpace, one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Distances (n,) between the latents at positions, pair by pair: by cosine, else Euclidean."""
    found = np.empty(len(one))
    for start in range(0, len(one), _BLOCK):
        part = slice(start, start + _BLOCK)
        a: Vectors = space.vectors(one[part]).astype(np.float64)
        b: Vectors = space.vectors(other[part]).astype(np.float64)
        if space.view.space.metric is Metric.COSINE:
            lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
            found[part] = 1 - (a * b).sum(axis=1) / np.maximum(lengths, 1e-30)
        else:
            found[part] = np.linalg.norm(a - b, axis=1)
    return np.maximum(found, 0)
