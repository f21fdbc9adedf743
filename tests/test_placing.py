"""New items in the clusterings that are there: placed by their networks in the commit that adds them, kept and lost."""

from __future__ import annotations

import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import embedstore
from embedstore.errors import ModelInvalid
from embedstore.explore import clusterings, stored
from embedstore.metadata import runs
from embedstore.models import labelling, network
from embedstore.store import Store
from embedstore.truth.placing import LEAST_STRENGTH, PlacingWarning, assign, prepared
from embedstore.types import Item, Metric

from .clustered import COUNT, NEW, PICTURES, between, blobs, copy, digits, made, placed, said, told
from .stores import refused


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy(tmp_path_factory)


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with embedstore.open(path) as store:
        yield store


def seq(store: Store) -> int:
    with store._database.read() as connection:
        return int(connection.execute("SELECT seq FROM state").fetchone()[0])


def fingerprint(store: Store) -> str:
    return str(store.info()["spaces"][0]["fingerprint"])


def assert_placed(store: Store, ids: list[str], name: str = "found") -> None:
    """The labels of these items are what the clustering's networks say of their latents."""
    latents = np.stack([store.vector(id).vector for id in ids])
    leaves, strengths = placed(store, name, latents)
    labels = said(store, name)
    assert [labels[id][0] for id in ids] == leaves.tolist()
    assert [labels[id][1] for id in ids] == pytest.approx(strengths.tolist(), abs=1e-5)


def set_label(store: Store, id: str, leaf: int, strength: float) -> None:
    """A label that no network would give, so that one that is kept is told from one that is given again."""
    with closing(sqlite3.connect(store.path / "store.db")) as database, database:
        database.execute(
            "UPDATE labels SET leaf = ?, strength = ? WHERE row = (SELECT row FROM items WHERE id = ?)",
            (leaf, strength, id),
        )


def test_items_that_are_added_are_placed_by_the_networks_in_the_same_commit(store: Store, path: Path) -> None:
    before, start = said(store, "found"), seq(store)
    batches = [digits(COUNT, COUNT + NEW), digits(COUNT + NEW, COUNT + NEW + 1)]
    with embedstore.open(path, read_only=True) as other:
        for items in batches:
            store.add(items)
            assert other.count("cluster is null") == 0
            assert len(other) == sum(other.count(f"cluster = {n}") for n in range(other.clustering().clusters))
    new = [item.id for items in batches for item in items]
    assert_placed(store, new)
    assert seq(store) == start + len(batches)
    assert {id: one for id, one in said(store, "found").items() if id in before} == before
    assert (store.clustering().placed, store.clustering().items) == (NEW + 1, COUNT)
    # The networks have learnt something: a digit's nearest neighbours are mostly of its own cluster.
    labels = {id: number for id, (number, _) in told(store).items()}
    same = [labels[id] == labels[hit.id] for id in new for hit in store.search(store.item(id), k=3)]
    assert np.mean(same) > 0.6


def test_an_item_between_clusters_is_in_none(store: Store) -> None:
    unsure = between(store, "found", 4)
    store.add_vectors([f"x{i}" for i in range(4)], unsure, encoder=fingerprint(store))
    assert_placed(store, [f"x{i}" for i in range(4)])
    assert store.ids("cluster is null") == ["x0", "x1", "x2", "x3"]
    assert store.clustering().noise == 4
    assert all(strength < LEAST_STRENGTH for id, (_, strength) in told(store).items() if id.startswith("x"))


def test_new_metadata_keep_the_label_and_its_strength(store: Store) -> None:
    set_label(store, "d007", 1, 0.125)
    start = seq(store)
    store.update("d007", metadata={"checked": True})
    assert said(store, "found")["d007"] == (1, 0.125)
    assert seq(store) == start + 1
    # Also where a source says something new of pictures that are as they were.
    again = [Item(item.id, item.picture, {**item.metadata, "turn": 2}) for item in digits(0, COUNT)]
    again[9] = Item("d009", PICTURES[1000][..., None], {"turn": 2})
    before = said(store, "found")
    report = store.index(again, progress=False)
    assert report.updated == COUNT
    after = said(store, "found")
    assert {id: one for id, one in after.items() if id != "d009"} == {
        id: one for id, one in before.items() if id != "d009"
    }
    assert_placed(store, ["d009"])
    assert after["d009"] != before["d009"]
    assert store.count("turn = 2 and cluster is not null") == COUNT - store.count("cluster is null")


def test_a_new_latent_is_placed_anew(store: Store) -> None:
    target = store.vector("d001").vector
    for id in ("d002", "d003", "d004"):
        set_label(store, id, 0, 0.001)
    store.update("d002", vector=target, metadata={"moved": True})
    store.update("d003", picture=PICTURES[1])
    store.add_vectors(["d004"], target[None], encoder=fingerprint(store))
    assert_placed(store, ["d002", "d003", "d004"])
    labels = told(store)
    assert {labels[id][0] for id in ("d002", "d003", "d004")} == {labels["d001"][0]}
    assert len(said(store, "found")) == len(store) == COUNT


