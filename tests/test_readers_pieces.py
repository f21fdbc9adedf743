from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedstore.errors import SourceError
from embedstore.readers import pieces
from embedstore.readers.open import open_reader
from embedstore.readers.pieces import check_text_path, label_metadata, one_array, printable, take
from embedstore.types import Item

from .pictures import noise, read_all, write_idx, write_png


@given(st.sets(st.integers(0, 19)))
def test_rows_are_taken_at_their_places_and_runs_without_a_copy(places: set[int]) -> None:
    rows = np.arange(40).reshape(20, 2)
    which = sorted(places)
    taken = take(rows, which)
    np.testing.assert_array_equal(taken, rows[which].reshape(-1, 2))
    if which and which[-1] - which[0] == len(which) - 1:
        assert np.shares_memory(taken, rows)


def test_pictures_of_one_size_become_one_array_and_others_stay() -> None:
    same = [noise(seed=1), noise(seed=2)]
    np.testing.assert_array_equal(one_array(same), np.stack(same))
    mixed = [noise(3, 4), noise(4, 3)]
    assert one_array(mixed) is mixed
    assert len(one_array([])) == 0


def test_a_path_that_no_database_holds_is_refused_in_words_it_can_hold() -> None:
    with pytest.raises(SourceError, match=r"/x/caf\\xe9 is not valid UTF-8") as caught:
        check_text_path(Path(os.fsdecode(b"/x/caf\xe9")))
    str(caught.value).encode()
    assert printable("é") == "é"


def test_a_path_keeps_its_links_unless_it_climbs_through_them(tmp_path: Path) -> None:
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to("far/away")
    assert check_text_path(tmp_path / "link" / "x") == f"{tmp_path}/link/x"
    assert check_text_path(tmp_path / "link" / ".." / "x") == f"{tmp_path}/far/x"
    assert check_text_path(Path("b")) == str(Path.cwd() / "b")


def test_labels_take_their_class_names_where_there_are_any() -> None:
    assert label_metadata("x", None) == {"label": "x"}
    assert [label_metadata(i, ["a", "b"])["label"] for i in (0, 1, 2, -1)] == ["a", "b", "2", "-1"]


def test_chunks_of_large_pictures_have_fewer_of_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert [pieces.chunk_size(2048, 3 * side * side) for side in (64, 128, 1024, 2048, 99999)] == [
        2048, 2048, 170, 42, 1
    ]  # fmt: skip
    monkeypatch.setattr(pieces, "CHUNK_BYTES", 1000)
    pictures = noise(10 * 10, 10, 3).reshape(10, 10, 10, 3)  # 300 bytes each
    np.save(tmp_path / "a.npy", pictures)
    write_idx(tmp_path / "a-images-idx3-ubyte", pictures[..., 0])  # 100 bytes each
    for i in range(5):
        write_png(tmp_path / "files" / f"{i}.png", i)
    files = [Path(tmp_path, "files", f"{i}.png") for i in range(5)]
    for source, lengths in (
        (pictures, [3, 3, 3, 1]),
        (tmp_path / "a.npy", [3, 3, 3, 1]),
        (tmp_path / "a-images-idx3-ubyte", [8, 2]),
        (list(pictures), [4, 4, 2]),
        (tmp_path / "files", [2, 2, 1]),
        ([Item(path.name, path) for path in files], [3, 2]),
    ):
        reader = open_reader(source, max_side=12, workers=1)
        chunks = [list(chunk.ids) for chunk in reader.chunks(8)]
        assert [len(ids) for ids in chunks] == lengths
        assert sum(chunks, []) == read_all(reader)[0]  # noqa: RUF017 - a few short lists
        reader.close()
