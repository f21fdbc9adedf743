"""Indexing: only what changed is encoded, what failed is named, and an interruption loses nothing acknowledged."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedstore
from embedstore.encoders.pca import PcaEncoder
from embedstore.errors import DimensionMismatch, EncoderMismatch, ModelInvalid
from embedstore.ingest import pipeline
from embedstore.metadata import items
from embedstore.readers.open import open_reader
from embedstore.store import Store
from embedstore.types import AddReport, Failure, Item

from .pictures import noise, write_png
from .stores import in_process, refused, vectors

OPTIONS: dict[str, Any] = {"encoder": "pca", "dimension": 3, "progress": False, "workers": 1}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with embedstore.create(tmp_path / "pictures.store") as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(6):
        write_png(tmp_path / "source" / ("cats" if i < 3 else "dogs") / f"{i}.png", seed=i)
    return tmp_path / "source"


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each call of the encoder was given."""
    calls: list[int] = []
    encode = PcaEncoder.encode

    def counting(self: PcaEncoder, pictures: Any, progress: bool = False) -> Any:
        calls.append(len(pictures))
        return encode(self, pictures, progress)

    monkeypatch.setattr(PcaEncoder, "encode", counting)
    return calls


def counts(report: AddReport) -> tuple[int, int, int, list[str], int, int]:
    return report.added, report.updated, report.unchanged, report.removed, report.pruned, len(report.failures)


def contents(store: Store) -> dict[str, tuple[list[float], dict[str, Any], Any]]:
    view = store._snapshots.current().view()
    with store._database.read() as connection:
        found = items.describe(connection, store.ids())
    latents = (
        {}
        if view is None
        else dict(zip(view.rows.tolist(), np.concatenate([b for _, b in view.vectors.blocks()]).tolist(), strict=True))
    )
    return {name: (latents[item["row"]], item["metadata"], item["source"]) for name, item in found.items()}


def test_a_folder_is_indexed_once_and_then_only_what_changed(store: Store, folder: Path, encoded: list[int]) -> None:
    report = store.index(folder, **OPTIONS)
    assert counts(report) == (6, 0, 0, [], 0, 0)
    assert str(report) == "6 added, 0 unchanged, 0 failed"
    assert store.count("label = 'cats'") == 3
    assert store.get("dogs/4.png")["source"] == str(folder / "dogs" / "4.png")
    assert store.get("dogs/4.png")["size"] == [8, 8]
    before = contents(store)
    encoded.clear()
    assert counts(store.index(folder, **OPTIONS)) == (0, 0, 6, [], 0, 0)
    assert encoded == []

    changed = write_png(folder / "cats" / "1.png", seed=99)
    write_png(folder / "birds" / "7.png", seed=7)
    (folder / "dogs" / "5.png").unlink()
    os.utime(folder / "cats" / "0.png")  # touched, but the same
    report = store.index(folder, **OPTIONS)
    assert counts(report) == (1, 1, 4, ["dogs/5.png"], 0, 0)
    assert sum(encoded) == 2
    after = contents(store)
    assert after.keys() == before.keys() | {"birds/7.png"}
    assert {name for name in before if after[name] != before[name]} == {"cats/1.png"}
    assert after["cats/1.png"][0] == store.encode(changed[None])[0].tolist()

    report = store.index(folder, prune=True, **OPTIONS)
    assert counts(report) == (0, 0, 6, ["dogs/5.png"], 1, 0)
    assert str(report) == "0 added, 6 unchanged, 0 failed, 1 pruned"
    assert "dogs/5.png" not in store.ids()
    assert counts(store.index(folder, prune=True, **OPTIONS)) == (0, 0, 6, [], 0, 0)
    assert store.verify().ok


def test_changed_metadata_keeps_the_latent_and_the_picture_bit_for_bit(
    store: Store, folder: Path, encoded: list[int]
) -> None:
    store.index(folder, **OPTIONS)
    before, pictures = contents(store), {name: np.asarray(store.images([name])[0]) for name in store.ids()}
    encoded.clear()
    (folder / "metadata.csv").write_text("file_name,price\ncats/0.png,3\ndogs/4.png,5\n")
    assert counts(store.index(folder, **OPTIONS)) == (0, 2, 4, [], 0, 0)
    assert encoded == []
    assert store.get("cats/0.png")["metadata"] == {"label": "cats", "price": 3}
    assert store.get("cats/0.png")["size"] == [8, 8]
    assert {name: value[0] for name, value in contents(store).items()} == {n: v[0] for n, v in before.items()}
    store.compact()
    for name, picture in pictures.items():
        assert (np.asarray(store.images([name])[0]) == picture).all()
    assert store.verify().ok