def test_a_deleted_item_s_label_is_forgotten_and_made_anew_if_it_comes_back(store: Store) -> None:
    set_label(store, "d005", 0, 0.001)
    store.delete(["d005", "d006"])
    assert len(said(store, "found")) == COUNT - 2
    with store._database.read() as connection:
        assert connection.execute("SELECT count(*) FROM labels").fetchone() == (COUNT - 2,)
    store.add(digits(5, 6))
    assert_placed(store, ["d005"])
    assert store.delete(where="cluster = 0") > 0
    assert store.count("cluster = 0") == 0
    assert store.verify().ok


def test_compacting_keeps_labels_and_the_networks_of_the_runs_that_are_left(store: Store, path: Path) -> None:
    network.save(
        path / "models",
        "clustering",
        {"place": network.Network((network.Layer(np.eye(2, dtype=np.float32), np.zeros(2, np.float32)),))},
    )
    store.delete([f"d{i:03d}" for i in range(0, COUNT, 2)])
    before = said(store, "found")
    kept = {f"{made(store, 'found').model}{suffix}" for suffix in (".json", ".safetensors")}
    kept |= {f"{fingerprint(store)}{suffix}" for suffix in (".json", ".safetensors")}
    store.compact()
    assert said(store, "found") == before
    assert len(before) == COUNT // 2
    assert {file.name for file in (path / "models").iterdir()} == kept  # an orphan went
    store.add(digits(COUNT, COUNT + 3))
    assert_placed(store, [f"d{i}" for i in range(COUNT, COUNT + 3)])
    store.remove_clustering("found")
    store.compact()
    assert {file.name.split(".")[0] for file in (path / "models").iterdir()} == {fingerprint(store)}
    assert store.verify().ok


def test_a_backup_places_items_as_its_original_does(store: Store, tmp_path: Path) -> None:
    store.name_cluster(0, "zeros")
    store.backup(tmp_path / "backup.store")
    with embedstore.open(tmp_path / "backup.store") as backup:
        assert said(backup, "found") == said(store, "found")
        assert backup.clusterings() == store.clusterings()
        for one in (store, backup):
            one.add(digits(COUNT, COUNT + 8))
        assert said(backup, "found") == said(store, "found")
        assert backup.verify().ok


def damage(store: Store, how: str) -> None:
    file = store.path / "models" / f"{made(store, 'found').model}.safetensors"
    if how == "missing":
        file.unlink()
    elif how == "torn":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        content = bytearray(file.read_bytes())
        content[-5] ^= 0xFF
        file.write_bytes(bytes(content))


def add_copy(store: Store, name: str) -> None:
    """Another clustering that says what 'found' says, by networks of its own that are a little different."""
    found = made(store, "found")
    place = network.load(store.path / "models", "clustering", found.model)["place"]
    last = network.Layer(place.layers[-1].weight, place.layers[-1].bias + np.float32(0.001))
    other = network.Network((*place.layers[:-1], last))
    model = network.save(store.path / "models", "clustering", {"place": other})
    with store._writer.locked("testing"), store._database.write() as connection:
        number = runs.add(connection, "clusterings", replace(found, name=name, model=model, is_default=False))
        rows, values = runs.said(connection, "clusterings", found.id)
        runs.say(connection, "clusterings", number, rows, (values[:, 0].astype(int), values[:, 1]))


@pytest.mark.parametrize("how", ["missing", "torn", "altered"])
def test_networks_that_cant_be_read_never_keep_an_item_out(
    path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelling, "FEWEST_STEPS", 30)
    with embedstore.open(path) as store:
        add_copy(store, "healthy")
        damage(store, how)
    with embedstore.open(path) as store:
        refused(ModelInvalid, ".", lambda: network.load(path / "models", "clustering", made(store, "found").model))
        report = store.verify()
        assert report.problems == []
        assert len([text for text in report.derived if "clustering 'found'" in text]) == len(report.derived) == 1
        with pytest.warns(PlacingWarning, match="clustering 'found' takes no new items: ") as caught:
            store.add(digits(COUNT, COUNT + 3))
        assert len(caught) == 1
        assert "\n" not in str(caught[0].message)
        new = [f"d{i}" for i in range(COUNT, COUNT + 3)]
        assert store.ids()[-3:] == new
        assert_placed(store, new, "healthy")
        assert store.ids("cluster.found is null")[-3:] == new
        assert len(said(store, "found")) == COUNT
        # What needs no network goes on without a warning.
        set_label(store, "d001", 2, 0.25)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            store.update("d001", metadata={"x": 1})
            store.delete("d002")
        assert said(store, "found")["d001"] == (2, 0.25)
        store.cluster(name="found", seed=2)
        assert len(said(store, "found")) == len(store)
        assert store.verify().ok


