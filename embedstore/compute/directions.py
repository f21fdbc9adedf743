"""Directions made from the store's items, stored by name."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.compute.space import LatentSpace
from embedstore.errors import InvalidArgument, NothingMatches, StoreDamaged, UnknownDirection
from embedstore.latent import directions as ways
from embedstore.latent.directions import Sides
from embedstore.latent.transport import Transport, transport, typical_members
from embedstore.metadata import catalog, items
from embedstore.metadata import directions as rows
from embedstore.metadata.directions import DirectionRow
from embedstore.truth.writer import Writer
from embedstore.types import Latent

SIDE_LIMIT = 10_000  # items of a side that a direction is made of: more move it by less than it is worth
_KIN = 15  # neighbours by which a member counts as typical
_LONGEST = 100  # letters of a name
_NOT_IN_NAMES = set("=,'\"()")  # so that it can be written in an expression and on a command line


@dataclass(frozen=True, slots=True)
class Direction:
    """A named, stored difference of latents.

    Attributes:
        name: unique in its space.
        latent: the difference; strength 1 adds it once.
        method: 'difference', 'balanced', 'classifier' or 'principal'.
        positive: filter of the side that it leads to (or, of a principal direction, of the items taken), if any.
        negative: filter of the side that it leads from; None: all other items.
        balance: metadata keys whose values count the same on both sides.
        keep: names of directions that it leaves alone.
        counts: items on the positive and on the negative side.
        auc: area under the ROC curve on held-out items: 0.5 tells nothing apart, 1 everything; None: not measured.
        explained: share of the variance, of a principal direction.
        created: when, ISO 8601.
        commit: of the store that it was made at.
        reach: median places of the negative and the positive side along it.
        kept: float32 (k, d), orthonormal: what the directions in ``keep`` spanned when it was made.
    """

    name: str
    latent: Latent
    method: str
    positive: str | None = None
    negative: str | None = None
    balance: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    counts: tuple[int, int] = (0, 0)
    auc: float | None = None
    explained: float | None = None
    created: str = ""
    commit: int = 0
    reach: tuple[float, float] | None = field(default=None, repr=False)
    kept: npt.NDArray[np.float32] | None = field(default=None, repr=False, compare=False)

    @property
    def vector(self) -> npt.NDArray[np.float32]:
        """The difference, float32 (d,)."""
        return self.latent.vector


def make(
    space: LatentSpace,
    writer: Writer,
    name: str,
    *,
    positive: str | None,
    negative: str | None,
    method: str,
    balance: Sequence[str],
    keep: Sequence[str],
    component: int = 1,
) -> Direction:
    """Make a direction and store it in place of one of the same name.

    Raises:
        InvalidArgument: a name, method or combination that there isn't; NothingMatches: a side is empty;
        UnknownDirection: one to keep isn't there.
    """
    if not _can_name(name):
        raise InvalidArgument(
            f"{name!r} can't name a direction: use up to {_LONGEST} printable characters without = , ( ) and quotes"
        )
    if method not in ways.METHODS:
        raise InvalidArgument(f"unknown method {method!r}: use one of {', '.join(ways.METHODS)}")
    if balance and method == "difference":
        method = "balanced"
    if (method == "balanced") != bool(balance):
        raise InvalidArgument("the method balanced needs balance: name the metadata keys to balance, as no other does")
    kept = [get(space, other).vector for other in keep]
    made: dict[str, Any] = {"method": method, "positive": positive, "negative": negative}
    if method == "principal":
        vector, more = _principal(space, positive, negative, component, kept)
    else:
        vector, more = _between(space, positive, negative, method, balance, kept)
    scale = float(np.linalg.norm(space.vectors(space.sample(None, 100)), axis=1).mean())
    if not np.linalg.norm(vector) > 1e-6 * scale:  # what rounding leaves of two sides that are the same
        raise InvalidArgument(f"direction {name!r} would have length 0: its sides don't differ in this space")
    made |= {"balance": list(balance), "keep": list(keep), **more}
    if kept:  # as they are now: they may be replaced or removed
        made["kept"] = ways.span(kept).astype(np.float32).tolist()
    made["created"] = datetime.now(UTC).isoformat(timespec="seconds")
    with writer.locked("storing a direction"), writer.database.write() as connection:
        made["commit"] = catalog.read_state(connection).seq
        rows.write(connection, space.view.space, DirectionRow(name, vector.astype(np.float32), made))
    return get(space, name)


def _can_name(name: object) -> bool:
    return (
        isinstance(name, str)
        and 0 < len(name) <= _LONGEST
        and name == name.strip()
        and name.isprintable()
        and not _NOT_IN_NAMES & set(name)
    )


def _principal(
    space: LatentSpace, where: str | None, negative: str | None, component: int, kept: Sequence[Any]
) -> tuple[npt.NDArray[np.float64], dict[str, Any]]:
    if negative is not None:
        raise InvalidArgument("a principal direction has no negative side: leave it out, or use another method")
    if isinstance(component, bool) or not isinstance(component, int) or not 1 <= component <= space.dimension:
        raise InvalidArgument(f"component is {component!r}, but must be a whole number from 1 to {space.dimension}")
    sample = space.sample(where, 2 * SIDE_LIMIT)
    if len(sample) <= component:
        raise InvalidArgument(f"{len(sample)} items have no component {component}: take more items")
    vectors, shares = ways.principal(space.vectors(sample), component)
    vector = ways.without(vectors[-1], kept)
    return vector, {"counts": [len(space.positions(where)), 0], "auc": None, "explained": float(shares[-1])}


def _between(
    space: LatentSpace,
    positive: str | None,
    negative: str | None,
    method: str,
    balance: Sequence[str],
    kept: Sequence[npt.NDArray[np.float32]],
) -> tuple[npt.NDArray[np.float64], dict[str, Any]]:
    sides = _sides(space, positive, negative, balance)
    vector = ways.make(sides, method, kept)
    unit = vector / max(float(np.linalg.norm(vector)), 1e-30)
    places = [float(np.median(side @ unit)) for side in (sides.negative, sides.positive)]
    counts = [len(found) for found in _positions(space, positive, negative)]
    return vector, {"counts": counts, "auc": ways.separation(sides, method, kept, space.seed), "reach": places}


def _positions(
    space: LatentSpace, positive: str | None, negative: str | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    if positive is None:
        raise InvalidArgument("name the items that the direction leads to: positive is missing")
    towards = space.positions(positive)
    if negative is not None:
        away = space.positions(negative)
    else:
        away = np.setdiff1d(space.positions(None), towards, assume_unique=True)
    if not len(away):
        raise NothingMatches(f"every item matches {positive}: there is nothing to tell them from")
    if np.array_equal(away, towards):
        raise InvalidArgument(f"both sides are the same {len(away):,} items: name two that differ")
    both = np.intersect1d(towards, away, assume_unique=True)  # of neither side: they can't tell the two apart
    towards, away = (np.setdiff1d(side, both, assume_unique=True) for side in (towards, away))
    for found, filter in ((towards, positive), (away, negative or f"not ({positive})")):
        if len(found) < ways.FEWEST:
            alone = " and not the other side" if len(both) else ""
            listed = "1 item matches" if len(found) == 1 else f"{len(found)} items match"
            raise InvalidArgument(f"only {listed} {filter}{alone}: a side needs at least {ways.FEWEST}")
    return towards, away


def _sides(space: LatentSpace, positive: str | None, negative: str | None, balance: Sequence[str]) -> Sides:
    """The items of both sides, at most 10,000 of each, the same ones every time."""
    generator = np.random.default_rng(space.seed)
    chosen = []
    for found in _positions(space, positive, negative):
        some = generator.permutation(len(found))[:SIDE_LIMIT] if len(found) > SIDE_LIMIT else np.arange(len(found))
        chosen.append(found[np.sort(some)])
    strata = None
    if balance:
        values = _values(space, np.concatenate(chosen), balance)
        if set(values[: len(chosen[0])]).isdisjoint(values[len(chosen[0]) :]):
            keys = " and ".join(balance)
            raise InvalidArgument(f"no value of {keys} has items on both sides: balance another key, or none")
        codes = {value: code for code, value in enumerate(dict.fromkeys(values))}
        both = np.array([codes[value] for value in values], dtype=np.int64)
        strata = both[: len(chosen[0])], both[len(chosen[0]) :]
    return Sides(space.vectors(chosen[0]), space.vectors(chosen[1]), strata)


def _values(space: LatentSpace, positions: npt.NDArray[np.int64], keys: Sequence[str]) -> list[str]:
    """What the items have under these keys, as one text each."""
    wanted = space.view.rows[positions]
    with space.database.read() as connection:
        found = {row: json.loads(text) for row, _, text, _ in items.records(connection, np.sort(wanted))}
    listed = [found.get(row, {}) for row in wanted.tolist()]
    for key in keys:
        if not any(key in one for one in listed):
            known = sorted({name for one in listed[:1000] for name in one})
            listing = ", ".join(known) or "none"
            raise InvalidArgument(f"no item of either side has the metadata key {key!r}: there are {listing}")
    return [json.dumps([one.get(key) for key in keys], sort_keys=True) for one in listed]


def way(space: LatentSpace, direction: Direction, *, reverse: bool = False) -> Transport:
    """The item-by-item way that a direction between two sides leads, or back; computed once a commit."""
    positive, negative = direction.positive, direction.negative

    def compute() -> Transport:
        sides = _sides(space, positive, negative, direction.balance)
        aims = _positions(space, positive, negative)
        if reverse:
            strata = None if sides.strata is None else sides.strata[::-1]
            sides, aims = Sides(sides.negative, sides.positive, strata), aims[::-1]
        member = np.zeros(len(space.view.rows), dtype=bool)
        member[aims[0]] = True
        distances, positions = space.nearest(sides.positive, _KIN + 1)
        known = np.isfinite(distances[:, 1:])
        kin = member[positions[:, 1:]] & known
        return transport(sides, typical_members(kin.sum(axis=1) / np.maximum(known.sum(axis=1), 1)))

    return space.once(("way", positive, negative, direction.balance, reverse), compute)


def get(space: LatentSpace, name: str) -> Direction:
    """The direction of a name.

    Raises:
        UnknownDirection: there is none; near names are suggested.
    """
    with space.database.read() as connection:
        found = rows.read(connection, space.view.space, name) if _can_name(name) else []
        known = [] if found else rows.names(connection, space.view.space)
    if not found:
        near = difflib.get_close_matches(str(name), known, n=3)
        listed = f"there are {', '.join(known[:10])}{', ...' if len(known) > 10 else ''}"
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else listed if known else "there are none yet"
        raise UnknownDirection(f"no direction is named {name!r}: {hint}")
    return _direction(space, found[0])


def every(space: LatentSpace) -> list[Direction]:
    """All directions of the space, by name."""
    with space.database.read() as connection:
        return [_direction(space, row) for row in rows.read(connection, space.view.space)]


def remove(space: LatentSpace, writer: Writer, name: str) -> None:
    """Forget a direction.

    Raises:
        UnknownDirection: there is none.
    """
    with writer.locked("removing a direction"), writer.database.write() as connection:
        gone = _can_name(name) and rows.remove(connection, space.view.space, name)
    if not gone:
        get(space, name)  # says which there are


def _direction(space: LatentSpace, row: DirectionRow) -> Direction:
    made = row.made
    try:
        return _checked(space, row, made, made.get("reach"))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        # A store may be somebody else's.
        raise StoreDamaged(
            f"store.db doesn't say how direction {row.name!r} was made: remove it and make it again"
        ) from None


def _checked(space: LatentSpace, row: DirectionRow, made: dict[str, Any], reach: Any) -> Direction:
    if made["method"] not in ways.METHODS:
        raise ValueError("an unknown method")
    kept = None if made.get("kept") is None else np.array(made["kept"], dtype=np.float32)
    if kept is not None and (kept.ndim != 2 or kept.shape[1] != space.dimension or not np.isfinite(kept).all()):
        raise ValueError("what is kept is no basis")
    return Direction(
        row.name,
        space.latent(row.vector),
        made["method"],
        made.get("positive"),
        made.get("negative"),
        tuple(made.get("balance") or ()),
        tuple(made.get("keep") or ()),
        (int(made["counts"][0]), int(made["counts"][1])),
        None if made.get("auc") is None else float(made["auc"]),
        None if made.get("explained") is None else float(made["explained"]),
        str(made.get("created", "")),
        int(made.get("commit", 0)),
        None if reach is None else (float(reach[0]), float(reach[1])),
        kept,
    )