def test_of_an_id_that_comes_twice_the_last_is_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    source = [Item(f"i{i % 4}", noise(seed=i), {"n": i}) for i in range(8)]
    report = store.index(source, **OPTIONS)
    assert (len(store), report.added) == (4, 4)
    assert any("4 ids came more than once" in note for note in report.notes)
    assert {name: store.get(name)["metadata"]["n"] for name in store.ids()} == {"i0": 4, "i1": 5, "i2": 6, "i3": 7}
    # Also where they are far apart.
    monkeypatch.setattr(pipeline, "CHUNK", 3)
    other = [Item(f"j{i % 4}", noise(seed=i), {"n": i}) for i in range(8)]
    report = store.index(other, **OPTIONS)
    assert {name: store.get(name)["metadata"]["n"] for name in store.ids("id like 'j%'")} == {
        "j0": 4, "j1": 5, "j2": 6, "j3": 7
    }  # fmt: skip
    assert report.notes == ["4 ids came more than once: the last of each is kept"]
    assert store.verify().ok


def test_arrays_of_pictures_and_of_vectors(tmp_path: Path) -> None:
    pictures = np.stack([noise(6, 5, 1, seed=i) for i in range(9)])[:, :, :, 0]
    with embedstore.create(tmp_path / "a.store") as store:
        assert counts(store.index(pictures, labels=list("abcabcabc"), **OPTIONS)) == (9, 0, 0, [], 0, 0)
        assert store.count("label = 'b'") == 3
        assert [np.asarray(image).tolist() for image in store.images(store.ids())] == pictures.tolist()
        pictures[4] += 1
        assert counts(store.index(pictures[:7], labels=list("abcabca"), **OPTIONS))[:3] == (0, 1, 6)
    with embedstore.create(tmp_path / "v.store") as store:
        rows = vectors(9)
        report = store.index(rows, metric="cosine", progress=False)
        assert counts(report) == (9, 0, 0, [], 0, 0)
        assert (report.encoder, store.info()["spaces"][0]["metric"]) == ("", "cosine")
        rows[3] += 1
        assert counts(store.index(rows, progress=False)) == (0, 1, 8, [], 0, 0)
        assert [store.vector(name).vector.tolist() for name in sorted(store.ids())] == rows.tolist()


def test_bad_entries_are_listed_with_reasons_and_the_rest_is_kept(tmp_path: Path) -> None:
    rows = vectors(6)
    rows[1, 2] = np.nan
    rows[4, 0] = np.inf
    with embedstore.create(tmp_path / "v.store") as store:
        report = store.index([Item(f"v{i}", vector=row) for i, row in enumerate(rows)], progress=False)
        assert counts(report) == (4, 0, 0, [], 0, 2)
        assert {f.id for f in report.failures} == {"v1", "v4"}
        assert all("NaN or infinity" in failure.reason for failure in report.failures)
        mixed = [
            Item("good", vector=vectors(1)[0], metadata={"a": np.float32(0.5), "b": [1, {"c": None}]}),
            Item("object", vector=vectors(1)[0], metadata={"a": object()}),
            Item("nan", vector=vectors(1)[0], metadata={"a": float("nan")}),
            Item("", vector=vectors(1)[0]),
            Item("short", vector=vectors(1, dimension=2)[0]),
            Item("picture", noise()),
        ]
        report = store.index(mixed, progress=False)
        assert counts(report)[0] == 1, report
        assert {f.id for f in report.failures} == {"object", "nan", "", "short", "picture"}
        assert store.get("good")["metadata"] == {"a": 0.5, "b": [1, {"c": None}]}
        assert store.verify().ok


@pytest.mark.parametrize("odd", [0, 1, 4, 9])
@pytest.mark.parametrize("fresh", [True, False])
def test_a_vector_of_another_dimension_fails_alone(
    store: Store, odd: int, fresh: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "CHUNK", 4)
    rows = vectors(10)
    source = [Item(f"v{i}", vector=np.ones(7) if i == odd else row) for i, row in enumerate(rows)]
    if not fresh:
        store.add_vectors(["there"], vectors(1, seed=5))
    report = store.index(source, progress=False)
    assert counts(report) == (9, 0, 0, [], 0, 1)
    assert report.failures == [Failure(f"v{odd}", "has a vector of 7 values where the space has 4 dimensions")]
    assert [store.vector(f"v{i}").vector.tolist() for i in range(10) if i != odd] == np.delete(rows, odd, 0).tolist()


