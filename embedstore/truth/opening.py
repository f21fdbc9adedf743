"""Making a store's directory, and opening one that is there."""

from __future__ import annotations

import datetime
import uuid
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from embedstore.config import StoreConfig
from embedstore.durable import WriteLock, sync_directory, writing
from embedstore.errors import InvalidArgument, NotAStore, StoreDamaged, StoreExists, StoreNotFound, StoreReadOnly
from embedstore.metadata import catalog, migrate
from embedstore.metadata.database import Database
from embedstore.metadata.migrate import HEAD
from embedstore.truth import layout

_DRAFT = f"{layout.DATABASE}.new"
_JOURNAL = f"{_DRAFT}-journal"
_OURS = {layout.DATABASE, layout.LOCK, layout.SEGMENTS, layout.TIERS, layout.MODELS, _DRAFT, _JOURNAL}

_PATIENCE = 10.0  # seconds to wait for another process that upgrades the store


def exists(directory: Path) -> bool:
    """Whether there is a store at this path."""
    return (directory / layout.DATABASE).is_file()


def create(directory: Path, config: StoreConfig) -> None:
    """Make an empty store; it is there whole or, after a crash, not at all.

    Raises:
        InvalidArgument: the config names an index that FAISS can't make.
        StoreExists: a store, a file, or a directory with other things in it is there.
    """
    if "\0" in str(directory):
        raise InvalidArgument(f"{str(directory)!r} can't be a path: it contains a NUL character")
    _check_factory(config)
    with writing(directory):
        if exists(directory):
            raise StoreExists(f"{directory} is a store already: open it, or name another path")
        if directory.exists() and not directory.is_dir():
            raise StoreExists(f"{directory} is a file: name a directory for the store")
        if directory.exists() and (others := {path.name for path in directory.iterdir()} - _OURS):
            raise StoreExists(f"{directory} holds other things ({sorted(others)[0]}, ...): name a new directory")
        layout.make(directory)
    with WriteLock(directory / layout.LOCK, config.lock_seconds).held("creating the store"), writing(directory):
        if exists(directory):
            raise StoreExists(f"{directory} was made by another process just now: open it")
        draft = directory / _DRAFT
        for rest in (draft, draft.with_name(_JOURNAL)):  # of a creation that was interrupted
            rest.unlink(missing_ok=True)
        draft.touch()
        database = Database(draft)
        try:
            with database.write() as connection:
                migrate.upgrade(connection)
                catalog.create_state(connection)
                catalog.write_setting(connection, "uuid", str(uuid.uuid4()))
                catalog.write_setting(connection, "created", datetime.datetime.now(datetime.UTC).isoformat())
                catalog.write_setting(connection, "config", config.to_json())
        finally:
            database.close()
        draft.with_name(_JOURNAL).unlink(missing_ok=True)
        draft.rename(directory / layout.DATABASE)
        sync_directory(directory)
        sync_directory(directory.absolute().parent)


def settle(directory: Path, given: dict[str, Any]) -> bool:
    """Settings given anew replace those of a store that holds nothing yet: its first run failed, or was interrupted.

    Removing such a store instead was rejected: another process may have opened it, and would write into nowhere.

    Returns:
        False where there is a space already, which was made with the old ones; then nothing is changed.

    Raises:
        InvalidArgument: a setting makes no sense.
        StoreBusy: another process is writing to it.
    """
    database = Database(directory / layout.DATABASE)
    try:
        with database.read() as connection:
            settings = catalog.read_settings(connection)
        config = replace(StoreConfig.from_json(settings.get("config", {})), **given)
        _check_factory(config)
        lock = WriteLock(directory / layout.LOCK, config.lock_seconds)
        with lock.held("changing the settings of the empty store"), database.write() as connection:
            if catalog.read_spaces(connection)[0]:
                return False
            catalog.write_setting(connection, "config", config.to_json())
            return True
    finally:
        database.close()


def _check_factory(config: StoreConfig) -> None:
    if config.factory is not None:
        from embedstore.index.build import check

        check(config.factory)


def open_database(directory: Path, *, read_only: bool) -> tuple[Database, dict[str, Any], Path | None]:
    """Open a store's database, upgrading an older one after a backup.

    Returns:
        The database, the store's settings, and the backup's path if one was made.

    Raises:
        StoreNotFound, NotAStore, StoreTooNew, StoreReadOnly.
    """
    path = directory / layout.DATABASE
    try:
        if not directory.exists():
            raise StoreNotFound(f"there is no store at {directory}: `embedstore index {directory} SOURCE` makes one")
        if not directory.is_dir():
            raise NotAStore(f"{directory} is a file, not a store: a store is a directory with a store.db in it")
        there = path.is_file()
        for folder in (layout.SEGMENTS, layout.TIERS, layout.MODELS):
            # What compact sweeps, and a build removes, must not be someone's home.
            if there and (directory / folder).is_symlink():
                raise StoreDamaged(f"{directory / folder} is a link: move the folder that it leads to into the store")
    except PermissionError:
        raise StoreReadOnly(f"{directory} can't be read: check its permissions") from None
    if not there:
        raise NotAStore(f"{directory} is no store: it has no {layout.DATABASE}; `embedstore index` makes a new one")
    backup = None
    if migrate.revision(path) != HEAD:
        # Of two processes that open it at once, the second must not take the upgraded database for the old one.
        with nullcontext() if read_only else WriteLock(directory / layout.LOCK, _PATIENCE).held("upgrading the store"):
            backup = migrate.bring_up_to_date(path, read_only=read_only)
    database = Database(path, read_only=read_only)
    try:
        with database.read() as connection:
            settings = catalog.read_settings(connection)
        StoreConfig.from_json(settings.get("config", {}))
    except ValueError as error:  # InvalidArgument is one
        database.close()
        raise StoreDamaged(f"the settings in {path} make no sense ({error}): restore a backup") from None
    except BaseException:
        database.close()
        raise
    return database, settings, backup
