"""New items from the density of the stored latents."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embedstore.compute.space import LatentSpace
from embedstore.durable import writing_output
from embedstore.errors import InvalidArgument
from embedstore.latent import density
from embedstore.latent.density import Windows
from embedstore.progress import Progress
from embedstore.types import Vectors

if TYPE_CHECKING:
    from PIL import Image

MOST = 1_000_000
NEAR = 100  # items about a given one whose windows are sampled
_BLOCK = 10_000  # samples drawn at a time
_REDRAWN = 4  # times, at most, that a copy is replaced
COPY = 0.01  # of the items are nearer to another one than what counts as a copy of it


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """New latents, and what each of them is nearest to.

    Attributes:
        latents: float32 (n, d).
        nearest: id of each one's nearest item.
        distances: float32 (n,), to it, by the space's metric (Euclidean where that is an inner product).
        usual: median distance between an item and its nearest other item.
        closest: the 1st percentile of those distances: a sample that is nearer to an item is a copy of it.
        windows: the density that they were drawn from.
        provenance: what to ask for to get them again.
    """

    latents: Vectors
    nearest: list[str]
    distances: npt.NDArray[np.float32]
    usual: float
    closest: float
    windows: Windows
    provenance: dict[str, Any]
    _space: LatentSpace = field(repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def copies(self) -> npt.NDArray[np.bool_]:
        """Which of them are as good as memorised (n,)."""
        return self.distances < self.closest

    @property
    def support(self) -> npt.NDArray[np.float64]:
        """How each lies with regard to the data (n,), in [0, 1] (see ``Store.support``)."""
        return self._space.support(self.latents)

    def images(self) -> list[Image.Image]:
        """As pictures, decoded now.

        Raises:
            NoDecoder: the space has none.
        """
        from embedstore.truth.pictures import to_image

        return [to_image(picture) for picture in self._space.decode(self.latents)]

    def __repr__(self) -> str:
        return f"<Samples {len(self)} of {self.latents.shape[1]} dimensions, {int(self.copies.sum())} of them copies>"

    def save_as_dataset(self, directory: str | os.PathLike[str], *, progress: bool = False) -> Path:
        """Write a folder that ``index`` reads: PNG files and a ``metadata.jsonl`` that says where each comes from.

        Raises:
            InvalidArgument: something is there already, or can't be written; NoDecoder; DiskFull.
        """
        target = Path(directory)
        check_folder(target)
        images, support = self.images(), self.support
        with writing_output(target):
            target.mkdir(exist_ok=True)
            lines = []
            with Progress("writing pictures", len(images), progress, "pictures") as bar:
                for number, image in enumerate(images):
                    bar.advance(1)
                    name = f"sample-{number + 1:06d}.png"
                    image.save(target / name)
                    said = {
                        "file_name": name,
                        "sampled": True,
                        **self.provenance,
                        "nearest": self.nearest[number],
                        "nearest_distance": round(float(self.distances[number]), 6),
                        "usual_distance": round(self.usual, 6),
                        "support": round(float(support[number]), 4),
                    }
                    lines.append(json.dumps(said, ensure_ascii=False))
            (target / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return target


def check_folder(path: Path) -> None:
    """Raise InvalidArgument where a new folder can't be made."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InvalidArgument(f"{path} is there already: name a new or empty folder")
    if not path.parent.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InvalidArgument(f"{path} can't be written: check that {path.parent} exists, and its permissions")


