"""Clusterings and maps: named, stored runs, and what they say of every item."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    for table in ("clusterings", "maps"):
        op.create_table(
            table,
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("space", sa.Integer, sa.ForeignKey("spaces.id"), nullable=False),
            sa.Column("name", sa.Text, nullable=False, unique=True),
            sa.Column("seq", sa.Integer, nullable=False),
            sa.Column("next_row", sa.Integer, nullable=False),
            sa.Column("model", sa.Text, nullable=False),
            sa.Column("is_default", sa.Integer, nullable=False),
            sa.Column("made", sa.Text, nullable=False),
        )
    op.create_table(
        "labels",
        sa.Column("row", sa.Integer, sa.ForeignKey("items.row", ondelete="CASCADE"), primary_key=True),
        sa.Column("clustering", sa.Integer, sa.ForeignKey("clusterings.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("leaf", sa.Integer, nullable=False),
        sa.Column("strength", sa.Float, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_labels_leaf", "labels", ["clustering", "leaf"])
    op.create_table(
        "places",
        sa.Column("row", sa.Integer, sa.ForeignKey("items.row", ondelete="CASCADE"), primary_key=True),
        sa.Column("map", sa.Integer, sa.ForeignKey("maps.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("x", sa.Float, nullable=False),
        sa.Column("y", sa.Float, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_places_map", "places", ["map"])


def downgrade() -> None:
    """Forget all clusterings and maps."""
    for table in ("places", "labels", "maps", "clusterings"):
        op.drop_table(table)
