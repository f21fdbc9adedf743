"""What a report says of the encoder and the index: what is kept of a picture, what is found of the true neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np

from embedstore.compute.space import LatentSpace
from embedstore.encoders.preprocess import fit_pictures
from embedstore.errors import EmbedstoreError, NoDecoder, NoEncoder
from embedstore.explore import likeness
from embedstore.show import findings, gallery, markup
from embedstore.show.findings import Part

_PAIRS = 12
_MEASURED = 1_000  # items that the error is measured on


def quality_part(store: Any, space: LatentSpace, key: str | None) -> Part:
    """Reconstructions beside originals, the index's recall, and whether neighbours share a label."""
    shown, kept = _reconstructions(space)
    parts = [shown, _recall(store, space)]
    headlines = [f"the encoder keeps {kept:.0%} of what differs between pictures"] if kept is not None else []
    keys = findings.label_keys(space) if key is None else [key]
    for one in keys[:1]:
        known = findings.agreement(space, one)
        if known is None:
            continue
        parts.append(
            "<article><h3>Neighbours and labels</h3><p>The 10 nearest neighbours of an item, by vote, have its own "
            f"<bdi>{markup.text(one, 60)}</bdi> in {known.right:.1%} of cases (up to 2,000 items asked among all; "
            f"always saying the most frequent value would be right in {known.guessed:.1%}).</p></article>\n"
        )
        headlines.append(f"neighbours share their <bdi>{markup.text(one, 60)}</bdi> in {known.right:.0%} of cases")
    return Part("".join(parts), ", ".join(headlines))


def _reconstructions(space: LatentSpace) -> tuple[str, float | None]:
    head = "<article><h3>Reconstructions</h3>"
    try:
        shape = space.decode(np.zeros((1, space.dimension), dtype=np.float32)).shape[1:]
    except (NoDecoder, NoEncoder) as error:
        return f"{head}<p>Not shown: {markup.text(error, 400)}.</p></article>\n", None
    positions = space.sample(None, _MEASURED)
    pictures = likeness.read(space, space.view.rows[positions])
    there = [place for place, picture in enumerate(pictures) if picture is not None]
    shown = [picture for picture in pictures if picture is not None]
    if not there:
        return f"{head}<p>Not shown: the store has no pictures of its items.</p></article>\n", None
    originals = fit_pictures(shown, (shape[0], shape[1]), shape[2])
    rebuilt = space.decode(space.vectors(positions[there]))
    errors = np.square((originals.astype(np.float32) - rebuilt) / 255).mean(axis=(1, 2, 3), dtype=np.float64)
    whole = np.square(originals / 255 - (originals / 255).mean(axis=0)).mean()
    share = None if whole == 0 else max(0.0, 1 - float(errors.mean() / whole))
    kept = "" if share is None else f", so that {share:.0%} of what differs between them is kept"
    # From the best to the worst kept one, in equal steps of rank, so that neither is chosen by taste.
    order = np.argsort(errors, kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, min(_PAIRS, len(order))).round().astype(int)]
    names = space.ids(positions[there])
    pairs = "".join(
        f"<figure class='pair'>{gallery.image(originals[i], names[i])}{gallery.image(rebuilt[i], 'its reconstruction')}"
        f"<figcaption><bdi class='id'>{markup.text(names[i], 60)}</bdi><br>error {errors[i]:.4f}</figcaption></figure>"
        for i in chosen.tolist()
    )
    said = (
        f"Each original is left, and right what the decoder makes of its {space.dimension} numbers alone; from the "
        f"best kept item to the worst, in equal steps. The mean squared error of {len(there):,} items is "
        f"{errors.mean():.4f} (of grey levels from 0 to 1){kept}."
    )
    return f"{head}<p>{said}</p>\n<div class='strip'>{pairs}</div></article>\n", share


def _recall(store: Any, space: LatentSpace) -> str:
    head = "<article><h3>Search</h3>"
    try:
        found = store.recall(10, space=space.view.space.name)
    except EmbedstoreError as error:
        return f"{head}<p>Recall was not measured: {markup.text(error, 400)}.</p></article>\n"
    index = "the index" if space.view.tiers else "a search (there is no index: all items are compared)"
    said = (
        f"Of the {found.k} true nearest neighbours, {index} finds {found.recall:.2%} (95 % confidence interval "
        f"{found.low:.2%} to {found.high:.2%}, of {found.queries:,} items asked one by one and compared with an exact "
        f"search; it was tuned to {found.target:g})."
    )
    return f"{head}<p>{said}</p></article>\n"
