"""What a report says of duplicates, outliers and labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedstore.compute.space import LatentSpace
from embedstore.errors import InvalidArgument
from embedstore.explore import duplicates, mislabels, outliers, stored
from embedstore.metadata import items
from embedstore.show import gallery, markup

_GROUPS, _COPIES = 12, 6  # shown
_OUTLIERS, _LABELS = 24, 16
_KEYS = 4  # of the metadata, whose labels are looked at
_ASKED = 12  # keys that neighbours are asked about
_CLASSES = 100  # different values up to which a key looks like a class label
_JUDGED, _NEIGHBOURS = 2_000, 10
_KNOWN = 0.5  # share of what guessing leaves open, from which on the neighbours know a key


@dataclass(frozen=True, slots=True)
class Part:
    """A section of a report.

    Attributes:
        html: what is in it.
        headline: what it comes to, as part of a sentence and escaped; "" for nothing worth it.
    """

    html: str
    headline: str


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well neighbours know a key.

    Attributes:
        right: share of items whose own value their neighbours name.
        guessed: share of items that have the most frequent value: as often is who always says that one right.
    """

    right: float
    guessed: float


def duplicates_part(space: LatentSpace, progress: bool) -> Part:
    """Groups of the same item, side by side."""
    found = duplicates.find(space, progress=progress)
    surplus = len(found.surplus)
    exact = sum(group.kind == "exact" for group in found.groups)
    said = (
        f"{len(found.groups):,} groups of items that are the same ({exact:,} with equal content, "
        f"{len(found.groups) - exact:,} nearly equal): {surplus:,} of {found.items:,} items, "
        f"{surplus / max(found.items, 1):.2%}, repeat another."
        if found.groups
        else f"No two of {found.items:,} items were found to be the same."
    )
    said += (
        " Equal means the same content hash; nearly equal, within a threshold: "
        f"{markup.text(found.evidence.said, 600)}."
    )
    shown = found.groups[:_GROUPS]
    pictures = gallery.stored(space, [name for group in shown for name in group.ids[:_COPIES]])
    parts = []
    for group in shown:
        strip = []
        for place, name in enumerate(group.ids[:_COPIES]):
            caption = f"<br>distance {markup.number(group.distances[place])}" if place else ""
            if place and group.differences is not None:
                caption += f"<br>difference {markup.number(group.differences[place])}"
            strip.append(gallery.Shown(name, caption, "" if place else "keep"))
        more = f", {len(group.ids) - _COPIES:,} not shown" if len(group.ids) > _COPIES else ""
        kind = "equal content" if group.kind == "exact" else "nearly equal"
        parts.append(
            f"<article><h3>{len(group.ids):,} items, {kind}{more}</h3>{gallery.strip(strip, pictures)}</article>"
        )
    few = f"<p class='soft'>The first {len(shown):,}:</p>\n" if len(shown) < len(found.groups) else ""
    return Part(
        f"<p>{said}</p>\n{few}<div class='groups'>{''.join(parts)}</div>\n",
        f"{surplus:,} items repeat another one" if surplus else "no duplicates were found",
    )


def outliers_part(space: LatentSpace, progress: bool) -> Part:
    """The most unusual items, with why they are."""
    found = outliers.find(space, limit=_OUTLIERS, progress=progress)
    unusual = [one for one in found.found if one.reasons]
    said = (
        f"The {len(unusual):,} most unusual of {len(found.scores):,} items, the strangest first. Measured: "
        f"{', '.join(found.measured)}; each number is compared with the same number of all other items, and “one in "
        "1,000” means that so few items are as unusual in this respect."
    )
    pictures = gallery.stored(space, [one.id for one in unusual])
    strip = [gallery.Shown(one.id, "".join(f"<br>{_reason(reason)}" for reason in one.reasons[:2])) for one in unusual]
    first = f"<bdi>{markup.text(unusual[0].id, 60)}</bdi> ({unusual[0].reasons[0].kind})" if unusual else ""
    headline = f"the strangest item is {first}" if unusual else "no item stands out"
    return Part(f"<p>{said}</p>\n{gallery.strip(strip, pictures, 'wide')}", headline)


def _reason(reason: outliers.Reason) -> str:
    return f"{markup.text(reason.kind)}: {reason.rarity}"


def labels_part(space: LatentSpace, key: str | None, progress: bool) -> Part:
    """Of each key that looks like a class label, the items whose value disagrees with their neighbourhood."""
    keys = label_keys(space) if key is None else [key]
    if not keys:
        return Part(
            f"<p>No metadata key looks like a class label: none has 2 to {_CLASSES} different values, two of them on "
            f"{mislabels.FEWEST} or more items.</p>\n",
            "",
        )
    said = (
        "Items whose label disagrees with the items around them. Each item's label is guessed from other items alone, "
        "by its nearest neighbours and by a linear model of the latents; where both would rather say something else, "
        "the label may be wrong. Look at the pictures: some are right and merely hard."
    )
    parts = [_labels(space, one, key is not None, progress) for one in keys[:_KEYS]]
    headline = "; ".join(part.headline for part in parts if part.headline)
    return Part(f"<p>{said}</p>\n" + "".join(part.html for part in parts), headline)


