"""A pool of processes that decode picture files ahead of the encoder, each file under a time and a memory limit.

The processes are started as programs (``python -c``), not by multiprocessing: its spawn and forkserver methods import
the user's main script again in every worker, so that a script without an ``if __name__`` guard fails (pebble's pool
then ends with "All workers expired") and one that imports torch at its top loads it once per worker; and fork is
unsafe under torch's and faiss's threads. Files are answered one by one, so that when a worker dies the file it was at
is known: that one fails with a reason, and the rest of the task goes to a fresh worker.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from embedstore.errors import EmbedstoreError
from embedstore.readers.decode import MAX_PIXELS, Decoded
from embedstore.readers.hashing import describe_bytes
from embedstore.readers.worker import ANSWER, READY, REQUEST

TASK = 32  # files handed to a worker at a time
_PIPE = 1 << 20  # bytes of a pipe: how far a worker may run ahead of a parent that is busy
_BOOTSTRAP = (
    "import json, sys; settings = json.loads(sys.argv[1]); sys.path[:] = settings.pop('path'); "
    "from embedstore.readers.worker import main; main(settings)"
)


class Job:
    """Files that were submitted together; ``result`` waits for them."""

    def __init__(self, count: int) -> None:
        self._results: list[Decoded | str] = [""] * count
        self._missing = count
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._done = threading.Event()
        if count == 0:
            self._done.set()

    def put(self, position: int, result: Decoded | str) -> None:
        self._results[position] = result
        with self._lock:
            self._missing -= 1
            if self._missing == 0:
                self._done.set()

    def fail(self, error: BaseException) -> None:
        self._error = error
        self._done.set()

    def result(self) -> list[Decoded | str]:
        """One entry per file, in order: what was decoded, or the reason why it couldn't be."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._results


@dataclass(frozen=True, slots=True)
class _Task:
    job: Job
    start: int
    files: Sequence[tuple[str, str]]  # path, expected hash in hex or ""


@dataclass(slots=True)
class _State:
    """What the threads share; they hold no reference to the pool, so that a forgotten pool is collected and stopped."""

    settings: dict[str, Any]
    tasks: queue.SimpleQueue[_Task | None] = field(default_factory=queue.SimpleQueue)
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    threads: list[threading.Thread] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    closed: bool = False


