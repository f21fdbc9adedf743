"""Which colour each item of a map has: one rule for pictures and pages."""

from __future__ import annotations

import difflib
import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedstore.compute.space import LatentSpace
from embedstore.errors import InvalidArgument
from embedstore.explore import clusterings, stored
from embedstore.metadata import items, runs

CLUSTER = "cluster"
MOST = 20  # values with a colour of their own
_TOO_MANY = 1_000  # texts beyond which a field is nearly an id
_USUAL = 100  # values of a field that is coloured by unasked
_SHOWN = 60  # letters of a value
OTHER, NONE, NOISE = "other", "none", "in no cluster"

#: Found by search: each next one is farthest, in OKLab, from those before it, as seen with full colour vision and (more
#: weight) by protanopes and deuteranopes (Machado et al. 2009), among colours that stand out on white and on black.
_PALETTE = (
    "3778d2 e68c1e 1ea06e cd3c46 ff96ff 50eb9b 82238c aa8cc3 e1cd00 4137c8 "
    "8c3c05 c33ca5 ff5f8c 46c8c3 007378 c873ff 9b0f4b b4b973 af7d00 467837"
)
#: Evenly spaced stops of viridis (van der Walt and Smith 2015, CC0), less its ends, which one of both grounds swallows.
_RAMP = "472d7b 3b528b 2c728e 21918c 28ae80 5ec962 addc30 ecd83a"
_STEPS = 256
_OTHER, _NONE = (138, 143, 152), (196, 200, 206)


@dataclass(frozen=True, slots=True, eq=False)
class Colouring:
    """Colours of all live items, in the order of their positions (the order of ``store.ids()``).

    Attributes:
        field: what is shown: the metadata key, as `quoted` has it, 'cluster' or 'cluster.NAME'; None where all items
            have one colour.
        codes: int32 (n,): each item's row of ``colours``.
        colours: uint8 (c, 3): of a scale 256 steps and, last, that of items without a number; else one for each value.
        values: names of the values, most frequent first, clusters by their numbers; 'other', 'in no cluster' and 'none'
            stand at the end. Of a scale there are none.
        extra: how many of those stand there: a value of the metadata may have such a name, too.
        counts: number of items of each value.
        numbers: of the clusters, a value each (-1 for those that aren't one); empty for other fields.
        low: least number of a scale; None where it is none.
        high: largest number of a scale.
        missing: items without the field.
    """

    field: str | None
    codes: npt.NDArray[np.int32]
    colours: npt.NDArray[np.uint8]
    values: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    numbers: tuple[int, ...] = ()
    low: float | None = None
    high: float | None = None
    missing: int = 0
    extra: int = 0

    @property
    def is_scale(self) -> bool:
        """Whether colours stand for numbers between ``low`` and ``high``."""
        return self.low is not None

    @property
    def rgb(self) -> npt.NDArray[np.uint8]:
        """Colours (n, 3) of the items."""
        return self.colours[self.codes]


def colouring(space: LatentSpace, field: str | None) -> Colouring:
    """Colours by a metadata key, by 'cluster' (or 'cluster.NAME', as in filters), or one colour for all.

    Up to 20 values have a colour each; of more, the 20 most frequent ones, and the rest is 'other'. More than 20
    numbers are a scale.

    Raises:
        InvalidArgument: no item has this key, or it has more than 1,000 values that are no numbers.
        UnknownRun: there is no such clustering.
    """
    count = len(space.positions(None))
    if field is None:
        return Colouring(None, np.zeros(count, np.int32), _palette()[:1])
    if not isinstance(field, str) or not field:
        raise InvalidArgument(f"{field!r} can't be coloured by: name a metadata key, or cluster")
    if is_clustering(field):
        return _by_cluster(space, field)
    return _by_key(space, field[1:-1] if _is_quoted(field) else field)


def is_clustering(field: str) -> bool:
    """Whether a clustering is meant: a metadata key of this name is quoted, as in filters."""
    return field == CLUSTER or field.startswith(f"{CLUSTER}.")


def _is_quoted(field: str) -> bool:
    return len(field) > 2 and field[0] == field[-1] == '"'  # as in filters: a key, whatever it is called


def quoted(key: str) -> str:
    """A metadata key as a field: in quotes where it would be taken for a clustering, or for another key in quotes."""
    return f'"{key}"' if is_clustering(key) or _is_quoted(key) else key


def chosen(space: LatentSpace, field: str | None) -> str | None:
    """What is coloured by, of what was asked for: the usual for None, nothing for ''."""
    return usual(space) if field is None else field or None


def usual(space: LatentSpace) -> str | None:
    """What a map is coloured by where nobody says: the clusters, else the first key with 2 to 100 values, else none."""
    with space.database.read() as connection:
        if runs.read(connection, "clusterings", space.view.space):
            return CLUSTER
        for key in sorted(items.metadata_keys(connection)):
            if 2 <= len(items.summary(connection, key, _USUAL + 1)) <= _USUAL:
                return quoted(key)
    return None


