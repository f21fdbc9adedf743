"""Migrations: the revisions make the schema, an older store is upgraded after a backup, a newer one is refused."""

from __future__ import annotations

import shutil
import sqlite3
import warnings
from contextlib import closing
from importlib import resources
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import embedstore
from embedstore.errors import StoreBusy, StoreReadOnly, StoreTooNew
from embedstore.metadata import items, migrate, schema
from embedstore.truth import opening

from .stores import in_process, refused, small_store, vectors

HEAD = migrate.HEAD  # of this version; a test makes the next one

NEXT = '''
"""A later schema, for the test alone."""

import sqlalchemy as sa
from alembic import op

revision = "9001"
down_revision = "{head}"


def upgrade() -> None:
    op.add_column("items", sa.Column("later", sa.Text))
    {more}
'''


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with small_store(tmp_path / "old.store") as store:
        store.add_vectors(["a", "b"], vectors(2), [{"n": 1}, {"n": 2}])
    return tmp_path / "old.store"


def later_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str = "") -> None:
    """From here on this embedstore is one with another revision."""
    scripts = tmp_path / "migrations"
    shutil.copytree(str(resources.files("embedstore.migrations")), scripts)
    (scripts / "versions" / "r9001_later.py").write_text(NEXT.format(head=HEAD, more=more))
    monkeypatch.setattr(migrate, "scripts", lambda: str(scripts))
    monkeypatch.setattr(migrate, "HEAD", "9001")
    monkeypatch.setattr(opening, "HEAD", "9001")


def columns(database: Path) -> list[str]:
    connection = sqlite3.connect(database)
    found = [row[1] for row in connection.execute("PRAGMA table_info(items)")]
    connection.close()
    return found


def test_the_newest_revision_is_the_schema_s() -> None:
    assert ScriptDirectory(migrate.scripts()).get_heads() == [HEAD]
    assert HEAD in migrate.known_revisions()


def test_the_revisions_make_exactly_the_tables_of_the_schema(path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{path / 'store.db'}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.tables) == []
        assert context.get_current_revision() == HEAD == migrate.revision(path / "store.db")
    engine.dispose()


def test_an_item_s_tuple_has_the_columns_of_the_table() -> None:
    assert list(items.COLUMNS) == schema.items.columns.keys()


def test_a_current_store_is_opened_without_alembic_and_without_a_backup(path: Path) -> None:
    code = """
        import sys, embedstore
        with embedstore.open(sys.argv[1]) as store:
            print(store.ids())
        print("alembic" in sys.modules, "sqlalchemy" in sys.modules)
    """
    assert in_process(code, path) == ["['a', 'b']", "False False"]
    assert not list(path.glob("store.db.before*"))


