"""Films: the stops of a path as an animated GIF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from embedstore.durable import writing_output
from embedstore.errors import InvalidArgument

SIDE = 256  # px: the shorter films are enlarged to at most this
_PAUSE = 700  # ms that the first and the last frame stay
_STEP = 90


def save(images: Sequence[Image.Image], path: str | Path) -> None:
    """Write frames as a GIF that runs there and back, for ever.

    Small pictures are enlarged by a whole number, each pixel a square, as on the sheets; and a tenth of the bytes.

    Raises:
        InvalidArgument: fewer than two frames, or a path that can't be written; DiskFull: no room.
    """
    if len(images) < 2:
        raise InvalidArgument(f"a film needs at least two pictures, not {len(images)}")
    longest = max(images[0].size)
    factor = max(1, SIDE // longest) if longest < SIDE else SIDE / longest
    size = tuple(max(1, round(side * factor)) for side in images[0].size)
    filter = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.LANCZOS
    frames = [image.resize(size, filter) for image in images]  # type: ignore[arg-type]
    if frames[0].mode != "L":
        # One palette for all frames: with one each, plain areas would flicker.
        palette = _beside(frames).quantize(255)
        frames = [frame.convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    there_and_back = [*frames, *frames[-2:0:-1]]
    times = [_STEP] * len(there_and_back)
    times[0] = times[len(frames) - 1] = _PAUSE
    with writing_output(Path(path)):
        there_and_back[0].save(path, "GIF", save_all=True, append_images=there_and_back[1:], duration=times, loop=0)


def _beside(frames: Sequence[Image.Image], most: int = 16) -> Image.Image:
    """Some of the frames in one picture, from which a common palette is taken."""
    chosen = frames[:: max(1, len(frames) // most)]
    width, height = chosen[0].size
    canvas = Image.new("RGB", (width * len(chosen), height))
    for place, frame in enumerate(chosen):
        canvas.paste(frame.convert("RGB"), (place * width, 0))
    return canvas
