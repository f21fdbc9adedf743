"""Pages of a map and of clusters: one file that fetches nothing, obeys no text of others, and says what is so."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import embedstore
from embedstore.errors import InvalidArgument, NothingMatches, UnknownRun
from embedstore.explore.portraits import telling
from embedstore.show import clusterpage, markup, page
from embedstore.store import Store

from . import mapped


class Elements(HTMLParser):
    """All tags of a page with their attributes, and the text of each script and style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[tuple[str, dict[str, str | None], str]] = []
        self._open: tuple[str, dict[str, str | None]] | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = (tag, dict(attrs)) if tag in ("script", "style") else None

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self.inside.append((*self._open, data))

    def handle_endtag(self, tag: str) -> None:
        self._open = None


def check_page(text: str) -> Elements:
    """What must hold of every page."""
    found = Elements(text)
    for tag, attributes in found.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form"), tag
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name not in ("style", "srcset", "srcdoc", "action"), (tag, name)
            if name in ("src", "href"):
                assert re.match(r"data:image/(png|webp);base64,|#", value or ""), value
    policy = next(one["content"] for tag, one in found.tags if "http-equiv" in one) or ""
    assert policy.startswith("default-src 'none'; img-src data:")
    run = [(tag, text) for tag, attributes, text in found.inside if attributes.get("type") != "application/json"]
    for tag, inside in run:
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy, tag
        assert "url(" not in inside if tag == "style" else "http" not in inside
    assert len(run) <= 2, "one script, one style"
    assert "alert(1)" not in "".join(inside for _, inside in run)
    assert not re.search(r"[\x00-\x08\u202e\u2028]", text)
    return found


def content(text: str) -> dict[str, Any]:
    [inside] = [inside for _, attributes, inside in Elements(text).inside if attributes.get("id") == "map-data"]
    found: dict[str, Any] = json.loads(inside)
    return found


def numbers(packed: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed["data"]), dtype=f"<u{packed['bytes']}").astype(np.int64)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with embedstore.open(mapped.copy(tmp_path_factory)) as store:
        yield store


@pytest.fixture(scope="module")
def text(store: Store, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "map.html"
    done = page.map_page(store._latents(None), path)
    assert (done.items, done.pictures, done.bytes) == (mapped.COUNT, mapped.COUNT, path.stat().st_size)
    return path.read_text(encoding="utf-8")


def test_a_map_is_one_file_that_fetches_nothing_and_runs_only_its_own_script(text: str) -> None:
    check_page(text)


def test_a_plot_shows_the_pages_ground_until_its_first_frame(text: str) -> None:
    assert 'canvas.getContext("2d")' in text
    assert "alpha: false" not in text, "such a canvas is black until something is painted"
    assert re.search(r"\.stage \{[^}]*background: var\(--plot\)", text)


def test_the_points_are_the_places_of_the_store(store: Store, text: str) -> None:
    found = content(text)
    places = store.places()
    xy = numbers(found["xy"]).reshape(-1, 2) * found["step"] + found["origin"]
    assert np.abs(xy - places).max() <= found["step"] * 0.51 + 1e-6
    assert found["ids"][10:] == store.ids()[10:]
    assert found["extent"] == numbers(found["xy"]).reshape(-1, 2).max(axis=0).tolist()
    assert max(found["extent"]) == 65_535


def test_hostile_ids_and_metadata_are_text(text: str) -> None:
    found = content(text)
    assert found["ids"][0] == f"{mapped.HOSTILE}0"
    fields = {field["key"]: field for field in found["fields"]}
    assert fields[mapped.KEY]["values"] == [mapped.HOSTILE]
    assert fields["text"]["values"] == ["\ufffd\ufffd<b> </b>"]
    assert mapped.HOSTILE not in text


def test_metadata_of_each_item(store: Store, text: str) -> None:
    for field in content(text)["fields"]:
        codes = numbers(field["codes"])
        for row, name in enumerate(store.ids()[5:12], start=5):
            said = store.get(name)["metadata"].get(field["key"])
            shown = None if codes[row] == 0 else field["values"][codes[row] - 1]
            assert shown == (said if said is None or isinstance(said, str) else json.dumps(said))


def test_colourings_are_those_of_the_clusters_first_and_of_each_key(text: str) -> None:
    found = {one["title"]: one for one in content(text)["colourings"]}
    assert next(iter(found)) == "cluster"
    assert {"label", "number", "half"} <= set(found)
    assert "list" not in found
    assert found["number"]["scale"] == [0.0, (mapped.COUNT - 1) / 7]
    assert len(found["number"]["colours"]) == 257
    assert "<b>noughts</b>" in found["cluster"]["values"]
    for one in found.values():
        codes = numbers(one["codes"])
        assert len(codes) == mapped.COUNT
        assert codes.max() < len(one["colours"])
        assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in one["colours"])