def sample(
    space: LatentSpace,
    count: int,
    *,
    where: str | None,
    near: Any,
    spread: float,
    seed: int,
    progress: bool = False,
) -> Samples:
    """Draw new latents.

    Args:
        space: to draw in.
        count: how many.
        where: the density of these items alone.
        near: an id, a latent, a picture: the density of the 100 items about it.
        spread: factor of the deviations from the items; 1 is what held-out items fit best.
        seed: the same items, settings and seed give the same samples.
        progress: whether to draw a bar on stderr.

    Raises:
        InvalidArgument: no number of samples or no spread, or fewer items than the space has dimensions.
    """
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or not 1 <= count <= MOST:
        raise InvalidArgument(f"{count!r} samples can't be drawn: use a whole number from 1 to {MOST:,}")
    if isinstance(spread, bool) or not isinstance(spread, (int, float, np.number)) or not 0.0 <= spread <= 10.0:
        raise InvalidArgument(f"spread is {spread!r}, but must be a number from 0 to 10")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**63:
        raise InvalidArgument(f"seed is {seed!r}, but must be a whole number from 0 to 2**63 - 1")
    positions = space.positions(where)
    fewest = max(3, space.dimension + 1)  # an item, a neighbour of it, and another one to see how far that is
    if len(positions) < fewest:
        raise InvalidArgument(
            f"a density in {space.dimension} dimensions can't be fitted to {len(positions)} items: "
            f"it takes at least {fewest}; widen the filter, or add items"
        )
    windows = space.once(("windows", where), lambda: fit(space, where))
    generator = np.random.default_rng(seed)
    if near is None:
        chosen = positions[generator.integers(len(positions), size=count)]
    else:
        about = space.resolved([near])[0]
        chosen = generator.choice(space.nearest(about, NEAR, positions)[1][0], count)
    among = None if where is None else positions
    first = space.usual()[1]
    closest = float(np.quantile(first, COPY))
    latents = np.empty((count, space.dimension), dtype=np.float32)
    with Progress("drawing samples", count, progress) as bar:
        for start in range(0, count, _BLOCK):  # a sample's neighbours take far more memory than the sample
            part = slice(start, start + _BLOCK)
            latents[part] = _drawn(space, windows, chosen[part], among, generator, spread)
            bar.advance(len(latents[part]))
    distances, found = space.nearest(latents, 1)
    for _ in range(_REDRAWN):  # what came out as a copy
        again = np.flatnonzero(distances[:, 0] < closest)
        if not len(again) or spread == 0:
            break
        for start in range(0, len(again), _BLOCK):
            some = again[start : start + _BLOCK]
            latents[some] = _drawn(space, windows, chosen[some], among, generator, spread)
            distances[some], found[some] = space.nearest(latents[some], 1)
    provenance = {"seed": seed, "spread": float(spread)} | ({} if where is None else {"where": where})
    if isinstance(near, str):
        provenance["near"] = near
    return Samples(
        latents,
        space.ids(found[:, 0]),
        distances[:, 0],
        float(np.median(first)),
        closest,
        windows,
        provenance,
        space,
    )


def _drawn(
    space: LatentSpace,
    windows: Windows,
    chosen: npt.NDArray[np.int64],
    among: npt.NDArray[np.int64] | None,
    generator: np.random.Generator,
    spread: float,
) -> Vectors:
    """A sample of the window of each of the items at positions, settled."""
    around = _around(space, chosen, windows.neighbours, among)
    drawn = density.draw(windows, space.vectors(chosen), around, generator, density.WIDENED * spread)
    if among is None:
        near = space.around(drawn, density.SETTLED_TO)
    else:
        found = space.nearest(drawn, density.SETTLED_TO, among)[1]
        near = space.vectors(found.ravel()).reshape(*found.shape, space.dimension)
    return density.settled(drawn, near, spread)


def fit(space: LatentSpace, where: str | None) -> Windows:
    """The windows under which held-out items are likeliest: see `embedstore.latent.density`."""
    positions = space.positions(where)
    among = None if where is None else positions
    held = space.sample(where, density.HELD_OUT)
    count = min(density.WINDOWS, len(positions) - 1)
    most = min(density.NEIGHBOURS, len(positions) - 2)
    # One more neighbour than needed: the held-out item is itself a neighbour of its neighbours.
    near = space.others(held, count, among)[1]
    inner = space.others(near.ravel(), most + 1, among)[1].reshape(*near.shape, -1)
    kept = inner != held[:, None, None]
    kept[kept.all(axis=-1), -1] = False
    inner = inner[kept].reshape(*near.shape, -1)
    around = space.vectors(inner.ravel()).reshape(*inner.shape, space.dimension)
    centres = space.vectors(near.ravel()).reshape(*near.shape, space.dimension)
    return density.choose(space.vectors(held), centres, around, len(positions))


def _around(
    space: LatentSpace, positions: npt.NDArray[np.int64], k: int, among: npt.NDArray[np.int64] | None
) -> Vectors:
    """Latents (n, k, d) of the items nearest to those at positions, among all items or some."""
    distinct, back = np.unique(positions, return_inverse=True)
    found = space.others(distinct, k, among)[1]
    return space.vectors(found.ravel()).reshape(*found.shape, space.dimension)[back]
