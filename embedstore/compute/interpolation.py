"""Paths between latents of the store: made by a method, measured, decoded on demand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embedstore.compute.space import LatentSpace
from embedstore.errors import Disconnected, InvalidArgument, NoDecoder
from embedstore.latent import paths
from embedstore.types import Latent, Vectors

if TYPE_CHECKING:
    from PIL import Image

MOST_STEPS = 10_000
_PULLING = 5  # nearest items that draw a point of a density path to them


@dataclass(frozen=True, slots=True)
class Measures:
    """What a path costs, in latents and in pictures.

    Attributes:
        latent_length: sum of the Euclidean distances between successive stops.
        picture_length: sum of the root mean squared pixel differences between successive decoded stops, pixels in
            [0, 1]; None without a decoder. The same for ``largest_step`` and ``unevenness``.
        largest_step: the largest of those differences.
        unevenness: their standard deviation over their mean; 0: all steps are alike.
        worst_distance: the largest of the stops' distances to their nearest items, over what is usual between items
            (the median).
    """

    latent_length: float
    picture_length: float | None
    largest_step: float | None
    unevenness: float | None
    worst_distance: float


@dataclass(frozen=True, slots=True, eq=False)
class LatentPath(Sequence[Latent]):
    """Stops in a latent space, one behind another.

    Attributes:
        latents: float32 (n, d).
        method: how it was made.
        ids: of the items, where every stop is one ('graph'); else None.
    """

    latents: Vectors
    method: str
    ids: list[str] | None
    _space: LatentSpace = field(repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._space.latent(self.latents[index])

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.latents, dtype=dtype) if copy or dtype is not None else self.latents

    def __repr__(self) -> str:
        return f"<LatentPath {self.method}, {len(self)} stops of {self.latents.shape[1]} dimensions>"

    def images(self) -> list[Image.Image]:
        """The stops as pictures, decoded now.

        Raises:
            NoDecoder: the space has none.
        """
        from embedstore.truth.pictures import to_image

        return [to_image(picture) for picture in self._space.decode(self.latents)]

    @property
    def support(self) -> npt.NDArray[np.float64]:
        """How each stop lies with regard to the data (n,), in [0, 1] (see ``Store.support``)."""
        return self._space.support(self.latents)

    def measures(self) -> Measures:
        """Its lengths, its steps, and how far it strays from the data."""
        z = self.latents.astype(np.float64)
        changes: npt.NDArray[np.float64] | None
        try:
            changes = paths.steps(self._space.decode(self.latents)) / 255
        except NoDecoder:
            changes = None
        distances, _ = self._space.nearest(self.latents, 1)
        usual = float(np.median(self._space.usual()[1])) or 1.0
        return Measures(
            latent_length=float(np.linalg.norm(np.diff(z, axis=0), axis=1).sum()),
            picture_length=None if changes is None else float(changes.sum()),
            largest_step=None if changes is None else float(changes.max(initial=0.0)),
            unevenness=None if changes is None else _unevenness(changes),
            worst_distance=float(distances[:, 0].max()) / usual,
        )


def _unevenness(steps: npt.NDArray[np.float64]) -> float:
    return float(steps.std() / (steps.mean() or 1.0)) if len(steps) else 0.0  # the graph may have one stop alone


def interpolate(
    space: LatentSpace, corners: Sequence[Any], steps: int, method: str, progress: bool = False
) -> LatentPath:
    """A path of ``steps`` stops through two or more points, both ends among them.

    Raises:
        InvalidArgument: fewer than two points or steps, or an unknown method; Disconnected: 'graph' finds no way;
        NoDecoder: 'geodesic' without a decoder that gives gradients.
    """
    if method not in paths.METHODS:
        raise InvalidArgument(f"unknown method {method!r}: use one of {', '.join(paths.METHODS)}")
    check_steps(steps)
    if len(corners) < 2:
        raise InvalidArgument("a path leads between at least two points: name another one")
    if steps < len(corners):
        raise InvalidArgument(f"a path through {len(corners)} points has at least as many stops, not {steps}")
    ends, rows = space.resolved(corners)
    match method:
        case "linear":
            points = paths.linear(ends, steps)
        case "spherical":
            points = paths.spherical(ends, steps)
        case "density":
            decode = space.decode if space.can_decode else None
            points = paths.density(ends, steps, lambda z: space.around(z, _PULLING), decode)
        case "geodesic":
            points = paths.geodesic(ends, steps, space.pull_back(), space.decode)
        case _:
            return _through_items(space, ends, rows, steps, progress)
    return LatentPath(_through(points.astype(np.float32), ends), method, None, space)


def _through(points: Vectors, corners: Vectors) -> Vectors:
    """The stops, those nearest to the inner corners moved there: who names a point expects to see it."""
    free = 1  # the first stop that may still be moved
    for place, corner in enumerate(corners[1:-1], start=2):
        last = len(points) - 1 - (len(corners) - place)  # enough stops must remain for the corners to come
        if last < free - 1:
            break
        nearest = free + int(np.linalg.norm(points[free : last + 1] - corner, axis=1).argmin())
        points[nearest] = corner
        free = nearest + 1
    return points


def compare(space: LatentSpace, corners: Sequence[Any], steps: int, progress: bool = False) -> dict[str, LatentPath]:
    """The same points joined by every method that can; one that can't (no decoder, no way) is left out."""
    found = {}
    for method in paths.METHODS:
        try:
            found[method] = interpolate(space, corners, steps, method, progress)
        except (Disconnected, NoDecoder):
            continue
    return found


