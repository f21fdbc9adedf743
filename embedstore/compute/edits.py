"""Edits: one direction or a chain of them applied to items, each item by as much as it needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.compute import directions
from embedstore.compute.directions import Direction
from embedstore.compute.space import LatentSpace
from embedstore.errors import FilterError, InvalidArgument, NothingMatches
from embedstore.latent.directions import Floats, apart
from embedstore.types import Vectors

STRENGTHS = (-10.0, 10.0)
Edits = Mapping[str, float] | Sequence[tuple[str, float]]


def checked(edits: Edits) -> list[tuple[str, float]]:
    """A chain as (name, strength) pairs.

    Raises:
        InvalidArgument: none, or a strength that isn't a number from -10 to 10.
    """
    given: Any = edits
    chain = list(given.items() if isinstance(given, Mapping) else given)
    if isinstance(given, str) or not all(isinstance(one, (tuple, list)) and len(one) == 2 for one in chain):
        raise InvalidArgument("edits are strengths by name, as in {'boot-ness': 1.0}, or (name, strength) pairs")
    if not chain:
        raise InvalidArgument("name at least one direction to edit by, with its strength")
    for name, strength in chain:
        number = isinstance(strength, (int, float, np.number)) and not isinstance(strength, bool)
        if not number or not math.isfinite(strength) or not STRENGTHS[0] <= strength <= STRENGTHS[1]:
            raise InvalidArgument(
                f"strength {strength!r} of {name!r} is out of range: "
                f"use a number from {STRENGTHS[0]:g} to {STRENGTHS[1]:g}"
            )
    return [(name, float(strength)) for name, strength in chain]


def stages(space: LatentSpace, latents: Vectors, edits: Edits) -> Floats:
    """Latents (s + 1, n, d): as given, and after each of the chain's s edits."""
    chain = [(directions.get(space, name), strength) for name, strength in checked(edits)]
    found = [latents.astype(np.float64)]
    for direction, strength in chain:
        found.append(found[-1] + displacements(space, direction, found[-1], strength))
    return np.stack(found)


def displacements(
    space: LatentSpace, direction: Direction, latents: npt.NDArray[np.floating], strength: float
) -> Floats:
    """What an edit adds to latents (n, d).

    * Between two sides ('difference', 'balanced'): strength 1 leads each item to the target's typical members
      (`embedstore.latent.transport`), strength 0.5 half-way; a negative strength leads to the other side.
    * By a classifier's normal: along it alone, for each item as far as the target side's median; items beyond it stay.
    * A principal direction: the same for all items, one standard deviation for each unit of strength.

    Other directions that this one was told to keep are left alone by each item's displacement as well.
    """
    z = latents.astype(np.float64)
    if direction.method == "principal":
        return np.repeat(strength * direction.vector[None].astype(np.float64), len(z), axis=0)
    reverse = strength < 0
    if direction.method == "classifier" or not _there(space, direction):
        if direction.reach is None:
            return np.repeat(strength * direction.vector[None].astype(np.float64), len(z), axis=0)
        unit = direction.vector.astype(np.float64)
        unit /= np.linalg.norm(unit)
        source, target = direction.reach[::-1] if reverse else direction.reach
        missing = target - z @ unit
        missing = np.minimum(missing, 0.0) if target < source else np.maximum(missing, 0.0)
        return abs(strength) * missing[:, None] * unit
    moved = directions.way(space, direction, reverse=reverse).displacements(z)
    if direction.kept is not None:
        moved = apart(moved, direction.kept.astype(np.float64))
    return abs(strength) * moved


def _there(space: LatentSpace, direction: Direction) -> bool:
    """Whether the items that a direction was made of are still there to be led to."""
    try:
        directions.way(space, direction)
    except (NothingMatches, InvalidArgument, FilterError):  # the last: nothing has the field any more
        return False
    return True
