"""Contact sheets: what stands where, in which size, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from embedstore.errors import DiskFull, InvalidArgument
from embedstore.query import sheet as sheets
from embedstore.query.sheet import Row, blocks, fit, rows, save, sheet

RED, GREEN, BLUE = (250, 0, 0), (0, 250, 0), (0, 0, 250)
ACCENT, GROUND, WHITE = (37, 99, 235), (243, 244, 246), (255, 255, 255)


def plain(colour: tuple[int, ...], height: int = 32, width: int = 32) -> npt.NDArray[np.uint8]:
    return np.full((height, width, len(colour)), colour, dtype=np.uint8)


def boxes(image: Image.Image, colour: tuple[int, int, int]) -> list[tuple[int, int, int, int]]:
    """Left, top, right, bottom (exclusive) of each filled rectangle of a colour, in reading order."""
    left_over = (np.asarray(image) == colour).all(axis=2)
    found = []
    while left_over.any():
        top, left = np.argwhere(left_over)[0]
        right = left + int(np.argmin(np.append(left_over[top, left:], False)))
        bottom = top + int(np.argmin(np.append(left_over[top:, left], False)))
        assert left_over[top:bottom, left:right].all()
        left_over[top:bottom, left:right] = False
        found.append((int(left), int(top), right, bottom))
    return found


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 128), st.integers(1, 128), st.sampled_from([1, 3]), st.integers(0, 2**32 - 1))
def test_a_small_picture_is_enlarged_by_a_whole_number_pixel_by_pixel(h: int, w: int, c: int, seed: int) -> None:
    picture = np.random.default_rng(seed).integers(0, 256, (h, w, c), dtype=np.uint8)
    factor = 128 // max(h, w)
    expected = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    assert np.array_equal(np.asarray(fit(picture, 128)).reshape(h * factor, w * factor, c), expected)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 900), st.integers(129, 900), st.booleans())
def test_a_large_picture_is_reduced_to_the_tile_in_its_own_shape(short: int, long: int, upright: bool) -> None:
    short = min(short, long)
    height, width = (long, short) if upright else (short, long)
    image = fit(plain((90, 160, 30), height, width), 128)
    assert max(image.size) == 128
    assert abs(min(image.size) - short * 128 / long) <= 1
    assert set(map(tuple, np.asarray(image).reshape(-1, 3).tolist())) == {(90, 160, 30)}


def test_grey_stays_grey_and_a_fine_pattern_is_averaged() -> None:
    checks = np.indices((512, 512)).sum(axis=0).astype(np.uint8)[:, :, None] % 2 * 255
    image = fit(checks, 128)
    assert image.mode == "L"
    assert np.abs(np.asarray(image).astype(int)[8:-8, 8:-8] - 127).max() <= 2


def test_hits_stand_in_reading_order_behind_the_framed_query() -> None:
    pictures = [plain(RED), plain(GREEN), plain(RED), plain(BLUE), plain(GREEN)]
    image = sheet(pictures, ["x"] * 5, query=plain((9, 9, 9)), query_caption="q", columns=2)
    [query] = boxes(image, (9, 9, 9))
    reds, greens, [blue] = boxes(image, RED), boxes(image, GREEN), boxes(image, BLUE)
    order = [reds[0], greens[0], reds[1], blue, greens[1]]
    assert all(right - left == bottom - top == 128 for left, top, right, bottom in [query, *order])
    assert order == sorted(order, key=lambda box: (box[1], box[0]))
    assert [box[0] for box in order] == [order[0][0], order[1][0]] * 2 + [order[0][0]]
    assert query[1] == order[0][1]
    assert query[2] < order[0][0]
    framed = np.argwhere((np.asarray(image) == ACCENT).all(axis=2))
    framed = framed[framed[:, 1] < order[0][0] - 5]
    assert (framed.min(axis=0) < (query[1], query[0])).all()
    assert (framed.max(axis=0) >= (query[3], query[2])).all()


def test_each_row_has_its_query_and_its_hits() -> None:
    queries = [Row([plain(RED)] * 3, ["a"] * 3, plain((9, 9, 9)), "q"), Row([plain(GREEN)], ["b"], plain(BLUE), "r")]
    image = rows(queries, title="Two")
    reds, [green], [first], [second] = (boxes(image, colour) for colour in (RED, GREEN, (9, 9, 9), BLUE))
    assert [box[1] for box in reds] == [first[1]] * 3
    assert green[1] == second[1] > first[3]
    assert (first[0], reds[0][0]) == (second[0], green[0])


def test_blocks_fill_a_sheet_about_as_wide_as_high_in_reading_order() -> None:
    queries = [Row([plain(RED)] * (3 if i < 2 else 1), ["a"] * 3, plain(BLUE), f"q{i}\nkeep") for i in range(38)]
    queries = [Row(row.pictures, row.captions[: len(row.pictures)], row.query, row.query_caption) for row in queries]
    image = blocks(queries, tile=96)
    assert image.width <= sheets.WIDEST
    assert 0.8 < image.width / image.height < 1.25
    first, hits = boxes(image, BLUE), boxes(image, RED)
    assert len(first) == 38
    assert len(hits) == 42
    assert [box[1] for box in hits[:6]] == [first[0][1]] * 6, "the second stands beside the first"
    assert first[0][0] < hits[0][0] < hits[2][2] < first[1][0] < hits[3][0]


@pytest.mark.parametrize(("count", "hits"), [(0, 0), (1, 0), (1, 8), (2, 1), (60, 1)])
def test_no_number_of_blocks_makes_a_sheet_wider_than_it_may_be_or_cuts_one_off(count: int, hits: int) -> None:
    row = Row([plain(RED, 4, 4)] * hits, ["a"] * hits, plain(BLUE, 4, 4), "q\nkeep")
    image = blocks([row] * count, tile=32, widest=300)
    assert image.width <= max(300, 48 + 32 + 22 + hits * (32 + 14))
    assert len(boxes(image, BLUE)) == count
    assert len(boxes(image, RED)) == count * hits
    assert image.height >= 48
    if count == 2:
        assert image.width >= image.height


def test_a_hit_without_a_picture_gets_a_neutral_tile() -> None:
    image = sheet([plain(RED), None], ["a", "b"], columns=2)
    [red] = boxes(image, RED)
    place = np.asarray(image)[red[1] : red[3], red[2] + 14 : red[2] + 14 + 128]
    assert (place == GROUND).all(axis=2).mean() > 0.9
    assert not (place == GROUND).all()  # it says so


def test_captions_stay_within_their_tile_and_tell_ids_apart_by_their_ends() -> None:
    long = ["w" * 300 + ending for ending in ("1", "2")]
    images = [sheet([plain(RED)], [caption]) for caption in long]
    [(left, _, right, bottom)] = boxes(images[0], RED)
    inked = np.argwhere((np.asarray(images[0]) != WHITE).any(axis=2))
    below = inked[inked[:, 0] >= bottom]
    assert len(below) > 0
    assert left <= below[:, 1].min()
    assert below[:, 1].max() < right
    assert images[0].tobytes() != images[1].tobytes()


@pytest.mark.parametrize("text", ["größe", "日本語", "😀", "a\tb\x00\x1b", "", "\n\n", "naïve − ∞", "é" * 400])
@pytest.mark.parametrize("wider", [sheets._WIDER_FONTS, ()])
def test_any_text_can_be_a_caption(text: str, wider: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheets, "_WIDER_FONTS", wider)
    image = sheet([plain(RED)], [text], query=plain(BLUE), query_caption=text, title=text)
    assert len(boxes(image, RED)) == len(boxes(image, BLUE)) == 1


def test_letters_without_a_font_lose_their_accents_rather_than_turn_into_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheets, "_WIDER_FONTS", ())
    assert sheets._writable("Größe 日", 13)[0] == "Grosse ?"


def test_no_hits_make_a_sheet_of_the_query_alone() -> None:
    assert len(boxes(sheet([], [], query=plain(RED), query_caption="q"), RED)) == 1
    assert rows([]).width > 0


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG", ".webp"])
def test_a_saved_sheet_opens_again(tmp_path: Path, suffix: str) -> None:
    image = sheet([plain(RED)], ["a"])
    save(image, tmp_path / f"out{suffix}")
    with Image.open(tmp_path / f"out{suffix}") as again:
        assert again.size == image.size
        difference = np.abs(np.asarray(again.convert("RGB")).astype(int) - np.asarray(image)).mean()
        assert difference == 0 if suffix == ".png" else difference < 4


def test_what_cannot_be_drawn_or_written_is_named(tmp_path: Path) -> None:
    image = sheet([plain(RED)], ["a"])
    cases: list[tuple[Any, str]] = [
        (lambda: save(image, tmp_path / "out.gif"), r"out\.gif must end in one of \.png"),
        (lambda: save(image, tmp_path / "none" / "out.png"), "can't be written: No such file"),
        (lambda: save(Image.new("L", (20_000, 2)), tmp_path / "out.webp"), "use .png"),
        (lambda: sheet([plain(RED)], []), "1 pictures have 0 captions"),
        (lambda: sheet([plain(RED)], ["a"], columns=0), "at least one column"),
        (lambda: sheet([plain(RED)], ["a"], tile=1), "tile has 16"),
        (lambda: sheet([None] * 5000, [""] * 5000, tile=2048), "too large"),
        (lambda: fit(np.zeros((4, 4), dtype=np.uint8)), r"uint8 \(4, 4\)"),
        (lambda: fit(np.zeros((4, 4, 3), dtype=np.float32)), "float32"),
    ]
    for call, said in cases:
        with pytest.raises(InvalidArgument, match=said):
            call()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_to_be_full(tmp_path: Path) -> None:
    (tmp_path / "out.png").symlink_to("/dev/full")
    with pytest.raises(DiskFull, match="no room"):
        save(sheet([plain(RED)], ["a"]), tmp_path / "out.png")