def test_a_metadata_key_called_cluster_is_offered_once_beside_the_clusters(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    with embedstore.open(mapped.copy(tmp_path_factory)) as own:
        own.update("d010", metadata={"cluster": "mine", "cluster.x": "mine"})
        own.update("d011", metadata={"cluster": "yours", "cluster.x": "yours"})
        for colour in (None, "cluster", '"cluster"', '"cluster.x"', "label", '"label"', ""):
            page.map_page(own._latents(None), tmp_path / "map.html", colour=colour)
            found = content((tmp_path / "map.html").read_text(encoding="utf-8"))["colourings"]
            titles = [one["title"] for one in found]
            first = {None: "cluster", "": "none", '"label"': "label"}.get(colour, colour)
            assert titles[0] == first
            assert len(titles) == len(set(titles)), titles
            assert {"cluster", '"cluster"', '"cluster.x"'} <= set(titles)
            assert set(found[titles.index('"cluster"')]["values"]) == {"mine", "yours", "none"}
            assert "<b>noughts</b>" in found[titles.index("cluster")]["values"]


def test_no_colour_is_asked_for_alike_on_a_page_and_on_a_picture(store: Store, tmp_path: Path) -> None:
    store.write_map(tmp_path / "map.html", colour="")
    first = content((tmp_path / "map.html").read_text(encoding="utf-8"))["colourings"][0]
    assert (first["title"], first["values"]) == ("none", [])
    assert store.draw_map(side=200, colour="") != store.draw_map(side=200)


def test_names_stand_upon_an_item_of_theirs(text: str) -> None:
    found = content(text)
    xy = numbers(found["xy"]).reshape(-1, 2)
    clusters = found["colourings"][0]
    codes = numbers(clusters["codes"])
    assert clusters["labels"]
    for name, x, y, code in clusters["labels"]:
        assert clusters["values"][code] == name
        assert [x, y] in xy[codes == code].tolist()


def test_thumbnails_are_the_stored_pictures(store: Store, text: str) -> None:
    thumbs = content(text)["thumbs"]
    rows, sizes = numbers(thumbs["rows"]), numbers(thumbs["sizes"]).reshape(-1, 2)
    assert rows.tolist() == list(range(mapped.COUNT))
    assert (sizes == 8).all()
    [sheet] = thumbs["sheets"]
    image = Image.open(io.BytesIO(base64.b64decode(sheet.split(",", 1)[1])))
    assert image.size == (thumbs["columns"] * thumbs["cell"], -(-mapped.COUNT // thumbs["columns"]) * thumbs["cell"])
    for place in (0, 41, 89):
        x, y = place % thumbs["columns"] * thumbs["cell"], place // thumbs["columns"] * thumbs["cell"]
        shown = np.asarray(image.convert("L").crop((x, y, x + 8, y + 8)), dtype=float)
        original = store.images([store.ids()[place]])[0]
        assert np.abs(shown - np.asarray(original, dtype=float)).mean() < 20


def test_only_so_many_thumbnails_as_asked_for_and_the_page_says_so(store: Store, tmp_path: Path) -> None:
    done = page.map_page(store._latents(None), tmp_path / "a.html", limit=7, colour="label")
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert (done.items, done.pictures) == (mapped.COUNT, 7)
    found = content(text)
    assert len(numbers(found["thumbs"]["rows"])) == 7
    assert len(found["ids"]) == mapped.COUNT
    assert found["colourings"][0]["title"] == "label"
    assert "All 90 items are drawn; 7 of them, chosen by chance, show a picture." in text
    done = page.map_page(store._latents(None), tmp_path / "b.html", limit=0)
    assert done.pictures == 0
    assert content((tmp_path / "b.html").read_text(encoding="utf-8"))["thumbs"] is None


def test_the_same_page_twice_is_the_same(store: Store, text: str, tmp_path: Path) -> None:
    page.map_page(store._latents(None), tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"limit": -1}, "number of thumbnails"),
        ({"limit": True}, "number of thumbnails"),
        ({"colour": "lable"}, "did you mean 'label'"),
        ({"colour": "list"}, "'list' holds lists or objects, no texts or numbers"),
    ],
)
def test_bad_arguments(store: Store, tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        page.map_page(store._latents(None), tmp_path / "a.html", **options)
    assert not list(tmp_path.iterdir())


def test_unknown_maps_and_clusterings(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UnknownRun, match="no map is named 'other'"):
        page.map_page(store._latents(None), tmp_path / "a.html", name="other")
    with pytest.raises(UnknownRun, match="no clustering is named 'other'"):
        clusterpage.clusters_page(store._latents(None), tmp_path / "a.html", name="other")
    with pytest.raises(InvalidArgument, match="a level of clustering"):
        clusterpage.clusters_page(store._latents(None), tmp_path / "a.html", level=99)
    assert not list(tmp_path.iterdir())


def test_bad_paths(store: Store, tmp_path: Path) -> None:
    (tmp_path / "folder.html").mkdir()
    for name, said in {
        "a.png": "must end in .html",
        "": "must end in .html",
        "none/a.html": "no folder",
        "folder.html": "no regular file",
    }.items():
        with pytest.raises(InvalidArgument, match=said):
            page.map_page(store._latents(None), tmp_path / name)
    (tmp_path / "target.html").write_text("old")
    (tmp_path / "link.html").symlink_to(tmp_path / "target.html")
    page.map_page(store._latents(None), tmp_path / "link.html")
    assert (tmp_path / "link.html").is_symlink()
    assert "map-data" in (tmp_path / "target.html").read_text(encoding="utf-8")


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "a.html"
    path.write_text("old")
    monkeypatch.setattr(markup.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        markup.write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_items_that_a_map_does_not_have_are_left_out_and_counted(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with embedstore.open(mapped.copy(tmp_path_factory)) as own:
        places = own.places().copy()
        places[[3, 50]] = np.nan
        monkeypatch.setattr(page.maps, "places", lambda *_: places)
        done = page.map_page(own._latents(None), tmp_path / "a.html")
        assert done.items == mapped.COUNT - 2
        text = (tmp_path / "a.html").read_text(encoding="utf-8")
        assert "2 items are not on this map." in text
        found = content(text)
        assert numbers(found["thumbs"]["rows"]).tolist() == list(range(mapped.COUNT - 2))
        assert found["ids"][45:50] == [*own.ids()[46:50], own.ids()[51]]


def test_items_that_lie_upon_each_other() -> None:
    origin, step, xy = page.quantised(np.full((5, 2), 3.0, dtype=np.float32))
    assert (origin, step) == ([3.0, 3.0], 1.0)
    assert (xy == 0).all()


def test_a_store_of_vectors_without_metadata(tmp_path: Path) -> None:
    with embedstore.create(tmp_path / "a.store") as own:
        own.add_vectors([f"v{i}" for i in range(40)], np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32))
        with pytest.raises(UnknownRun, match="no map yet"):
            page.map_page(own._latents(None), tmp_path / "a.html")
        own.map()
        done = page.map_page(own._latents(None), tmp_path / "a.html")
        assert (done.items, done.pictures) == (40, 0)
        text = (tmp_path / "a.html").read_text(encoding="utf-8")
        check_page(text)
        assert "Without pictures" in text
        assert [one["title"] for one in content(text)["colourings"]] == ["none"]
        own.delete(own.ids())
        with pytest.raises(NothingMatches):
            page.map_page(own._latents(None), tmp_path / "a.html")


def test_clusters_as_a_page(store: Store, tmp_path: Path) -> None:
    done = clusterpage.clusters_page(store._latents(None), tmp_path / "clusters.html", exemplars=3, rim=2)
    text = (tmp_path / "clusters.html").read_text(encoding="utf-8")
    found = check_page(text)
    portraits = store.clusters(exemplars=3, rim=2)
    assert done.items == mapped.COUNT
    assert done.pictures == sum(len(one.exemplars) + len(one.rim) for one in portraits)
    assert sum(tag == "article" for tag, _ in found.tags) == len(portraits)
    assert sum(tag == "img" for tag, _ in found.tags) == done.pictures
    assert "&lt;b&gt;noughts&lt;/b&gt;" in text
    for one in portraits:
        assert f"{one.size:,} items, {one.share:.1%}" in text
        for trait in telling(one, 4):
            assert f"{markup.text(trait.key, 40)} = {markup.text(trait.value, 60)}" in text


def test_what_became_of_the_items_since_is_said_on_both_pages(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    with embedstore.open(mapped.copy(tmp_path_factory)) as own:
        own.delete(own.ids()[:30])
        own.write_map(tmp_path / "map.html")
        own.write_clusters(tmp_path / "clusters.html")
    for word, command in (("map", "map STORE --name default --refit"), ("clusters", "cluster STORE --name default")):
        text = (tmp_path / f"{word}.html").read_text(encoding="utf-8")
        assert f"30 of the {mapped.COUNT} items that this" in text
        assert f"were deleted since; it may be time for another one: `embedstore {command}" in text


def test_text_of_others() -> None:
    assert markup.text("a<b>&\"'") == "a&lt;b&gt;&amp;&quot;&#x27;"
    assert markup.text("line\nline\t\x1b[31m\u202e\ud800") == "line line \ufffd[31m\ufffd\ufffd"
    assert markup.text("x" * 300) == "x" * 199 + "…"
    assert markup.data("a", {"</script>": "<!--&\u2028"}).count("<") == 2
    assert json.loads(Elements(markup.data("a", {"</script>": "<!--&\u2028"})).inside[0][2]) == {
        "</script>": "<!--&\u2028"
    }
