"""What became of the items since a clustering or a map was made of them, and whether it is time for another one."""

from __future__ import annotations

import shlex

from embedstore.explore.clusterings import Clustering
from embedstore.explore.maps import Map

_MANY = 0.2  # of the items that it was made of: where more were placed, or deleted, another one is suggested


def notes(made: Clustering | Map, live: int) -> list[str]:
    """A sentence each, without its full stop, of the items that were placed and of those that were deleted since.

    Args:
        made: what they were placed into.
        live: number of items that there are now.
    """
    word = "clustering" if isinstance(made, Clustering) else "map"
    placed, gone = made.placed, max(0, made.items + made.placed - live)
    found = []
    if placed:
        found.append(f"{placed:,} items were placed since this {word} was made of {made.items:,}")
    if gone and not placed:
        found.append(f"{gone:,} of the {made.items:,} items that this {word} was made of were deleted since")
    if gone and placed:  # an item whose picture changed was placed anew, and what it was is gone
        found.append(
            f"{gone:,} of the {made.items + placed:,} items that it was made of or that were placed since were deleted "
            "or replaced"
        )
    if max(placed, gone) > _MANY * made.items:
        found[-1] += f"; it may be time for another one: `{_again(made)}`"
    return found


def _again(made: Clustering | Map) -> str:
    name = shlex.quote(made.name)
    if isinstance(made, Map):
        return f"embedstore map STORE --name {name} --refit"
    return f"embedstore cluster STORE --name {name}" + (f" --k {made.asked}" if made.asked else "")
