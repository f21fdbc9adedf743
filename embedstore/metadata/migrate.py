"""Bringing ``store.db`` to the newest schema with Alembic; an older store is backed up first."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from sqlite3 import Connection

from embedstore.durable import sync_directory, writing
from embedstore.errors import NotAStore, StoreReadOnly, StoreTooNew
from embedstore.metadata.database import Database

#: The newest Alembic revision (a test holds it against migrations/versions).
HEAD = "0004"


def revision(path: Path) -> str:
    """The schema revision of a ``store.db``, without Alembic (importing it costs a third of a second).

    Raises:
        NotAStore: there is no SQLite database with our tables at ``path``.
    """
    database = Database(path, read_only=True)
    try:
        with database.read() as connection:
            found = connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name IN ('alembic_version', 'state')"
            ).fetchall()
            if len(found) < 2:
                raise NotAStore(f"{path.parent} is no embedstore: its store.db has other tables than ours")
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    finally:
        database.close()
    if row is None:
        raise NotAStore(f"{path.parent} is no embedstore: its store.db names no schema revision")
    return str(row[0])


def scripts() -> str:
    """Where Alembic's revisions are."""
    return str(resources.files("embedstore.migrations"))


def upgrade(connection: Connection) -> None:
    """Run all missing revisions inside the caller's transaction."""
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import StaticPool, create_engine

    engine = create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool, pool_reset_on_return=None)
    # The caller's transaction is the caller's to end.
    for ending in ("do_begin", "do_commit", "do_rollback"):
        setattr(engine.dialect, ending, lambda _: None)
    config = Config()
    config.set_main_option("script_location", scripts().replace("%", "%%"))
    with engine.connect() as config.attributes["connection"]:
        command.upgrade(config, "head")


def known_revisions() -> set[str]:
    """Every revision that this version of embedstore can read or upgrade from."""
    from alembic.script import ScriptDirectory

    return {script.revision for script in ScriptDirectory(scripts()).walk_revisions()}


def bring_up_to_date(path: Path, *, read_only: bool) -> Path | None:
    """Upgrade an older store after copying its database beside it; refuse a newer one.

    The caller holds the one writer's lock where it may come to an upgrade.

    Returns:
        The backup's path, or None where nothing had to be done.
    """
    found = revision(path)
    if found == HEAD:
        return None
    if found not in known_revisions():
        raise StoreTooNew(
            f"{path.parent} has schema {found!r}, newer than this embedstore knows ({HEAD!r}): upgrade embedstore"
        )
    if read_only:
        raise StoreReadOnly(
            f"{path.parent} has the older schema {found!r}: `embedstore compact {path.parent}` upgrades it, "
            "after a backup of its database"
        )
    backup = path.with_name(f"store.db.before-{HEAD}")
    database = Database(path)
    try:
        # Aside first, so that a crash leaves either no backup or a whole one.
        draft = path.with_name(f"{backup.name}.new")
        with writing(backup):
            database.copy_to(draft)
            draft.replace(backup)
            sync_directory(path.parent)
        with database.write() as connection:
            upgrade(connection)
    finally:
        database.close()
    return backup
