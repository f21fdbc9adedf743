"""Alembic revisions of ``store.db``, installed as ``embedstore.migrations``."""