def test_networks_of_another_length_are_refused_with_a_warning(store: Store) -> None:
    layer = network.Layer(np.zeros((3, 5), np.float32), np.zeros(5, np.float32))
    model = network.save(store.path / "models", "clustering", {"place": network.Network((layer,))})
    with closing(sqlite3.connect(store.path / "store.db")) as database, database:
        database.execute("UPDATE clusterings SET model = ?", (model,))
    with pytest.warns(PlacingWarning, match="'found' takes no new items: its networks .* dimensions"):
        store.add(digits(COUNT, COUNT + 1))
    layer = network.Layer(np.zeros((8, 5), np.float32), np.zeros(5, np.float32))
    model = network.save(store.path / "models", "clustering", {"place": network.Network((layer,))})
    with closing(sqlite3.connect(store.path / "store.db")) as database, database:
        database.execute("UPDATE clusterings SET model = ?", (model,))
    with pytest.warns(PlacingWarning, match="has other clusters than its network: make it again"):
        store.add(digits(COUNT + 1, COUNT + 2))
    assert len(store) == COUNT + 2


def test_what_changes_while_clusters_are_made_is_caught_up_with(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelling, "FEWEST_STEPS", 60)
    space = store._latents(None)  # as it is when making begins
    with embedstore.open(path) as other:
        other.add(digits(COUNT, COUNT + 6))
        other.delete(["d000", "d001"])
        other.update("d002", metadata={"x": 1})
    clusterings.make(space, store._writer, "new", None, assign_noise=False, seed=0, progress=False)
    missing = [id for id in store.ids() if id not in said(store, "new")]
    assert missing == [f"d{i}" for i in range(COUNT, COUNT + 6)] + ["d002"]
    stored.catch_up(store._latents(None), store._writer, "clusterings", "new")
    assert list(said(store, "new")) == store.ids()
    assert_placed(store, missing, "new")
    assert store.verify().ok


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_precomputed_vectors_are_placed_in_every_metric(
    tmp_path: Path, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelling, "FEWEST_STEPS", 60)
    latents, label = blobs([30, 30, 30, 30, 30])
    fresh, expected = blobs([6, 6, 6, 6, 6], seed=1)
    with embedstore.create(tmp_path / "vectors.store") as store:
        store.add_vectors([f"i{i}" for i in range(150)], latents, [{"blob": int(b)} for b in label], metric=metric)
        assert store.cluster().clusters == 5
        if metric == "cosine":
            fresh *= np.linspace(0.1, 50, 30, dtype=np.float32)[:, None]  # a length means nothing
        store.add_vectors([f"new {i}" for i in range(30)], fresh, [{"blob": int(b)} for b in expected])
        for number in range(5):
            found = {store.get(id)["metadata"]["blob"] for id in store.ids(f"cluster = {number}")}
            assert len(found) == 1
            assert store.count(f"cluster = {number}") == 36


def test_latents_are_prepared_for_networks_as_the_metric_has_them() -> None:
    latents = np.array([[3, 4], [0, 0], [1e-20, 0]], dtype=np.float64)
    np.testing.assert_allclose(prepared(latents, Metric.L2), latents, atol=1e-30)
    np.testing.assert_allclose(prepared(latents, Metric.IP), latents, atol=1e-30)
    np.testing.assert_allclose(prepared(latents, Metric.COSINE), [[0.6, 0.8], [0, 0], [1, 0]], rtol=1e-6)
    assert prepared(latents, Metric.L2).dtype == prepared(latents, Metric.COSINE).dtype == np.float32


def test_a_leaf_is_the_likeliest_way_through_the_levels(store: Store) -> None:
    run = made(store, "found")
    levels = [runs.clusters(run, number).numbers for number in range(len(run.made["levels"]))]
    odds = np.random.default_rng(0).normal(size=(40, sum(max(one) + 1 for one in levels)), scale=4).astype(np.float32)
    leaves, strengths = assign(run, odds)
    for row, own in enumerate(odds.astype(np.float64)):
        score, start = np.zeros(len(levels[0])), 0
        for level, numbers in enumerate(levels):
            part = own[start : start + max(numbers) + 1]
            share = np.exp(part) / np.exp(part).sum()
            start += len(part)
            score += [np.log(share[number]) for number in numbers]
            if level == run.made["main"]:
                main = share
        assert leaves[row] == np.argmax(score)
        assert strengths[row] == pytest.approx(main[levels[run.made["main"]][np.argmax(score)]], rel=1e-4)