def grid(space: LatentSpace, corners: Sequence[Any], rows: int, columns: int) -> LatentPath:
    """Stops (rows * columns) between four corners, row by row: top left, top right, bottom left, bottom right."""
    for number in (rows, columns):
        check_steps(number)
    if rows * columns > MOST_STEPS:
        raise InvalidArgument(f"a grid of {rows:,} x {columns:,} stops is too large: at most {MOST_STEPS:,} in all")
    if len(corners) != 4:
        raise InvalidArgument(f"a grid has four corners, not {len(corners)}")
    ends, _ = space.resolved(corners)
    return LatentPath(paths.grid(ends, rows, columns).astype(np.float32), "grid", None, space)


def check_steps(steps: int) -> None:
    """Raise InvalidArgument unless there are from 2 to 10,000."""
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or not 2 <= steps <= MOST_STEPS:
        raise InvalidArgument(f"steps is {steps!r}, but must be a whole number from 2 to {MOST_STEPS:,}")


def _through_items(
    space: LatentSpace, ends: Vectors, rows: npt.NDArray[np.int64], steps: int, progress: bool
) -> LatentPath:
    """Real items along the shortest ways through the neighbour graph, at most ``steps`` of them.

    A point that is no item is replaced by the item nearest to it.
    """
    live = space.view.live_positions()
    graph = space.graph(progress)
    own = rows >= 0
    at = np.empty(len(ends), dtype=np.int64)
    at[own] = [space.view.positions(row[None])[0] for row in rows[own]]
    if not own.all():
        at[~own] = space.nearest(ends[~own], 1)[1][:, 0]
    nodes = np.searchsorted(live, at)
    ways = [paths.shortest(graph, int(a), int(b)) for a, b in pairwise(nodes)]
    joined = np.concatenate([ways[0], *(way[1:] for way in ways[1:])])
    corners = np.concatenate([[0], np.cumsum([len(way) - 1 for way in ways])])
    positions = live[_thinned(space.vectors(live[joined]), joined, corners, steps)]
    return LatentPath(space.vectors(positions), "graph", space.ids(positions), space)


def _thinned(
    latents: Vectors, nodes: npt.NDArray[np.int64], corners: npt.NDArray[np.int64], steps: int
) -> npt.NDArray[np.int64]:
    """At most ``steps`` nodes of a way, about evenly along it, and always the corners."""
    if len(nodes) <= steps:
        return nodes
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(latents, axis=0), axis=1))])
    between = steps - len(np.unique(corners))
    wanted = np.linspace(0.0, along[-1], between + 2)[1:-1]
    chosen = np.abs(along[:, None] - wanted).argmin(axis=0)
    kept: npt.NDArray[np.int64] = nodes[np.unique(np.concatenate([chosen, corners]))]
    return kept
