from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from embedstore.errors import EmbedstoreError
from embedstore.readers import worker
from embedstore.readers.decode import Decoded
from embedstore.readers.hashing import describe_bytes, hash_file
from embedstore.readers.workers import TASK, DecodePool

from .pictures import encoded, image_of, noise, write_png


def black_png(width: int, height: int) -> bytes:
    """A PNG whose rows are all zero bytes, compressed to almost nothing."""

    def piece(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    squeeze = zlib.compressobj(1)
    body = b"".join(squeeze.compress(bytes(width * 3 + 1)) for _ in range(height)) + squeeze.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + piece(b"IHDR", header) + piece(b"IDAT", body) + piece(b"IEND", b"")


@pytest.fixture(scope="module")
def slow_png() -> bytes:
    """Half a gigabyte of black: more than a second's work."""
    return black_png(13_000, 13_000)


@pytest.fixture
def pool() -> Iterator[DecodePool]:
    made = DecodePool(workers=2)
    yield made
    made.close()


def processes(pool: DecodePool) -> list[subprocess.Popen[bytes]]:
    return list(pool._state.processes.values())


def test_pictures_come_back_in_order_with_all_their_values(pool: DecodePool, tmp_path: Path) -> None:
    count = 3 * TASK + 5
    shapes = [{"height": 3 + i % 7, "width": 4 + i % 3, "channels": (1, 3)[i % 2]} for i in range(count)]
    pictures = [write_png(tmp_path / f"{i}.png", i, **shapes[i]) for i in range(count)]
    paths = [str(tmp_path / f"{i}.png") for i in range(count)]
    results = pool.submit(paths, [hash_file(path) for path in paths]).result()  # type: ignore[misc]
    for result, picture in zip(results, pictures, strict=True):
        assert isinstance(result, Decoded)
        np.testing.assert_array_equal(result.pixels, picture)
        assert result.pixels.flags.writeable
        assert result.size == (picture.shape[1], picture.shape[0])
        assert result.thumb.startswith(b"\x89PNG")


def test_nothing_starts_before_the_first_file_and_no_more_workers_than_tasks(tmp_path: Path) -> None:
    pool = DecodePool(workers=2)
    assert pool.submit([]).result() == []
    assert processes(pool) == []
    write_png(tmp_path / "a.png")
    pool.submit([str(tmp_path / "a.png")]).result()
    assert len(processes(pool)) == 1
    pool.close()


def test_hostile_files_fail_alone_each_with_its_reason(pool: DecodePool, tmp_path: Path) -> None:
    good = write_png(tmp_path / "good.png")
    files = {
        "empty": b"",
        "text": b"no picture at all",
        "truncated": encoded(image_of(noise(64, 64)))[:900],
    }
    for name, data in files.items():
        (tmp_path / f"{name}.png").write_bytes(data)
    os.mkfifo(tmp_path / "fifo.png")
    names = ["good", "empty", "good", "text", "truncated", "fifo", "missing", "good"]
    results = pool.submit([str(tmp_path / f"{name}.png") for name in names]).result()
    for name, result in zip(names, results, strict=True):
        if name == "good":
            assert isinstance(result, Decoded)
            np.testing.assert_array_equal(result.pixels, good)
    said = {name: result for name, result in zip(names, results, strict=True) if isinstance(result, str)}
    assert said["empty"] == "the file is empty"
    assert "is no picture in a format read here" in said["text"]
    assert "can't be decoded" in said["truncated"]
    assert said["fifo"] == "is a FIFO, not a regular file"
    assert said["missing"] == "can't be opened: No such file or directory"


def test_a_file_that_needs_too_much_memory_fails_alone(tmp_path: Path) -> None:
    pool = DecodePool(workers=1, memory_limit=64 << 20)
    good = write_png(tmp_path / "good.png")
    (tmp_path / "big.png").write_bytes(black_png(8000, 8000))
    before, big, after = pool.submit([str(tmp_path / f"{name}.png") for name in ("good", "big", "good")]).result()
    assert big == "needed more than 64 MiB to decode"
    for result in (before, after):
        assert isinstance(result, Decoded)
        np.testing.assert_array_equal(result.pixels, good)
    pool.close()


def test_a_file_that_takes_too_long_fails_alone(tmp_path: Path, slow_png: bytes) -> None:
    pool = DecodePool(workers=1, time_limit=0.5)
    good = write_png(tmp_path / "good.png")
    (tmp_path / "slow.png").write_bytes(slow_png)
    before, slow, after = pool.submit([str(tmp_path / f"{name}.png") for name in ("good", "slow", "good")]).result()
    assert slow == "took longer than 0.5 s to decode"
    for result in (before, after):
        assert isinstance(result, Decoded)
        np.testing.assert_array_equal(result.pixels, good)
    pool.close()


def test_a_worker_that_is_killed_costs_one_file_and_is_replaced(tmp_path: Path, slow_png: bytes) -> None:
    pool = DecodePool(workers=1)
    good = write_png(tmp_path / "good.png")
    (tmp_path / "slow.png").write_bytes(slow_png)
    paths = [str(tmp_path / f"{name}.png") for name in ("good", "slow", "good")]
    pool.submit(paths[:1]).result()
    job = pool.submit(paths)
    time.sleep(0.15)
    processes(pool)[0].kill()
    results = job.result()
    killed = [result for result in results if isinstance(result, str)]
    assert len(killed) == 1
    assert "needed too much memory" in killed[0]
    assert isinstance(results[2], Decoded)
    np.testing.assert_array_equal(results[2].pixels, good)
    pool.close()


def test_a_file_that_changed_after_it_was_hashed_is_not_taken_for_the_old_one(pool: DecodePool, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_png(path, 1)
    digest = hash_file(str(path))
    assert isinstance(digest, bytes)
    write_png(path, 2)
    assert pool.submit([str(path)], [digest]).result() == ["was changed while it was being read"]


def test_closing_ends_the_processes_and_fails_who_waits(tmp_path: Path, slow_png: bytes) -> None:
    pool = DecodePool(workers=1)
    (tmp_path / "slow.png").write_bytes(slow_png)
    job = pool.submit([str(tmp_path / "slow.png")] * 50)
    while not processes(pool):
        time.sleep(0.01)
    running = processes(pool)
    threading.Timer(0.2, pool.close).start()
    with pytest.raises(EmbedstoreError, match="closed while it was reading"):
        job.result()
    assert [process.wait(timeout=10) for process in running] == [-signal.SIGKILL]
    with pytest.raises(EmbedstoreError, match="was closed"):
        pool.submit(["x"])


def run_script(tmp_path: Path, body: str, *, wait: bool = True) -> subprocess.Popen[str]:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(body))
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    if wait:
        process.wait(timeout=60)
    return process


def test_a_script_without_a_main_guard_works_and_is_not_imported_again(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png")
    process = run_script(
        tmp_path,
        """
        print("once")
        from embedstore.readers.workers import DecodePool
        pool = DecodePool()
        print(pool.submit(["a.png"]).result()[0].pixels.shape)
        """,
    )
    out, err = process.communicate()
    assert (out, err, process.returncode) == ("once\n(8, 8, 3)\n", "", 0)


def test_workers_import_neither_torch_nor_faiss_nor_scikit_learn() -> None:
    code = (
        "import sys, embedstore.readers.worker; print([m for m in ('torch', 'faiss', 'sklearn') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_parent_or_speaks(tmp_path: Path, slow_png: bytes, how: signal.Signals) -> None:
    (tmp_path / "slow.png").write_bytes(slow_png)
    process = run_script(
        tmp_path,
        """
        import sys
        from embedstore.readers.workers import DecodePool
        pool = DecodePool(workers=2, time_limit=2)
        job = pool.submit(["slow.png"] * 1000)
        while len(pool._state.processes) < 2:
            pass
        try:
            print(*[p.pid for p in pool._state.processes.values()], flush=True)
            job.result()
        except KeyboardInterrupt:
            sys.exit(3)
        """,
        wait=False,
    )
    assert process.stdout is not None
    workers = [int(pid) for pid in process.stdout.readline().split()]
    process.send_signal(how)
    _, err = process.communicate(timeout=20)
    assert err == ""
    assert process.returncode == (3 if how is signal.SIGINT else -signal.SIGKILL)
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}/cmdline").exists() and _alive(pid) for pid in workers):
        assert time.monotonic() < deadline, "a worker is still running"
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except OSError:
        return False


def test_a_worker_that_cannot_start_is_an_error_and_no_endless_loop(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "path", [])
    pool = DecodePool(workers=1)
    job = pool.submit([str(tmp_path / "a.png")])
    with pytest.raises(EmbedstoreError, match="did not start"):
        job.result()
    pool.close()


def test_sizes_are_told_in_binary_units() -> None:
    assert [describe_bytes(n) for n in (1 << 30, 3 << 29, 512 << 20, 100)] == [
        "1 GiB",
        "1.5 GiB",
        "512 MiB",
        "100 bytes",
    ]


@pytest.mark.parametrize(("platform", "held"), [("linux", None), ("darwin", 256 << 20)])
def test_memory_is_limited_on_every_system_that_can(
    monkeypatch: pytest.MonkeyPatch, platform: str, held: int | None
) -> None:
    resource = pytest.importorskip("resource")
    limits: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(resource, "setrlimit", lambda which, both: limits.append((which, both)))
    if held is not None:
        monkeypatch.setattr(worker, "_held", None)  # there is no /proc to ask
    worker.limit_memory(1 << 30)
    ((which, (soft, hard)),) = limits
    assert which == (resource.RLIMIT_DATA if platform == "linux" else resource.RLIMIT_AS)
    assert soft == hard
    assert soft > 1 << 30
    assert held is None or soft == (1 << 30) + held