def test_an_older_store_is_upgraded_after_a_backup(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later_version(tmp_path, monkeypatch)
    assert "later" not in columns(path / "store.db")
    with pytest.warns(UserWarning, match=r"was upgraded; its old database is kept as .*store\.db\.before-9001"):
        store = embedstore.open(path)
    with store:
        assert (store.ids(), store.get("b")["metadata"]) == (["a", "b"], {"n": 2})
        assert store.search(vectors(2)[1], k=1).ids == ["b"]
    assert "later" in columns(path / "store.db")
    assert migrate.revision(path / "store.db") == "9001"
    backup = path / "store.db.before-9001"
    assert "later" not in columns(backup)
    assert migrate.revision(backup) == HEAD
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embedstore.open(path).close()  # once


def test_an_older_store_can_not_be_opened_for_reading_only(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later_version(tmp_path, monkeypatch)
    before = (path / "store.db").read_bytes()
    refused(StoreReadOnly, "embedstore compact", lambda: embedstore.open(path, read_only=True))
    assert (path / "store.db").read_bytes() == before


def test_an_upgrade_that_fails_half_way_changes_nothing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later_version(tmp_path, monkeypatch, more='raise RuntimeError("half way")')
    with pytest.raises(RuntimeError, match="half way"):
        embedstore.open(path)
    assert "later" not in columns(path / "store.db")
    assert migrate.revision(path / "store.db") == HEAD
    monkeypatch.undo()
    with embedstore.open(path) as store:
        assert store.ids() == ["a", "b"]
        assert store.verify().ok


def test_an_upgrade_waits_for_the_writer(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later_version(tmp_path, monkeypatch)
    monkeypatch.setattr(opening, "_PATIENCE", 0.05)
    code = """
        import sys
        from pathlib import Path
        from embedstore.durable import WriteLock
        with WriteLock(Path(sys.argv[1]) / "LOCK", 1.0).held("writing on"):
            print("locked", flush=True)
            sys.stdin.readline()
    """
    holder = in_process(code, path, wait=False)
    assert holder.stdout.readline() == "locked\n"
    refused(StoreBusy, rf"process {holder.pid} \(writing on", lambda: embedstore.open(path))
    holder.communicate("\n")
    assert "later" not in columns(path / "store.db")


def test_a_store_of_a_later_version_is_refused_by_this_one(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as later:
        later_version(tmp_path, later)
        with pytest.warns(UserWarning, match="was upgraded"):
            embedstore.open(path).close()
    message = refused(StoreTooNew, "'9001'", lambda: embedstore.open(path))
    assert f"'{HEAD}'" in message


def as_of(database: Path, revision: str) -> None:
    """Take a store.db back to an older revision, so that it is one that an older embedstore made."""
    config = Config()
    config.set_main_option("script_location", migrate.scripts())
    engine = sa.create_engine(f"sqlite:///{database}")
    with engine.begin() as config.attributes["connection"]:
        command.downgrade(config, revision)
    engine.dispose()


def tables(database: Path) -> set[str]:
    with closing(sqlite3.connect(database)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def contents(database: Path) -> dict[str, list[str]]:
    """Every row of every table, as SQL."""
    with closing(sqlite3.connect(database)) as connection:
        lines = [line for line in connection.iterdump() if line.startswith("INSERT INTO")]
    return {table: [line for line in lines if line.startswith(f'INSERT INTO "{table}"')] for table in tables(database)}


def test_a_store_from_before_clusterings_gets_their_tables_and_keeps_all_else(path: Path) -> None:
    fresh = contents(path / "store.db")
    as_of(path / "store.db", "0002")
    older = contents(path / "store.db")
    assert fresh.keys() - older.keys() >= {"clusterings", "maps", "labels", "places"}
    expected = {table: fresh[table] for table in older} | {"alembic_version": []}
    expected["spaces"] = [line.replace(",'float32');", ");") for line in fresh["spaces"]]  # the column came later
    assert {**older, "alembic_version": []} == expected
    assert len(older["items"]) == 2
    refused(StoreReadOnly, "older schema '0002'", lambda: embedstore.open(path, read_only=True))
    with pytest.warns(UserWarning, match=rf"was upgraded; its old database is kept as .*store\.db\.before-{HEAD}"):
        store = embedstore.open(path)
    with store:
        assert (store.ids(), store.get("a")["metadata"]) == (["a", "b"], {"n": 1})
        assert store.search(vectors(2)[1], k=1).ids == ["b"]
        assert store.clusterings() == []
        assert contents(path / "store.db") == fresh
        store.add_vectors(["c"], vectors(3)[2:])  # the writer asks for runs to place it into
        assert store.verify().ok
    assert contents(path / f"store.db.before-{HEAD}") == older
    engine = sa.create_engine(f"sqlite:///{path / 'store.db'}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.tables) == []
        # Alembic compares neither of these: without the rules labels would outlive their items.
        for table, owner in (("labels", "clusterings"), ("places", "maps")):
            rules = connection.exec_driver_sql(f"PRAGMA foreign_key_list({table})").mappings().all()
            assert {(rule["table"], rule["on_delete"]) for rule in rules} == {("items", "CASCADE"), (owner, "CASCADE")}
            asked = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = ?", (table,))
            assert asked.scalar_one().strip().endswith("WITHOUT ROWID")
    engine.dispose()