@pytest.mark.parametrize("count", [1, 9])
def test_a_source_of_another_dimension_is_an_error(store: Store, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "CHUNK", 4)
    store.add_vectors(["there"], vectors(1))
    for source in (vectors(count, dimension=7), list(vectors(count, dimension=7))):
        refused(DimensionMismatch, "has 4 dimensions", lambda source=source: store.index(source, progress=False))
    assert len(store) == 1


def test_a_reader_that_was_opened_before_the_store_reduces_large_pictures_too(store: Store, tmp_path: Path) -> None:
    write_png(tmp_path / "big" / "a.png", height=300, width=600)
    write_png(tmp_path / "big" / "b.png", seed=1, height=300, width=600)
    files = [Item(name, tmp_path / "big" / name) for name in ("a.png", "b.png")]
    (tmp_path / "t.csv").write_text("path\nbig/a.png\nbig/b.png\n")
    sources = (tmp_path / "big", tmp_path / "t.csv", files, [tmp_path / "big", tmp_path / "t.csv"])
    for number, source in enumerate(sources):
        reader = open_reader(source, workers=1, id_prefix=f"{number}/")
        sizes = []
        chunks = reader.chunks

        def watched(size: int, chunks: Any = chunks, sizes: list[Any] = sizes) -> Iterator[Any]:
            for chunk in chunks(size):
                sizes.extend(picture.shape[:2] for picture in chunk.load(range(len(chunk.ids))).pictures)
                yield chunk

        reader.chunks = watched  # type: ignore[method-assign]
        report = store.index(reader, encoder="pca", dimension=2, progress=False)
        assert report.added == (4 if number == 3 else 2), report
        assert set(sizes) == {(64, 128)}
    assert store.get("0/a.png")["size"] == [600, 300]
    kept = open_reader(tmp_path / "big", max_side=500, workers=1)
    assert store.index(kept, progress=False).added == 2
    assert next(kept.chunks(1)).load([0]).pictures[0].shape == (250, 500, 3)
    kept.close()


# -- interruptions ------------------------------------------------------------------------------------------------


class Source:
    """Items that can be read again and again, but for an interruption at one place."""

    def __init__(self, count: int, stop_at: int | None = None, in_read: int = 0) -> None:
        self.count, self.stop_at, self.in_read, self.reads = count, stop_at, in_read, 0

    def __iter__(self) -> Iterator[Item]:
        self.reads += 1
        for i in range(self.count):
            if i == self.stop_at and self.reads == self.in_read:
                raise KeyboardInterrupt
            yield Item(f"i{i}", noise(seed=i), {"n": i})


@pytest.mark.parametrize("stop_at", [0, 5, 11, 29])
def test_after_an_interruption_the_same_call_goes_on(
    tmp_path: Path, stop_at: int, monkeypatch: pytest.MonkeyPatch, encoded: list[int]
) -> None:
    monkeypatch.setattr(pipeline, "CHUNK", 4)
    with embedstore.create(tmp_path / "whole.store") as whole:
        source = Source(30)
        whole.index(source, **OPTIONS)  # read several times: to look at the first, to fit, and to index
        expected = contents(whole)
    with embedstore.create(tmp_path / "stopped.store") as store:
        with pytest.raises(KeyboardInterrupt):
            store.index(Source(30, stop_at, source.reads), **OPTIONS)
        kept = len(store)
        assert kept % 4 == 0
        assert kept >= stop_at - 8  # the chunk being read and the one read ahead are lost at most
        assert store.verify().ok
        encoded.clear()
        report = store.index(Source(30), **OPTIONS)
        assert counts(report) == (30 - kept, 0, kept, [], 0, 0)
        assert sum(encoded) == 30 - kept
        assert contents(store) == expected
        assert len(store.info()["spaces"]) == 1


KILLED = """
    import sys, numpy as np, embedstore
    from embedstore.ingest import pipeline
    pipeline.CHUNK = 8
    pictures = np.load(sys.argv[2])
    print("start", flush=True)
    with embedstore.open(sys.argv[1]) as store:
        store.index(pictures, encoder="pca", dimension=3, progress=False)
    print("done", flush=True)
"""


