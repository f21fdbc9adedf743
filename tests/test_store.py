"""The store's methods, on values: what is put in comes out, by every kind of query and from a copy."""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import embedstore
from embedstore.errors import InvalidArgument, MissingExtra, StoreExists, UnknownItem
from embedstore.store import Store
from embedstore.types import Hit, Item, Latent

from .oracle import Oracle
from .pictures import encoded, image_of, noise
from .stores import D, add, assert_answers, refused, small_store, vectors

PICTURES = [noise(9, 8, 3, seed=i) for i in range(12)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Twelve colour pictures, all different; as many dimensions as make each its own nearest."""
    with embedstore.create(tmp_path / "pictures.store") as opened:
        items = [Item(f"p{i}", picture, {"n": i, "odd": bool(i % 2)}) for i, picture in enumerate(PICTURES)]
        opened.index(items, encoder="pca", dimension=8, progress=False)
        yield opened


def test_every_kind_of_query_for_a_picture_finds_it(store: Store, tmp_path: Path) -> None:
    picture = PICTURES[5]
    latent = store.encode(picture)[0]
    file = tmp_path / "query.png"
    file.write_bytes(encoded(image_of(picture)))
    expected = [(hit.id, hit.distance) for hit in store.search(latent, k=4)]
    distances = np.linalg.norm(store.encode(np.stack(PICTURES)).astype(np.float64) - latent, axis=1)
    assert [name for name, _ in expected] == [f"p{i}" for i in np.argsort(distances)[:4]]
    assert [distance for _, distance in expected] == pytest.approx(np.sort(distances)[:4].tolist(), abs=1e-6)
    queries: list[Any] = [
        store.vector("p5"),
        latent,
        latent.astype(np.float64),
        latent.tolist(),
        tuple(latent.tolist()),
        picture,
        image_of(picture),
        file,
        str(file),
        Latent(latent, "default", store.vector("p0").fingerprint),
    ]
    for query in queries:
        assert [(hit.id, hit.distance) for hit in store.search(query, k=4)] == expected
    batch = store.search([*queries, store.item("p5")], k=4)
    assert [[(hit.id, hit.distance) for hit in hits] for hits in batch[:-1]] == [expected] * len(queries)
    # An item is left out of its own answer.
    assert [hit.id for hit in store.search(store.item("p5"), k=3)] == [name for name, _ in expected[1:]]
    assert batch[-1].ids[:3] == [name for name, _ in expected[1:]]
    assert [hits.ids for hits in store.search(np.stack([latent, latent]), k=4)] == [[n for n, _ in expected]] * 2
    assert [hits.ids[0] for hits in store.search(np.stack(PICTURES), k=1)] == [f"p{i}" for i in range(12)]


def test_hits_are_a_sequence_with_scores_metadata_and_pictures(store: Store) -> None:
    hits = store.search(store.vector("p3"), k=5)
    listed = list(hits)
    assert len(hits) == len(listed) == 5
    assert listed[0] == Hit("p3", 0.0, 0.0, {"n": 3, "odd": True})
    assert [hits[i] for i in range(5)] == listed == hits[:] == [hits[i - 5] for i in range(5)]
    assert hits[1:4:2] == listed[1:4:2]
    assert (hits.ids, hits.distances.tolist()) == ([hit.id for hit in listed], [hit.distance for hit in listed])
    assert hits.scores.tolist() == [-hit.distance for hit in listed] == [hit.score for hit in listed]
    assert hits.metadata == [hit.metadata for hit in listed]
    with pytest.raises(IndexError):
        hits[5]
    with pytest.raises(IndexError):
        hits[-6]
    for image, name in zip(hits.images(), hits.ids, strict=True):
        assert (np.asarray(image) == PICTURES[int(name[1:])]).all()
    assert "p3 (0)" in repr(hits)


def test_hits_become_a_data_frame(store: Store) -> None:
    hits = store.search(store.vector("p3"), k=3)
    if importlib.util.find_spec("pandas") is None:
        refused(MissingExtra, r"embedstore\[pandas\]", hits.to_pandas)
        return
    frame = hits.to_pandas()
    assert frame.columns.tolist() == ["id", "score", "distance", "n", "odd"]
    assert frame["id"].tolist() == hits.ids
    assert frame["n"].tolist() == [hit.metadata["n"] for hit in hits]


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_scores_and_distances_are_those_of_the_metric(tmp_path: Path, metric: str) -> None:
    rows = np.random.default_rng(3).normal(size=(20, D)).astype(np.float32)
    query = rows[7].astype(np.float64)
    wide = rows.astype(np.float64)
    cosine = wide @ query / np.linalg.norm(wide, axis=1) / np.linalg.norm(query)
    distances = {"l2": np.linalg.norm(wide - query, axis=1), "cosine": 1 - cosine, "ip": -(wide @ query)}[metric]
    scores = {"l2": -distances, "cosine": cosine, "ip": wide @ query}[metric]
    order = np.argsort(distances)[:6]
    with embedstore.create(tmp_path / "m.store") as store:
        store.add_vectors([str(i) for i in range(20)], rows, metric=metric)
        hits = store.search(rows[7], k=6)
        assert hits.ids == [str(i) for i in order]
        assert hits.distances == pytest.approx(distances[order], abs=1e-6)
        assert hits.scores == pytest.approx(scores[order], abs=1e-6)
        assert (np.diff(hits.scores) <= 0).all()


def test_an_update_changes_what_it_names_and_keeps_the_rest(store: Store) -> None:
    before = store.vector("p2").vector.tolist()
    store.update("p2", metadata={"n": None, "new": [1]})
    assert store.get("p2")["metadata"] == {"odd": False, "new": [1]}
    assert store.vector("p2").vector.tolist() == before
    assert (np.asarray(store.images(["p2"])[0]) == PICTURES[2]).all()
    other = noise(9, 8, 3, seed=77)
    store.update("p2", picture=image_of(other))
    assert store.vector("p2").vector.tolist() == store.encode(other)[0].tolist()
    assert (np.asarray(store.images(["p2"])[0]) == other).all()
    assert store.get("p2")["metadata"] == {"odd": False, "new": [1]}
    store.update("p2", vector=np.arange(8))
    assert store.vector("p2").vector.tolist() == list(range(8))
    assert len(store) == 12
    assert store.search(np.arange(8), k=1).ids == ["p2"]
    assert store.verify().ok


def test_deleting_by_filter_and_by_id_is_for_good(store: Store) -> None:
    assert store.delete(where="odd = true and n > 6") == 3
    assert store.delete("p0") == 1
    assert store.delete(["p0", "p1", "nothing"]) == 1
    left = ["p2", "p3", "p4", "p5", "p6", "p8", "p10"]
    for opened in (store, embedstore.open(store.path)):
        assert opened.ids() == left
        assert len(opened) == opened.count() == 7
        assert opened.count("odd = true") == 2
        assert opened.ids("n >= 6") == ["p6", "p8", "p10"]
        assert set(opened.search(opened.vector("p2"), k=50).ids) == set(left)
        refused(UnknownItem, "no item has the id 'p0'", lambda o=opened: o.get("p0"))
    before = store.info()["bytes"]["total"]
    report = store.compact()
    assert report.dropped == 5
    assert report.freed > 0
    assert store.info()["bytes"]["total"] == before - report.freed
    assert store.ids() == left
    assert store.info()["deleted_not_compacted"] == 0
    for name in left:
        assert (np.asarray(store.images([name])[0]) == PICTURES[int(name[1:])]).all()
    store.add([Item("p0", PICTURES[0])])  # a deleted id may come again
    assert store.ids() == [*left, "p0"]
    assert store.verify().ok


def test_what_is_known_of_an_item_and_of_the_store(store: Store) -> None:
    found = store.get("p4")
    assert (found["id"], found["metadata"], found["size"]) == ("p4", {"n": 4, "odd": False}, [8, 9])
    assert found["origin"] == "items"
    info = store.info()
    (space,) = info["spaces"]
    assert (info["items"], space["vectors"], space["dimension"], space["metric"]) == (12, 12, 8, "l2")
    assert (space["encoder"], space["default"], space["searched_exactly"], space["tiers"]) == ("pca", True, 12, [])
    assert info["fields"]["odd"]["values"] == {"false": 6, "true": 6}
    assert info["origins"] == [{"scope": "items", "items": 12}]
    on_disk = sum(path.stat().st_size for path in store.path.rglob("*") if path.is_file())
    assert info["bytes"]["total"] == on_disk
    assert sum(size for part, size in info["bytes"].items() if part != "total") == on_disk


def test_a_mistyped_id_is_suggested(store: Store) -> None:
    refused(UnknownItem, "did you mean 'p10' or 'p11'|did you mean 'p1'", lambda: store.get("p1_"))


def test_decoding_a_latent_gives_nearly_the_picture(store: Store) -> None:
    decoded = store.decode(store.vector("p3"))
    assert [image.size for image in decoded] == [(8, 9)]
    assert np.asarray(decoded[0]).tolist() == np.asarray(store.reconstruct("p3")).tolist()
    with_all = np.stack(PICTURES).astype(float)
    error = np.square(np.asarray(decoded[0]) - PICTURES[3].astype(float)).mean()
    assert error < np.square(with_all.mean(axis=0) - PICTURES[3]).mean()


def test_large_pictures_are_kept_as_thumbnails_and_small_ones_exactly(tmp_path: Path) -> None:
    shapes = [(64, 64), (65, 64), (300, 200), (1, 1), (64, 3)]
    ramps = [np.linspace(0, 255, h * w * 3).reshape(h, w, 3).astype(np.uint8) for h, w in shapes]
    with embedstore.create(tmp_path / "sizes.store") as store:
        store.index([Item(str(i), ramp) for i, ramp in enumerate(ramps)], encoder="pca", dimension=2, progress=False)
        images = store.images([str(i) for i in range(5)])
        assert all(isinstance(image, Image.Image) for image in images)
        sizes = [image.size for image in images if image is not None]
        assert sizes == [(64, 64), (64, 65), (85, 128), (1, 1), (3, 64)]
        for i in (0, 3, 4):
            assert (np.asarray(images[i]) == ramps[i]).all()
        assert store.get("2")["size"] == [200, 300]
        store.delete("1")
        store.compact()
        assert (np.asarray(store.images(["4"])[0]) == ramps[4]).all()
        assert store.images(["2"])[0].size == (85, 128)  # type: ignore[union-attr]


def test_recall_of_an_exact_store_is_one(tmp_path: Path) -> None:
    with small_store(tmp_path / "r.store", tail=5) as store:
        add(store, Oracle(), [str(i) for i in range(60)], vectors(60))
        report = store.recall(k=5, sample=40)
        assert (report.recall, report.k, report.queries, report.target) == (1.0, 5, 40, 0.99)
        assert report.low <= 1.0 <= report.high
        assert "recall@5 1.0000" in str(report)
        assert store.recall(k=1000).k == 59


def test_a_backup_is_a_store_of_its_own_with_the_same_answers(store: Store, tmp_path: Path) -> None:
    size = store.backup(tmp_path / "deep" / "copy")
    copied = tmp_path / "deep" / "copy"
    assert size == sum(path.stat().st_size for path in copied.rglob("*") if path.is_file())
    refused(StoreExists, "exists already", lambda: store.backup(copied))
    query = noise(9, 8, 3, seed=50)
    expected = [(hit.id, hit.distance, hit.metadata) for hit in store.search(query)]
    store.delete(where="n < 6")
    store.compact()
    with embedstore.open(copied) as copy:
        assert [(hit.id, hit.distance, hit.metadata) for hit in copy.search(query)] == expected
        assert copy.ids() == [f"p{i}" for i in range(12)]
        assert copy.verify().ok
        copy.delete("p11")
    assert store.ids() == [f"p{i}" for i in range(6, 12)]


def test_a_store_opened_for_reading_is_backed_up_too(store: Store, tmp_path: Path) -> None:
    ids, directory = store.ids(), store.path
    store.close()
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    with embedstore.open(directory, read_only=True) as reader:
        reader.backup(tmp_path / "copy.store")
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*")} == before
    with embedstore.open(tmp_path / "copy.store") as copy:
        assert copy.ids() == ids


def test_a_backup_has_the_tiers_and_answers_with_them(tmp_path: Path) -> None:
    oracle = Oracle()
    with small_store(tmp_path / "t.store", tail=3) as store:
        add(store, oracle, [str(i) for i in range(30)], vectors(30))
        store.backup(tmp_path / "copy")
    with embedstore.open(tmp_path / "copy") as copy:
        assert assert_answers(copy, oracle)[-1] != "exact"


def test_a_moved_store_answers_as_before(store: Store, tmp_path: Path) -> None:
    expected = store.search(PICTURES[0]).ids
    store.close()
    store.path.rename(tmp_path / "moved")
    with embedstore.open(tmp_path / "moved") as moved:
        assert moved.search(PICTURES[0]).ids == expected
        assert repr(moved) == f"<Store {tmp_path / 'moved'}>"


def test_metadata_of_every_json_kind_comes_back(tmp_path: Path) -> None:
    data = {"none": None, "yes": True, "text": "ä\n\"'", "big": 2**70, "tiny": 1e-300, "deep": {"a": [1, {"b": []}]}}
    with embedstore.create(tmp_path / "j.store") as store:
        store.add_vectors(["ä 'x' \"y\" %_"], vectors(1), [data])
        assert store.get("ä 'x' \"y\" %_")["metadata"] == data
        assert store.search(vectors(1)[0])[0] == Hit("ä 'x' \"y\" %_", 0.0, 0.0, data)


def test_explain_says_what_the_stages_took(store: Store) -> None:
    assert "seconds" not in store.search(noise(9, 8, 3, seed=50)).stats
    found = store.search(noise(9, 8, 3, seed=50), where="n < 6", explain=True)
    assert list(found.stats["seconds"]) == ["filter", "search", "ids"]
    assert all(seconds >= 0 for seconds in found.stats["seconds"].values())


def test_a_picture_is_asked_for_upright_however_it_is_given(store: Store, tmp_path: Path) -> None:
    turned = image_of(noise(9, 8, 3, seed=50))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as opened:
        by_image, by_path = store.search(opened), store.search(tmp_path / "turned.png")
    assert by_image.distances.tolist() == by_path.distances.tolist()
    assert by_image.distances.tolist() != store.search(turned.transpose(Image.Transpose.ROTATE_180)).distances.tolist()


def test_connections_end_with_their_threads(store: Store) -> None:
    query = noise(9, 8, 3, seed=50)
    store.search(query)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    for _ in range(30):
        thread = threading.Thread(target=lambda: [store.search(query).ids for _ in range(2)])
        thread.start()
        thread.join()
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) <= before + 2
    together = threading.Barrier(40)

    def ask() -> None:
        with store._database.read():
            together.wait(30)

    threads = [threading.Thread(target=ask) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) <= before + 10


def test_an_export_without_items_has_the_vectors_column(store: Store, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    store.export(tmp_path / "none.parquet", where="n > 100")
    assert "vector" in pq.read_schema(tmp_path / "none.parquet").names


def test_an_export_replaces_regular_files_alone_and_follows_links(store: Store, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.csv")
    refused(InvalidArgument, "no regular file", lambda: store.export(tmp_path / "fifo.csv"))
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    store.export(tmp_path / "link.csv")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").stat().st_size > 0


def test_nothing_deleted_is_on_disk_after_a_compact(tmp_path: Path) -> None:
    path = tmp_path / "gone.store"
    rows = vectors(400)
    rows[7] = [2.5e-3, 8.25e7, -3.125e5, 9.0625e2]
    with embedstore.create(path) as store:
        store.add_vectors([f"item {i}" for i in range(400)], rows, [{"secret": f"word {i}!"} for i in range(400)])
        store.delete(["item 7"])
        store.compact()
        assert store.count() == 399
    there = b"".join(file.read_bytes() for file in path.rglob("*") if file.is_file())
    assert b"word 8!" in there
    assert rows[8].tobytes() in there
    assert b"word 7!" not in there
    assert b"item 7\x00" not in there
    assert rows[7].tobytes() not in there


def test_what_the_store_tells_of_its_index_leaves_out_what_was_deleted(tmp_path: Path) -> None:
    with small_store(tmp_path / "told.store", tail=50) as store:
        store.add_vectors([f"i{i}" for i in range(400)], vectors(400))
        store.build()
        store.add_vectors([f"late{i}" for i in range(10)], vectors(10, seed=1))
        store.delete([f"i{i}" for i in range(30)])
        store.delete(["late3", "late4"])
        [space] = store.info()["spaces"]
        assert [space["vectors"], space["tiers"][0]["vectors"], space["searched_exactly"]] == [378, 370, 8]


def test_what_the_package_offers_is_listed() -> None:
    assert {*embedstore.__all__} <= {*dir(embedstore)}
