from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from embedstore.errors import DiskFull
from embedstore.readers.spool import Spool
from embedstore.types import Failure, Item

from .pictures import noise

ENTRIES: list[Item | Failure] = [
    Item("a", noise(seed=1), {"x": [1, "é"]}, "s#1"),
    Failure("b", "broken"),
    Item("c", Path("/some/where.png")),
    Item("d", noise(3, 5, 1, seed=2)),
    Item("e", vector=np.array([1.5, -2], dtype=np.float32)),
]


def same(one: Item | Failure, other: Item | Failure) -> bool:
    if isinstance(one, Failure) or isinstance(other, Failure):
        return one == other
    return (
        (one.id, one.metadata, one.source) == (other.id, other.metadata, other.source)
        and (
            one.picture == other.picture
            if isinstance(one.picture, Path)
            else np.array_equal(one.picture, other.picture)
        )  # type: ignore[arg-type]
        and np.array_equal(one.vector, other.vector)  # type: ignore[arg-type]
    )


def once(asked: list[int]) -> Iterator[Item | Failure]:
    for i, entry in enumerate(ENTRIES):
        asked.append(i)
        yield entry


@pytest.mark.parametrize("memory", [1, 1 << 20])
def test_what_comes_once_can_be_read_again_in_memory_or_from_a_file(memory: int) -> None:
    asked: list[int] = []
    spool = Spool(once(asked), memory)
    for _ in range(3):
        assert all(same(one, other) for one, other in zip(spool, ENTRIES, strict=True))
    assert asked == [0, 1, 2, 3, 4]
    assert (spool.finished, spool.length) == (True, 5)
    spool.close()


def test_only_as_much_is_asked_for_as_is_read_and_readers_may_alternate() -> None:
    asked: list[int] = []
    spool = Spool(once(asked), memory=1)
    first, second = iter(spool), iter(spool)
    order = [next(first), next(first), next(second), next(first), next(second), next(second)]
    assert asked == [0, 1, 2]
    assert all(same(order[i], ENTRIES[j]) for i, j in enumerate([0, 1, 0, 2, 1, 2]))
    assert not spool.finished
    spool.close()


def test_pictures_come_back_writable() -> None:
    spool = Spool(once([]))
    item = next(iter(spool))
    assert isinstance(item, Item)
    assert isinstance(item.picture, np.ndarray)
    assert item.picture.flags.writeable
    spool.close()


def test_a_full_disk_is_said_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(once([]))

    class Full:
        def seek(self, position: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    spool.close()
    monkeypatch.setattr(spool, "_file", Full())
    with pytest.raises(DiskFull, match="set TMPDIR, or pass a list"):
        next(iter(spool))