def ramp() -> npt.NDArray[np.uint8]:
    """The colours of a scale (256, 3), from its least number to its largest."""
    stops = _rgb(_RAMP).astype(np.float64)
    at = np.linspace(0, len(stops) - 1, _STEPS)
    return np.stack([np.interp(at, np.arange(len(stops)), stops[:, i]) for i in range(3)], axis=1).round().astype("u1")


def _rgb(text: str) -> npt.NDArray[np.uint8]:
    return np.array([list(bytes.fromhex(one)) for one in text.split()], dtype=np.uint8)


def _palette() -> npt.NDArray[np.uint8]:
    return _rgb(_PALETTE)


def _by_cluster(space: LatentSpace, field: str) -> Colouring:
    name = field.removeprefix(CLUSTER).removeprefix(".") or None
    labels, _ = clusterings.labels(space, name)
    run = stored.find(space, "clusterings", name)
    names = runs.clusters(run, clusterings.level_of(run, None)).names
    # In the order of their numbers, which was that of their sizes when it was made: a cluster keeps its colour whatever
    # is added to it or taken from it later.
    order = np.unique(labels[labels >= 0]).tolist()
    place = np.full(int(labels.max(initial=-1)) + 2, -1, dtype=np.int64)
    place[order] = np.arange(len(order))
    titles = [names.get(number, str(number)) for number in order]
    return _categories(field, place[labels], titles, order, NOISE)  # place[-1] is that of no cluster


def _by_key(space: LatentSpace, key: str) -> Colouring:
    with space.database.read() as connection:
        said = items.values(connection, key)
        keys = [] if said else sorted(items.metadata_keys(connection))
        held = {value for value, _ in items.summary(connection, key, 2)} if key in keys else set()
    if held == {None}:
        raise InvalidArgument(f"{key!r} is null wherever it is: choose another key")
    if held:
        raise InvalidArgument(f"{key!r} holds lists or objects, no texts or numbers: choose another key")
    if not said:
        near = difflib.get_close_matches(key, keys, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there is {', '.join(keys) or 'no metadata'}"
        raise InvalidArgument(f"no item has a text or number under {key!r}: {hint}")
    rows = np.fromiter((row for row, _ in said), np.int64, len(said))
    counted = Counter(value for _, value in said)
    whole = all(not isinstance(value, str) and math.isfinite(value) for value in counted)
    if whole and len(counted) > MOST:
        numbers = np.fromiter((value for _, value in said), np.float64, len(said))
        return _scale(quoted(key), stored.aligned(space, rows, numbers, np.nan))
    if len(counted) > _TOO_MANY:
        raise InvalidArgument(
            f"{key!r} has {len(counted):,} different values, too many for colours: choose a key with up to "
            f"{_TOO_MANY:,}, or cluster"
        )
    order = sorted(counted, key=lambda value: (-counted[value], str(value)))
    place = {value: number for number, value in enumerate(order)}
    codes = np.fromiter((place[value] for _, value in said), np.int64, len(said))
    shown = [str(value) for value in order]
    return _categories(quoted(key), stored.aligned(space, rows, codes, -1), shown, [], NONE)


def _categories(
    field: str, codes: npt.NDArray[np.int64], titles: list[str], numbers: list[int], nothing: str
) -> Colouring:
    """Codes count the titles; -1 is for items without a value. Beyond 20, titles have no colour of their own.

    Of clusters, whose numbers are given, those below 20 have one.
    """
    own = min(len(titles), MOST) if not numbers else sum(number < MOST for number in numbers)
    values = [_short(title) for title in titles[:own]]
    colours = _palette()[numbers[:own] if numbers else np.arange(own)].tolist()
    missing = int(np.count_nonzero(codes < 0))
    shown = np.minimum(codes, own)
    if len(titles) > own:
        values.append(f"{OTHER} ({len(titles) - own:,} values)")
        colours.append(_OTHER)
    if missing:
        shown[codes < 0] = len(values)
        values.append(nothing)
        colours.append(_NONE)
    counts = np.bincount(shown, minlength=len(values))
    numbers = [*numbers[:own], *[-1] * (len(values) - own)] if numbers else []
    table = np.array(colours or [_NONE], dtype=np.uint8)
    known = tuple(int(count) for count in counts)
    return Colouring(
        field,
        shown.astype(np.int32),
        table,
        tuple(values),
        known,
        tuple(numbers),
        missing=missing,
        extra=len(values) - own,
    )


def _scale(field: str, numbers: npt.NDArray[np.float64]) -> Colouring:
    there = np.isfinite(numbers)
    low, high = float(numbers[there].min()), float(numbers[there].max())
    share = (numbers / 2 - low / 2) / ((high / 2 - low / 2) or 1.0)  # halves: the difference may be too large
    steps = np.nan_to_num(share * (_STEPS - 1)).round()
    codes = np.where(there, np.clip(steps, 0, _STEPS - 1), _STEPS).astype(np.int32)
    colours = np.vstack([ramp(), np.array([_NONE], dtype=np.uint8)])
    return Colouring(field, codes, colours, low=low, high=high, missing=int(np.count_nonzero(~there)))


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
