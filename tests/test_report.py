"""The report: every section on a store that has it all, and a reason where one can't be made."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import embedstore
from embedstore.cli.reporting import report as command
from embedstore.errors import InvalidArgument, NothingMatches, StoreClosed, UnknownSpace
from embedstore.explore import layout
from embedstore.show import findings
from embedstore.show import report as reports
from embedstore.show.report import report

from . import clustered, mapped
from .test_pages import check_page, content

SECTIONS = ("Map", "Clusters", "Duplicates", "Outliers", "Suspicious labels", "The encoder and the index")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mapped.copy(tmp_path_factory)


def plain(text: str) -> str:
    return re.sub(r"<[^>]*>", "", text)


def vectors(path: Path, count: int = 40) -> Path:
    with embedstore.create(path) as store:
        store.add_vectors(
            [f"v{i}" for i in range(count)], np.random.default_rng(0).normal(size=(count, 4)).astype("f4")
        )
    return path


def test_every_section_of_a_store_that_has_it_all(path: Path, tmp_path: Path) -> None:
    with embedstore.open(path, read_only=True) as store:
        done = report(store, tmp_path / "report.html")
        found = done.path.read_text(encoding="utf-8")
        assert done.made == SECTIONS
        assert done.left_out == {}
        assert done.bytes == (tmp_path / "report.html").stat().st_size
        check_page(found)
        assert content(found)["ids"][10:] == store.ids()[10:]
        words = plain(found)
        recall = store.recall(10)
        assert f"finds {recall.recall:.2%} (95 % confidence interval {recall.low:.2%} to {recall.high:.2%}" in words
        assert f"items{len(store):,}" in words
        outlier = reports.findings.outliers.find(store._latents(None), limit=1).found[0]
        assert outlier.id in words or mapped.HOSTILE in outlier.id
    assert found.count("class='pair'") == 12
    assert "mean squared error of 90 items" in words
    assert mapped.HOSTILE not in found
    assert re.search(r"<h3><bdi>label</bdi></h3><p>About [\d,]+ of 90 labels", found)


def test_with_a_key_only_its_labels_are_looked_at(path: Path, tmp_path: Path) -> None:
    with embedstore.open(path, read_only=True) as store:
        report(store, tmp_path / "report.html", key="half")
    words = (tmp_path / "report.html").read_text(encoding="utf-8").split('id="labels"')[1].split("</section>")[0]
    assert "<bdi>half</bdi>" in words
    assert "<bdi>label</bdi>" not in words


def test_keys_that_look_like_labels(path: Path) -> None:
    with embedstore.open(path, read_only=True) as store:
        space = store._latents(None)
        keys = findings.label_keys(space)
        assert keys[0] == "label", "what neighbours know best comes first"
        assert set(keys) <= {"label", "half", "number", "unique"}
        known = findings.agreement(space, "label")
        assert known is not None
        assert known.guessed < 0.3 < known.right <= 1
        assert findings.agreement(space, "no such key") is None


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("number", "a quantity has no wrong labels"),
        ("list", "holds no texts, numbers, true or false"),
        ("unique", "too many to learn them"),
        (mapped.KEY, "for all 5 items: there is nothing to tell"),
    ],
)
def test_of_a_key_that_is_no_class_no_share_of_neighbours_is_told_but_why_not(
    path: Path, tmp_path: Path, key: str, why: str
) -> None:
    with embedstore.open(path, read_only=True) as store:
        assert findings.agreement(store._latents(None), key) is None
        report(store, tmp_path / "report.html", key=key)
    words = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Neighbours and labels" not in words
    assert "neighbours share" not in words
    assert "the encoder keeps" in words, "the rest of the headline stays"
    labels = plain(words.split('id="labels"')[1].split("</section>")[0])
    assert "Not measured: " in labels
    assert why in labels


def test_a_key_with_few_fractions_is_a_class_for_neighbours_and_labels_alike(tmp_path: Path) -> None:
    with embedstore.create(tmp_path / "a.store") as store:
        latents, blob = clustered.blobs([20, 20, 20])
        said = [{"stars": float(one) + 0.5} for one in blob]
        store.add_vectors([f"v{i}" for i in range(60)], latents, said)
        known = findings.agreement(store._latents(None), "stars")
        assert known == findings.Agreement(1.0, 1 / 3)
        part = findings.labels_part(store._latents(None), "stars", False)
    assert "About 0 of 60 labels" in part.html


def test_after_deletions_the_groups_are_those_that_still_have_items(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    with embedstore.open(mapped.copy(tmp_path_factory)) as store:
        made = store.clustering().clusters
        store.delete(where="cluster != 0")
        left = len(store)
        report(store, tmp_path / "report.html")
    words = plain((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert made > 1
    assert f"Clusters: {left} items form 1 groups." in words
    assert f"1 clusters of {left} items" in words
    gone = f"{mapped.COUNT - left} of the {mapped.COUNT} items that this"
    again = "were deleted since; it may be time for another one: `embedstore"
    assert f"{gone} clustering was made of {again} cluster STORE --name default --k 4`." in words
    assert f"{gone} map was made of {again} map STORE --name default --refit`." in words


def test_a_key_that_only_renames_another_is_left_out(tmp_path: Path) -> None:
    with embedstore.create(tmp_path / "a.store") as store:
        said = [{"class": i % 3, "label": "abc"[i % 3], "other": i % 2} for i in range(30)]
        store.add_vectors([str(i) for i in range(30)], np.eye(30, dtype=np.float32), said)
        assert set(findings.label_keys(store._latents(None))) == {"label", "other"}


def test_a_clustering_and_a_map_are_made_where_there_is_none(tmp_path: Path) -> None:
    with embedstore.open(vectors(tmp_path / "a.store")) as store:
        done = report(store, tmp_path / "report.html")
        assert done.made == SECTIONS
        assert [one.name for one in store.maps()] == ["default"]
        assert [one.name for one in store.clusterings()] == ["default"]
    words = plain((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "this space has no decoder" in words
    assert "No metadata key looks like a class label" in words


def test_of_a_store_that_cannot_be_written_those_sections_say_how_to_make_them(tmp_path: Path) -> None:
    with embedstore.open(vectors(tmp_path / "a.store"), read_only=True) as store:
        done = report(store, tmp_path / "report.html")
        assert store.maps() == []
    assert set(done.left_out) == {"Map", "Clusters"}
    assert "`embedstore map STORE`" in done.left_out["Map"]
    assert "`embedstore cluster STORE`" in done.left_out["Clusters"]
    found = (tmp_path / "report.html").read_text(encoding="utf-8")
    check_page(found)
    assert "`embedstore map STORE`" in found
    assert "<script" not in found


def test_without_the_layouts_library_the_map_says_which_extra_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise embedstore.errors.MissingExtra("openTSNE", "map", "a map")

    monkeypatch.setattr(layout, "check_installed", missing)
    with embedstore.open(vectors(tmp_path / "a.store")) as store:
        done = report(store, tmp_path / "report.html")
    assert "pip install 'embedstore[map]'" in done.left_out["Map"]
    assert "Clusters" in done.made


def test_tiles_say_one_source_and_one_space(tmp_path: Path) -> None:
    with embedstore.open(vectors(tmp_path / "a.store")) as store:
        info = store.info()
    info = {**info, "origins": [{"scope": "x", "items": 1}], "fields": {"k": {"values": {"a": 1}, "more": False}}}
    words = reports._overview(info, 1)
    tiles = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", words))
    assert {name: tiles.get(name) for name in ("item", "source", "metadata key", "space")} == dict.fromkeys(
        ("item", "source", "metadata key", "space"), "1"
    )
    assert tiles["numbers an item"] == f"4 ({info['spaces'][0]['metric']})"
    assert "1 item</span>" in words
    tiles = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", reports._overview({**info, "origins": []}, 2)))
    assert (tiles["items"], tiles["sources"]) == ("2", "0")


def test_two_items(tmp_path: Path) -> None:
    with embedstore.open(vectors(tmp_path / "a.store", 2)) as store:
        done = report(store, tmp_path / "report.html")
    assert "too few" in done.left_out["Map"]
    check_page(done.path.read_text(encoding="utf-8"))


def test_an_empty_store_a_closed_one_and_bad_arguments(path: Path, tmp_path: Path) -> None:
    with embedstore.create(tmp_path / "a.store") as store, pytest.raises(UnknownSpace, match="is empty"):
        report(store, tmp_path / "report.html")
    with embedstore.open(vectors(tmp_path / "b.store", 2)) as store:
        store.delete(store.ids())
        with pytest.raises(NothingMatches):
            report(store, tmp_path / "report.html")
    with pytest.raises(StoreClosed):
        report(store, tmp_path / "report.html")
    with embedstore.open(path, read_only=True) as store:
        with pytest.raises(InvalidArgument, match="no item has the metadata key 'lable'"):
            report(store, tmp_path / "report.html", key="lable")
        with pytest.raises(InvalidArgument, match=r"must end in \.html"):
            report(store, tmp_path / "report.pdf")
    assert not list(tmp_path.glob("report*"))


def test_an_interruption_leaves_no_file(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(findings, "outliers_part", interrupted)
    with embedstore.open(path, read_only=True) as store, pytest.raises(KeyboardInterrupt):
        report(store, tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_the_command(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    found = CliRunner().invoke(command, [str(path), "-o", str(target), "--key", "label", "--json"])
    assert found.exit_code == 0, found.output
    said = json.loads(found.stdout)
    assert said == {
        "path": str(target.resolve()),
        "bytes": target.stat().st_size,
        "sections": list(SECTIONS),
        "left_out": {},
    }
    found = CliRunner().invoke(command, [str(path), "-o", str(target), "--no-progress"])
    assert re.fullmatch(r"\S+report\.html written: [\d.]+ KiB, 6 sections\n", found.stdout.replace("\n", "") + "\n")
    assert CliRunner().invoke(command, [str(path)]).exit_code == 2
