"""Pictures of items in a page, each with a few words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from embedstore.compute.space import LatentSpace
from embedstore.explore import likeness
from embedstore.metadata import items
from embedstore.show import markup
from embedstore.types import Picture

_LOSSLESS = 64  # px: larger ones are compressed
_MOST = 128


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture in a page.

    Attributes:
        id: of the item.
        caption: lines under it, escaped already.
        badge: a word upon it.
    """

    id: str
    caption: str = ""
    badge: str = ""


def stored(space: LatentSpace, ids: Iterable[str]) -> dict[str, Picture]:
    """Stored pictures of those items that have one."""
    names = list(dict.fromkeys(ids))
    with space.database.read() as connection:
        rows = {name: known.row for name, known in items.find(connection, names).items()}
    there = [name for name in names if name in rows]
    pictures = likeness.read(space, np.array([rows[name] for name in there], dtype=np.int64))
    return {name: picture for name, picture in zip(there, pictures, strict=True) if picture is not None}


def source(picture: Picture) -> str:
    """A picture as the ``src`` of an element: up to 64 px as it is."""
    image = Image.fromarray(np.ascontiguousarray(picture[:, :, 0] if picture.shape[2] == 1 else picture))
    if max(image.size) <= _LOSSLESS:
        return markup.picture_source(image)
    image.thumbnail((_MOST, _MOST), Image.Resampling.LANCZOS)
    return markup.picture_source(image, "WEBP", quality=80, method=3)


def image(picture: Picture | None, name: str) -> str:
    """A picture, or the place of one."""
    if picture is None:
        return '<span class="nothing">no picture</span>'
    kind = "small" if max(picture.shape[:2]) <= _LOSSLESS else "large"
    return f'<img class="{kind}" loading="lazy" src="{source(picture)}" alt="{markup.text(name, 80)}">'


def strip(shown: Sequence[Shown], pictures: dict[str, Picture], kind: str = "") -> str:
    """Pictures in a row, in as many lines as they need."""
    figures = []
    for one in shown:
        badge = f'<span class="badge">{markup.text(one.badge)}</span>' if one.badge else ""
        name = markup.text(one.id, 60)
        caption = f'<figcaption><bdi class="id">{name}</bdi>{one.caption}</figcaption>'
        figures.append(f"<figure>{image(pictures.get(one.id), one.id)}{badge}{caption}</figure>")
    return f'<div class="strip {kind}">{"".join(figures)}</div>\n'


def bar(share: float) -> str:
    """A share in [0, 1] as a bar. Drawn by attributes: the page's policy lets no element carry a style of its own."""
    width = max(0.0, min(1.0, share)) * 100
    return (
        '<svg class="bar" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="ground" width="100" height="6"/><rect width="{width:.2f}" height="6"/></svg>'
    )
