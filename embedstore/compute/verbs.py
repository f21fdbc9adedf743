"""The store's verbs for computing with latents: the half of the facade that asks this room."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embedstore.compute.space import LatentSpace
from embedstore.types import Latent, Vectors
from embedstore.validate import check_k

if TYPE_CHECKING:
    from embedstore.compute.directions import Direction
    from embedstore.compute.edits import Edits
    from embedstore.compute.interpolation import LatentPath
    from embedstore.compute.samples import Samples
    from embedstore.query.hits import Hits
    from embedstore.truth.writer import Writer


class LatentVerbs(ABC):
    """What a store answers about its latent spaces; `embedstore.store.Store` is one.

    Each verb imports what it needs: every process imports the store, and few of them compute.
    """

    _writer: Writer

    @abstractmethod
    def _latents(self, space: str | None) -> LatentSpace:
        """The space of a name (None: the default one) at the newest commit."""

    def mean(self, where: str, *, space: str | None = None) -> Latent:
        """Mean latent of the items that match a filter; computed once for each commit.

        Raises:
            FilterError, NothingMatches.
        """
        found = self._latents(space)
        return found.latent(found.mean(where))

    def medoid(self, where: str, *, space: str | None = None) -> str:
        """Id of the matching item with the least sum of distances to the matching items (of many: a sample of them)."""
        found = self._latents(space)
        return found.ids(np.array([found.medoid(where)]))[0]

    def evaluate(self, expression: str, *, space: str | None = None) -> Latent:
        """The latent that an expression stands for, such as ``item('a') + 0.5 * direction('boot-ness')``.

        The language is described in ``docs/latents.md``. It is parsed, never run as code.

        Raises:
            ExpressionError: with a caret under the place.
        """
        from embedstore.compute import algebra

        return algebra.evaluate(self._latents(space), expression)

    def most_similar(
        self,
        positive: Any = (),
        negative: Any = (),
        k: int = 10,
        *,
        where: str | None = None,
        method: str = "3cosadd",
        space: str | None = None,
    ) -> Hits:
        """The items most similar to the positive and least to the negative ones, by cosine, as gensim does it.

        Args:
            positive: ids, latents, vectors or pictures, each of them alone or as (it, weight); none is an answer.
            negative: the same.
            k: number of hits.
            where: only items that match.
            method: '3cosadd' (Mikolov et al. 2013) or '3cosmul' (Levy and Goldberg 2014).
            space: its name.
        """
        from embedstore.compute import algebra

        return algebra.most_similar(self._latents(space), positive, negative, check_k(k), where, method)

    def direction(
        self,
        name: str,
        positive: str | None = None,
        negative: str | None = None,
        *,
        method: str = "difference",
        balance: Sequence[str] = (),
        keep: Sequence[str] = (),
        component: int = 1,
        space: str | None = None,
    ) -> Direction:
        """Make a direction and store it, or, with a name alone, get the one that is stored.

        Args:
            name: to store it under; one of the same name is replaced.
            positive: filter of the items that it leads to; of the items taken, for 'principal'.
            negative: filter of the items that it leads from; None: all others.
            method: 'difference' of means (Larsen et al. 2016); 'balanced' over metadata (White 2016); 'classifier':
                its normal (InterFaceGAN, Shen et al. 2020); 'principal' (GANSpace, Härkönen et al. 2020).
            balance: metadata keys whose values count the same on both sides.
            keep: names of directions that this one leaves alone.
            component: which principal direction, from 1.
            space: its name.

        Raises:
            InvalidArgument, NothingMatches, UnknownDirection, FilterError.
        """
        from embedstore.compute import directions

        found = self._latents(space)
        if (positive, negative, method, component) == (None, None, "difference", 1) and not balance and not keep:
            return directions.get(found, name)
        return directions.make(
            found,
            self._writer,
            name,
            positive=positive,
            negative=negative,
            method=method,
            balance=[balance] if isinstance(balance, str) else balance,
            keep=[keep] if isinstance(keep, str) else keep,
            component=component,
        )

    def directions(self, *, space: str | None = None) -> list[Direction]:
        """All stored directions, by name."""
        from embedstore.compute import directions

        return directions.every(self._latents(space))

    def remove_direction(self, name: str, *, space: str | None = None) -> None:
        """Forget a direction.

        Raises:
            UnknownDirection: there is none of this name.
        """
        from embedstore.compute import directions

        directions.remove(self._latents(space), self._writer, name)

    def edit(self, what: Any, edits_: Edits, *, space: str | None = None) -> Any:
        """Apply directions, one after another, each item by as much as it needs: strength 1 reaches the target.

        Args:
            what: an id or a latent, or several of them; an array (n, d).
            edits_: strengths by name, or (name, strength) pairs; from -10 to 10.
            space: its name.

        Returns:
            A Latent for one, an array (n, d) for several.

        Raises:
            UnknownDirection, UnknownItem, InvalidArgument.
        """
        from embedstore.compute import edits

        found = self._latents(space)
        latents, single = _several(found, what)
        edited = edits.stages(found, latents, edits_)[-1].astype(np.float32)
        return found.latent(edited[0]) if single else edited

    def film(self, what: Any, edits_: Edits, steps: int = 12, *, space: str | None = None) -> LatentPath:
        """The way through a chain of edits of one item: ``steps`` stops to each of them, the item itself first."""
        from embedstore.compute import edits, interpolation

        found = self._latents(space)
        interpolation.check_steps(steps)
        latents, _ = _several(found, [what])
        stages = edits.stages(found, latents, edits_)[:, 0]  # (s + 1, d)
        t = np.linspace(0.0, 1.0, steps)[1:, None]
        parts = [stages[:1], *(a + t * (b - a) for a, b in pairwise(stages))]
        return interpolation.LatentPath(np.concatenate(parts).astype(np.float32), "edit", None, found)

    def interpolate(
        self,
        a: Any,
        b: Any,
        *more: Any,
        steps: int = 8,
        method: str = "density",
        space: str | None = None,
        progress: bool = False,
    ) -> LatentPath:
        """A path through two or more points: ids, latents, vectors or pictures.

        Args:
            a: the first point.
            b: the next.
            *more: further ones.
            steps: number of stops, both ends among them ('graph': at most).
            method: 'linear', 'spherical' (White 2016), 'density' (bent to where items are), 'graph' (through real
                items), 'geodesic' (least change in the pictures, Arvanitidis et al. 2018).
            space: its name.
            progress: a bar on stderr while 'graph' looks for all items' neighbours, once for each commit.

        Raises:
            InvalidArgument, Disconnected, NoDecoder, UnknownItem, ...
        """
        from embedstore.compute import interpolation

        return interpolation.interpolate(self._latents(space), [a, b, *more], steps, method, progress)

    def compare_paths(
        self, a: Any, b: Any, *more: Any, steps: int = 8, space: str | None = None, progress: bool = False
    ) -> dict[str, LatentPath]:
        """The paths of every method that can join these points, by method."""
        from embedstore.compute import interpolation

        return interpolation.compare(self._latents(space), [a, b, *more], steps, progress)

    def grid(self, corners: Sequence[Any], rows: int = 5, columns: int = 5, *, space: str | None = None) -> LatentPath:
        """Stops between four corners, row by row: top left, top right, bottom left, bottom right."""
        from embedstore.compute import interpolation

        return interpolation.grid(self._latents(space), corners, rows, columns)

    def sample(
        self,
        n: int,
        where: str | None = None,
        *,
        near: Any = None,
        spread: float = 1.0,
        seed: int | None = None,
        space: str | None = None,
        progress: bool = False,
    ) -> Samples:
        """New latents from the density of the stored ones (manifold Parzen windows, Vincent and Bengio 2002).

        Args:
            n: how many.
            where: the density of the matching items alone.
            near: an id, a latent or a picture: only about the 100 items nearest to it.
            spread: factor of the deviations from real items.
            seed: None: the store's.
            space: its name.
            progress: a bar on stderr.

        Raises:
            InvalidArgument: fewer items than dimensions, among others.
        """
        from embedstore.compute import samples

        found = self._latents(space)
        seed = found.seed if seed is None else seed
        return samples.sample(found, n, where=where, near=near, spread=spread, seed=seed, progress=progress)

    def support(self, latents: Any, *, space: str | None = None) -> npt.NDArray[np.float64]:
        """How each latent lies with regard to the data (n,), in [0, 1].

        The share of the store's items whose mean distance to their five nearest others is at least as large: about 0.5
        for a typical place, below 0.05 for one where the data don't reach, and where a decoded picture means little.
        """
        found = self._latents(space)
        return found.support(found.checked(latents))


def _several(space: LatentSpace, what: Any) -> tuple[Vectors, bool]:
    """Ids or latents as an array (n, d), and whether it was one."""
    if isinstance(what, np.ndarray) and what.dtype != np.uint8:
        return space.checked(what), what.ndim == 1
    single = isinstance(what, (str, Latent)) or not isinstance(what, Sequence)
    if not single and not len(what):
        return np.empty((0, space.dimension), dtype=np.float32), False
    return space.resolved([what] if single else what)[0], single