def _labels(space: LatentSpace, key: str, asked: bool, progress: bool) -> Part:
    name = f"<bdi>{markup.text(key, 60)}</bdi>"
    known = None if asked else agreement(space, key)
    if known is not None and known.right < known.guessed + _KNOWN * (1 - known.guessed):
        return Part(
            f"<article><h3>{name}</h3><p>The items' neighbours know too little of it: they name the right value of "
            f"{known.right:.1%}, always saying the most frequent one of {known.guessed:.1%}. So nothing can be said of "
            "single items.</p></article>\n",
            "",
        )
    try:  # of a key that is no class label, the error says why
        found = mislabels.find(space, key, limit=_LABELS, progress=progress)
    except InvalidArgument as error:
        return Part(f"<article><h3>{name}</h3><p>Not measured: {markup.text(error, 400)}.</p></article>\n", "")
    pictures = gallery.stored(space, [one.id for one in found.found])
    strip = [
        gallery.Shown(
            one.id,
            f"<br>given <bdi>{markup.text(one.given, 40)}</bdi><br>rather <b><bdi>{markup.text(one.suggested, 40)}"
            f"</bdi></b> (probability {one.probability:.0%}, of its own {one.confidence:.0%})",
        )
        for one in found.found
    ]
    left = f"; {sum(found.left_out.values()):,} items have values too rare to be learnt" if found.left_out else ""
    return Part(
        f"<article><h3>{name}</h3><p>About {found.wrong:,} of {found.items:,} labels may be wrong "
        f"({found.wrong / max(found.items, 1):.1%}, or fewer where values overlap); {found.accuracy:.1%} are what the "
        "rest of the data would have said"
        f"{left}.</p>\n{gallery.strip(strip, pictures, 'wide')}</article>\n",
        f"about {found.wrong:,} values of {name} may be wrong" if found.wrong else "",
    )


def label_keys(space: LatentSpace) -> list[str]:
    """Keys with 2 to 100 different values, the one that neighbours know best first.

    Less those that merely rename the values of one before.
    """
    with space.database.read() as connection:
        keys = [
            key
            for key in sorted(items.metadata_keys(connection))
            if 2 <= len(items.summary(connection, key, _CLASSES + 1)) <= _CLASSES
        ]
    # Names say more than numbers: of a class and its label, the label is kept.
    codes = {key: known for key in keys if (known := _codes(space, key)) is not None}
    found: list[str] = []
    for key in sorted(codes, key=lambda key: (not codes[key][1], key)):
        if len(found) < _ASKED and not any(_same(codes[key][0], codes[other][0]) for other in found):
            found.append(key)
    agreed = {key: one for key in found if (one := agreement(space, key)) is not None}
    return sorted(agreed, key=lambda key: agreed[key].guessed - agreed[key].right)


def _codes(space: LatentSpace, key: str) -> tuple[npt.NDArray[np.int64], bool] | None:
    """Number of each live item's value (n,), -1 for none, and whether the values are texts.

    None where they are no classes, as `mislabels` sees it: lists, a quantity, or fewer than two on several items each.
    """
    with space.database.read() as connection:
        said = items.values(connection, key)
    different = {value for _, value in said}
    broken = any(isinstance(value, float) and not value.is_integer() for value in different)
    if broken and len(different) > mislabels.QUANTITY:
        return None
    rows = np.fromiter((row for row, _ in said), np.int64, len(said))
    numbers: dict[object, int] = {}
    codes = np.fromiter((numbers.setdefault(value, len(numbers)) for _, value in said), np.int64, len(said))
    codes = stored.aligned(space, rows, codes, -1)
    shared = np.count_nonzero(np.bincount(codes[codes >= 0]) >= mislabels.FEWEST)
    return (codes, any(isinstance(value, str) for value in different)) if 2 <= shared <= mislabels.MOST else None


def _same(one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> bool:
    pairs = len(np.unique(np.stack([one, other], axis=1), axis=0))
    return pairs == len(np.unique(one)) == len(np.unique(other))


def agreement(space: LatentSpace, key: str) -> Agreement | None:
    """How well 10 neighbours, by vote, know 2,000 items' values of a key; None where its values are no classes."""
    return space.once(("agreement", key), lambda: _agreement(space, key))


def _agreement(space: LatentSpace, key: str) -> Agreement | None:
    found = _codes(space, key)
    if found is None:
        return None
    codes, _ = found
    positions = space.positions(None)
    labelled = np.flatnonzero(codes >= 0)
    chosen = labelled
    if len(chosen) > _JUDGED:
        chosen = np.sort(np.random.default_rng(space.seed).choice(labelled, _JUDGED, replace=False))
    among = None if len(labelled) == len(positions) else positions[labelled]
    _, near = space.others(positions[chosen], min(_NEIGHBOURS, len(labelled) - 1), among)
    votes = codes[np.searchsorted(positions, near)]
    counts = np.stack([np.bincount(row[row >= 0], minlength=int(codes.max()) + 1) for row in votes])
    right = float((counts.argmax(axis=1) == codes[chosen]).mean())
    return Agreement(right, float(np.bincount(codes[labelled]).max() / len(labelled)))
