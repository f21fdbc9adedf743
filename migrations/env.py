"""Alembic's entry: runs the revisions on the connection that ``embedstore.metadata.migrate`` hands over."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
# No begin_transaction here: the caller holds one (BEGIN IMMEDIATE), so that all revisions land together or not at all.
context.run_migrations()
