"""The answer to a query."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from embedstore.errors import MissingExtra
from embedstore.types import Hit, Metadata, Metric

if TYPE_CHECKING:
    from PIL import Image


class Hits(Sequence[Hit]):
    """The hits of one query, nearest first.

    Ids, scores and distances are there at once; metadata and pictures are read, for all hits together, when first
    asked for. The metadata of an item that was deleted or updated between the search and that moment may be empty.

    Attributes:
        ids: of the items.
        distances: float32 (k,), smaller is nearer.
        stats: what the answer cost: plan taken, rows scanned.
    """

    __slots__ = (
        "_among",
        "_images",
        "_metadata",
        "_metric",
        "_read_images",
        "_read_metadata",
        "_rows",
        "distances",
        "ids",
        "stats",
    )

    def __init__(
        self,
        ids: list[str],
        distances: npt.NDArray[np.float32],
        metric: Metric,
        rows: npt.NDArray[np.int64],
        read_metadata: Callable[[npt.NDArray[np.int64]], list[Metadata]],
        read_images: Callable[[npt.NDArray[np.int64]], list[Image.Image | None]],
        stats: dict[str, Any],
        among: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self.ids = ids
        self.distances = distances
        self.stats = stats
        self._metric = metric
        self._rows = rows  # or positions, whose rows are looked up when they are asked for
        self._among = among
        self._read_metadata = read_metadata
        self._read_images = read_images
        self._metadata: list[Metadata] | None = None

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """Scores (k,), float32, larger is better (see Metric)."""
        return self._metric.score(self.distances)

    @property
    def metadata(self) -> list[Metadata]:
        """Metadata of all hits, in order."""
        if self._metadata is None:
            self._metadata = self._read_metadata(self._numbers())
        return self._metadata

    def images(self) -> list[Image.Image | None]:
        """Pictures of all hits: exact where an item has at most 64 px a side, else its thumbnail; None without one."""
        return self._read_images(self._numbers())

    def _numbers(self) -> npt.NDArray[np.int64]:
        return self._rows if self._among is None else self._among.take(self._rows)

    def to_pandas(self) -> Any:
        """A DataFrame with id, score, distance and one column for each metadata key.

        Raises:
            MissingExtra: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError:
            raise MissingExtra("pandas", "pandas", "Hits.to_pandas()") from None
        # Metadata first, so that a key named "id" can't hide the id.
        frame = pd.DataFrame(self.metadata, index=range(len(self)))
        frame = frame.drop(columns=["id", "score", "distance"], errors="ignore")
        frame.insert(0, "id", self.ids)
        frame.insert(1, "score", self.scores)
        frame.insert(2, "distance", self.distances)
        return frame

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> list[Hit]: ...
    def __getitem__(self, index: int | slice) -> Hit | list[Hit]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        distance = self.distances[index : index + 1] if index >= 0 else self.distances[index:][:1]
        return Hit(self.ids[index], float(self._metric.score(distance)[0]), float(distance[0]), self.metadata[index])

    def __iter__(self) -> Iterator[Hit]:
        for name, score, distance, metadata in zip(
            self.ids, self.scores.tolist(), self.distances.tolist(), self.metadata, strict=True
        ):
            yield Hit(name, score, distance, metadata)

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{name} ({distance:.4g})" for name, distance in zip(self.ids[:3], self.distances, strict=False)
        )
        return f"<Hits: {len(self)}{': ' + shown if shown else ''}{', ...' if len(self) > 3 else ''}>"