def test_after_a_kill_the_same_call_goes_on(tmp_path: Path) -> None:
    pictures = np.stack([noise(4, 4, 1, seed=i) for i in range(600)])
    np.save(tmp_path / "pictures.npy", pictures)
    with embedstore.create(tmp_path / "whole.store") as whole:
        whole.index(pictures, **OPTIONS)
        expected = contents(whole)
    path = tmp_path / "killed.store"
    embedstore.create(path).close()
    found = []
    for _ in range(2):
        process = in_process(KILLED, path, tmp_path / "pictures.npy", wait=False)
        before = found[-1] if found else 0
        deadline = time.monotonic() + 60
        with embedstore.open(path, read_only=True) as reader:
            while len(reader) < before + 16 and time.monotonic() < deadline:
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            assert reader.verify().ok
            found.append(len(reader))
            assert contents(reader).items() <= expected.items()
        process.stdin.close()
        process.stdout.close()
    assert 16 <= found[0] < found[1] < 600
    with embedstore.open(path) as store:
        report = store.index(pictures, **OPTIONS)
        assert counts(report) == (600 - found[1], 0, found[1], [], 0, 0)
        assert contents(store) == expected


# -- encoders -----------------------------------------------------------------------------------------------------


def test_another_encoder_is_refused_and_both_are_named(store: Store, folder: Path) -> None:
    report = store.index(folder, **OPTIONS)
    space = store.info()["spaces"][0]
    assert (space["encoder"], space["fingerprint"], space["dimension"]) == ("pca", report.encoder, 3)
    assert len(report.encoder) == 64
    message = refused(EncoderMismatch, "", lambda: store.index(folder, **{**OPTIONS, "encoder": "autoencoder"}))
    assert f"pca {report.encoder[:12]}" in message
    assert "autoencoder" in message
    refused(EncoderMismatch, "3 dimensions, not 5", lambda: store.index(folder, **{**OPTIONS, "dimension": 5}))
    refused(EncoderMismatch, "brings vectors", lambda: store.index(vectors(3), progress=False))
    # The one that is there needs no naming.
    assert counts(store.index(folder, progress=False)) == (0, 0, 6, [], 0, 0)
    assert counts(store.add([Item("more", noise(seed=9))])) == (1, 0, 0, [], 0, 0)


@pytest.mark.parametrize("damage", ["removed", "altered", "config", "swapped"])
def test_a_model_that_is_not_the_recorded_one_is_refused(store: Store, folder: Path, damage: str) -> None:
    fingerprint = store.index(folder, **OPTIONS).encoder
    store.close()
    weights = store.path / "models" / f"{fingerprint}.safetensors"
    config = weights.with_suffix(".json")
    if damage == "removed":
        weights.unlink()
    elif damage == "altered":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    elif damage == "config":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"height": 9}))
    else:
        other, _ = PcaEncoder.fit(np.stack([noise(seed=i) for i in range(20, 26)]), dimension=3, progress=False)
        name = other.save(store.path / "models")
        weights.write_bytes(weights.with_name(f"{name}.safetensors").read_bytes())
    write_png(folder / "new.png", seed=33)
    with embedstore.open(store.path) as opened:
        assert len(opened.search(opened.item("cats/0.png"), k=2)) == 2  # needs no model
        for call in (
            lambda: opened.search(noise()),
            lambda: opened.encode(noise()[None]),
            lambda: opened.reconstruct("cats/0.png"),
            lambda: opened.index(folder, progress=False),
        ):
            refused(ModelInvalid, fingerprint[:12], call)
        assert len(opened) == 6
        assert any(fingerprint[:12] in problem for problem in opened.verify().problems)


def test_a_latent_is_the_same_however_it_was_made(store: Store, folder: Path) -> None:
    store.index(folder, **OPTIONS)
    pictures = [noise(seed=i) for i in range(6)]
    names = [f"cats/{i}.png" if i < 3 else f"dogs/{i}.png" for i in range(6)]
    latents = store.encode(np.stack(pictures))
    for name, picture, latent in zip(names, pictures, latents, strict=True):
        assert store.vector(name).vector.tolist() == latent.tolist() == store.encode([picture])[0].tolist()
        assert store.encode(picture).tolist() == [latent.tolist()]  # one colour picture is no batch of rows
    with embedstore.open(store.path) as again:
        assert again.encode(np.stack(pictures)).tolist() == latents.tolist()


def test_vectors_join_an_encoders_space_only_under_its_fingerprint(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8)
    with embedstore.create(tmp_path / "a.store") as store:
        fingerprint = store.index(pictures, encoder="pca", dimension=4, progress=False).encoder
        latents = store.encode(pictures[:1])
        with pytest.raises(EncoderMismatch, match=fingerprint):
            store.add_vectors(["mine"], latents)
        store.add_vectors(["mine"], latents, encoder=fingerprint)
        assert store.search(store.item("mine"), k=1).distances[0] == 0
