"""A full disk, or a limit on file sizes: DiskFull, nothing acknowledged is lost, and the same call goes on later."""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedstore
from embedstore.config import StoreConfig
from embedstore.errors import DiskFull
from embedstore.store import Store
from embedstore.truth import opening

from .pictures import noise
from .stores import in_child, refused, vectors

D = 64


def limit(size: int) -> None:
    """Let no file of this process grow beyond so many bytes (Python ignores the signal, so that writes fail)."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    place = tmp_path / "small disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", place], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("mounting a small file system is not permitted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def whole(store: Store, acknowledged: dict[str, np.ndarray]) -> None:
    """The store holds what was acknowledged, and nothing else, and answers for it."""
    assert sorted(store.ids()) == sorted(acknowledged)
    report = store.verify()
    assert (report.problems, report.derived) == ([], [])
    for name in list(acknowledged)[::37]:
        assert (store.vector(name).vector == acknowledged[name]).all()
        assert store.search(acknowledged[name], k=1).ids == [name]


def fill(store: Store, acknowledged: dict[str, np.ndarray], rows: int, text: str) -> tuple[list[str], Any, Any]:
    """Add batches until the disk is full; returns the arguments of the call that failed."""
    for batch in range(1000):
        ids = [f"{len(acknowledged)}/{batch}/{i}" for i in range(rows)]
        call = ids, vectors(rows, seed=batch + len(acknowledged), dimension=D), [{"text": text}] * rows
        try:
            store.add_vectors(*call)
            store.build()
        except DiskFull:
            return call
        acknowledged.update(zip(ids, call[1], strict=True))
    raise AssertionError("the disk never was full")


#: The first file that finds no room: a segment, the database or its journal, a tier.
CASES = [(None, 50, "", 400_000), (None, 5, "x" * 5_000, 300_000), ("HNSW32,Flat", 50, "", 400_000)]


@pytest.mark.parametrize(("factory", "rows", "text", "size"), CASES)
def test_a_limit_on_file_sizes_loses_nothing_acknowledged(
    tmp_path: Path, factory: str | None, rows: int, text: str, size: int
) -> None:
    path = tmp_path / "limited.store"

    def task() -> None:
        opening.create(path, StoreConfig(factory=factory, tail_floats=100 * D))
        acknowledged: dict[str, np.ndarray] = {}
        with Store(path) as store:
            limit(size)
            call = fill(store, acknowledged, rows, text)
            if factory is not None:  # the rows were committed before their tier found no room
                acknowledged.update(zip(call[0], call[1], strict=True))
            whole(store, acknowledged)
            with pytest.raises(DiskFull):
                store.add_vectors(*call) if factory is None else store.build()
            whole(store, acknowledged)
            assert not list((path / "tiers").glob("*.draft"))
        with embedstore.open(path) as store:
            whole(store, acknowledged)
            limit(resource.RLIM_INFINITY)
            store.add_vectors(*call)
            acknowledged.update(zip(call[0], call[1], strict=True))
            whole(store, acknowledged)

    assert in_child(task) == 0


def test_indexing_goes_on_when_there_is_room_again(tmp_path: Path) -> None:
    path = tmp_path / "limited.store"
    pictures = np.stack([noise(12, 12, 1, seed=i) for i in range(4096 + 50)])
    options: dict[str, Any] = {"encoder": "pca", "dimension": 4, "progress": False}

    def task() -> None:
        with embedstore.create(path) as store:
            store.index(pictures[:40], **options)  # the model fits in
            limit(2048 * 144 + 100_000)  # one chunk of pictures fits in, a second one does not
            refused(DiskFull, "no room left", lambda: store.index(pictures, **options))
            assert len(store) == 2048
            assert store.verify().ok
            limit(resource.RLIM_INFINITY)
            report = store.index(pictures, **options)
            assert (report.added, report.unchanged, report.failures) == (len(pictures) - 2048, 2048, [])
            assert store.verify().ok
            shown = store.images(["00003", "04100"])
            assert [np.asarray(image).tolist() for image in shown] == pictures[[3, 4100], :, :, 0].tolist()

    assert in_child(task) == 0


def test_no_room_for_a_model_or_a_store_leaves_neither(tmp_path: Path) -> None:
    pictures = np.stack([noise(16, 16, 3, seed=i) for i in range(80)])

    def task() -> None:
        limit(10_000)
        refused(DiskFull, None, lambda: embedstore.create(tmp_path / "none.store"))
        refused(embedstore.errors.NotAStore, None, lambda: embedstore.open(tmp_path / "none.store"))
        limit(150_000)
        with embedstore.create(tmp_path / "none.store") as store:
            refused(DiskFull, None, lambda: store.index(pictures, encoder="pca", progress=False))
            assert store.info()["spaces"] == []
            assert list((store.path / "models").iterdir()) == []
            limit(resource.RLIM_INFINITY)
            assert store.index(pictures, encoder="pca", progress=False).added == 80

    assert in_child(task) == 0


def test_a_backup_without_room_leaves_nothing_behind(tmp_path: Path) -> None:
    def task() -> None:
        with embedstore.create(tmp_path / "a.store") as store:
            store.add_vectors([str(i) for i in range(1000)], vectors(1000, dimension=D))
            for size in (10_000, 200_000):  # no room for the database, or for a segment
                limit(size)
                refused(DiskFull, str(tmp_path / "copy"), lambda: store.backup(tmp_path / "copy"))
                assert [path.name for path in tmp_path.iterdir()] == ["a.store"]
            limit(resource.RLIM_INFINITY)
            store.backup(tmp_path / "copy")
        with embedstore.open(tmp_path / "copy") as copy:
            assert len(copy) == 1000
            assert copy.verify().ok

    assert in_child(task) == 0


def test_compacting_without_room_changes_nothing_and_leaves_nothing_behind(tmp_path: Path) -> None:
    def task() -> None:
        path = tmp_path / "a.store"
        with embedstore.create(path) as store:
            rows = vectors(1000, dimension=D)
            store.add_vectors([str(i) for i in range(1000)], rows)
            store.delete([str(i) for i in range(0, 1000, 9)])
            kept = {str(i): rows[i] for i in range(1000) if i % 9}
            before = sorted(file.name for file in path.glob("*/*"))
            limit(150_000)
            refused(DiskFull, None, store.compact)
            assert sorted(file.name for file in path.glob("*/*")) == before
            whole(store, kept)
            limit(resource.RLIM_INFINITY)
            assert store.compact().dropped == 112
            whole(store, kept)

    assert in_child(task) == 0


@pytest.mark.filterwarnings("ignore:.*no index was built:embedstore.truth.tiers.TierWarning")
def test_a_full_file_system_loses_nothing_acknowledged(tmpfs: Path) -> None:
    path = tmpfs / "full.store"
    opening.create(path, StoreConfig(factory="Flat", tail_floats=200 * D))
    acknowledged: dict[str, np.ndarray] = {}
    with Store(path) as store:
        for _ in range(3):
            call = fill(store, acknowledged, 40, "x" * 300)
            # Whether the rows or only their tier found no room, the store says itself; whole batches in either case.
            held = set(store.ids())
            if call[0][0] in held:
                acknowledged.update(zip(call[0], call[1], strict=True))
            whole(store, acknowledged)
        full = tmpfs / "ballast"
        with suppress(OSError), full.open("wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass
        assert shutil.disk_usage(tmpfs).free < 4096
        refused(DiskFull, None, lambda: store.add_vectors(["late"], vectors(1, dimension=D)))
        # Reading needs no room, and neither does a lock.
        whole(store, acknowledged)
        full.unlink()
        subprocess.run(["mount", "-o", "remount,size=9m", tmpfs], check=True)
        store.add_vectors(*call)
        acknowledged.update(zip(call[0], call[1], strict=True))
        names = list(acknowledged)
        assert store.delete(names[::2]) == len(names[::2])
        for name in names[::2]:
            del acknowledged[name]
        whole(store, acknowledged)
    with embedstore.open(path) as store:
        whole(store, acknowledged)
