"""The first schema.

Written out rather than taken from embedstore.metadata.schema: a revision must go on meaning what it meant when the
schema has moved on.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create every table."""
    op.create_table(
        "settings", sa.Column("key", sa.Text, primary_key=True), sa.Column("value", sa.Text, nullable=False)
    )
    op.create_table(
        "state",
        sa.Column("one", sa.Integer, primary_key=True),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("layout", sa.Integer, nullable=False),
        sa.Column("next_row", sa.Integer, nullable=False),
        sa.Column("next_file", sa.Integer, nullable=False),
    )
    op.create_table(
        "spaces",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("encoder", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("dimension", sa.Integer, nullable=False),
        sa.Column("metric", sa.Text, nullable=False),
        sa.Column("is_default", sa.Integer, nullable=False),
    )
    op.create_table(
        "segments",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("space", sa.Integer, sa.ForeignKey("spaces.id")),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("length", sa.Integer, nullable=False),
    )
    op.create_table(
        "batches",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("segment", sa.Integer, sa.ForeignKey("segments.id"), nullable=False),
        sa.Column("start", sa.Integer, nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("first_row", sa.Integer, nullable=False),
        sa.Column("rows", sa.BLOB),
        sa.Column("checksum", sa.BLOB, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
    )
    op.create_index("ix_batches_segment", "batches", ["segment"])
    op.create_table(
        "origins",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("scope", sa.Text, nullable=False, unique=True),
    )
    op.create_table(
        "items",
        sa.Column("row", sa.Integer, primary_key=True),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("source", sa.Text),
        sa.Column("origin", sa.Integer, sa.ForeignKey("origins.id")),
        sa.Column("hash", sa.BLOB),
        sa.Column("width", sa.Integer),
        sa.Column("height", sa.Integer),
        sa.Column("thumb_segment", sa.Integer, sa.ForeignKey("segments.id")),
        sa.Column("thumb_start", sa.Integer),
        sa.Column("thumb_length", sa.Integer),
        sa.Column("thumb_format", sa.Text),
        sa.UniqueConstraint("id", name="uq_items_id"),
    )
    op.create_index("ix_items_origin", "items", ["origin"])
    op.create_table(
        "tombstones", sa.Column("row", sa.Integer, primary_key=True), sa.Column("seq", sa.Integer, nullable=False)
    )
    op.create_index("ix_tombstones_seq", "tombstones", ["seq"])
    op.create_table(
        "tiers",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("space", sa.Integer, sa.ForeignKey("spaces.id"), nullable=False),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("first", sa.Integer, nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("factory", sa.Text, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("signature", sa.Text, nullable=False),
        sa.Column("tuned", sa.Text, nullable=False),
    )


def downgrade() -> None:
    """There is nothing before the first schema."""
    raise RuntimeError("a store can't be older than its first schema")