class DecodePool:
    """Worker processes, started at the first ``submit``.

    Args:
        workers: how many; None is one per core, at most 8.
        max_side: reduce pictures to this longer side on reading; None keeps them.
        time_limit: seconds a single file may take.
        memory_limit: bytes a worker may allocate.
        max_pixels: pictures of more pixels are refused.
    """

    def __init__(
        self,
        workers: int | None = None,
        max_side: int | None = None,
        time_limit: float = 30.0,
        memory_limit: int = 1 << 30,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.workers = workers or min(8, _cores())
        self._state = _State(
            {"max_side": max_side, "time_limit": time_limit, "memory_limit": memory_limit, "max_pixels": max_pixels}
        )
        # Runs at close, when the pool is collected, and at the interpreter's exit, whichever is first.
        self._stop = weakref.finalize(self, _stop, self._state)

    def submit(self, paths: Sequence[str], hashes: Sequence[bytes] | None = None) -> Job:
        """Queue files for decoding and return at once.

        Args:
            paths: the files.
            hashes: content hash each must still have, or None for any.
        """
        state = self._state
        if state.closed:
            raise EmbedstoreError("the reader was closed; open the source again")
        expected = [h.hex() for h in hashes] if hashes is not None else [""] * len(paths)
        files = list(zip(paths, expected, strict=True))
        job = Job(len(files))
        for start in range(0, len(files), TASK):
            state.tasks.put(_Task(job, start, files[start : start + TASK]))
        while len(state.threads) < min(self.workers, -(-len(files) // TASK)):
            thread = threading.Thread(target=_serve, args=(state,), name="embedstore-decode", daemon=True)
            state.threads.append(thread)
            thread.start()
        return job

    def close(self) -> None:
        """Stop the processes; jobs under way fail."""
        self._stop()


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _stop(state: _State) -> None:
    with state.lock:
        state.closed = True
        processes = list(state.processes.values())
    for process in processes:
        process.kill()
    for _ in state.threads:
        state.tasks.put(None)
    for thread in state.threads:
        if thread is not threading.current_thread():
            thread.join(timeout=5.0)


def _serve(state: _State) -> None:
    """One thread per worker: hands it tasks, collects its answers, replaces it when it dies."""
    process: subprocess.Popen[bytes] | None = None
    try:
        while (task := state.tasks.get()) is not None:
            try:
                done = 0
                while done < len(task.files):
                    if process is None:
                        process = _start(state)
                    done = _run(process, task, done)
                    if done < len(task.files):
                        reason = _reason(process.wait(), state.settings)
                        _discard(state, process)
                        process = None
                        if state.closed:
                            break
                        task.job.put(task.start + done, reason)
                        done += 1
                if done < len(task.files):
                    task.job.fail(EmbedstoreError("the reader was closed while it was reading"))
            except Exception as error:  # noqa: BLE001 - whoever waits for the job must hear of it
                task.job.fail(error)
    finally:
        if process is not None:
            _discard(state, process)


def _start(state: _State) -> subprocess.Popen[bytes]:
    settings = {**state.settings, "path": sys.path}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with state.lock:
        if state.closed:
            raise EmbedstoreError("the reader was closed while it was reading")
        # A session of its own: Ctrl-C on the terminal is the parent's to handle, and close() ends the worker. -I keeps
        # the working directory out of the import path until the parent's own path replaces it.
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and code
            [sys.executable, "-I", "-c", _BOOTSTRAP, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=_PIPE,
            env=environment,
            start_new_session=True,
        )
        state.processes[id(process)] = process
    out = cast(io.BufferedReader, process.stdout)
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import fcntl

        fcntl.fcntl(out.fileno(), fcntl.F_SETPIPE_SZ, _PIPE)
    if out.read(len(READY)) != READY:
        code = process.wait()
        _discard(state, process)
        raise EmbedstoreError(
            f"the process that decodes pictures did not start (exit code {code}): "
            f"try '{sys.executable} -I -c \"import embedstore.readers.worker\"' to see why"
        )
    return process


def _discard(state: _State, process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    process.wait()
    state.processes.pop(id(process), None)


def _run(process: subprocess.Popen[bytes], task: _Task, done: int) -> int:
    """Send the files from ``done`` on and collect answers; returns how many of the task are done when it ends."""
    request = json.dumps(task.files[done:]).encode()
    requests, out = cast(io.BufferedWriter, process.stdin), cast(io.BufferedReader, process.stdout)
    try:
        requests.write(REQUEST.pack(len(request)) + request)
        requests.flush()
    except OSError:
        return done
    while done < len(task.files):
        head = out.read(ANSWER.size)
        if len(head) < ANSWER.size:
            return done
        width, height, rows, columns, channels, length = ANSWER.unpack(head)
        # A bytearray, so that the array over it is writable: torch warns about arrays that aren't.
        pixels = bytearray(rows * columns * channels)
        if out.readinto(pixels) < len(pixels):
            return done
        tail = out.read(length)
        if len(tail) < length:
            return done
        if width == 0:
            task.job.put(task.start + done, tail.decode("utf-8", "replace"))
        else:
            array = np.frombuffer(pixels, dtype=np.uint8).reshape(rows, columns, channels)
            task.job.put(task.start + done, Decoded(array, (width, height), tail))
        done += 1
    return done


def _reason(code: int, settings: dict[str, Any]) -> str:
    if code == -getattr(signal, "SIGALRM", 0):
        return f"took longer than {settings['time_limit']:g} s to decode"
    if code == -signal.SIGKILL:
        limit = describe_bytes(settings["memory_limit"])
        return f"needed too much memory to decode (the system ended the decoder; its own limit is {limit})"
    if code < 0:
        return f"crashed the decoder ({signal.Signals(-code).name})"
    return f"ended the decoder (exit code {code})"
