"""Directions: named, stored differences of latents."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "directions",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("space", sa.Integer, sa.ForeignKey("spaces.id"), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("vector", sa.BLOB, nullable=False),
        sa.Column("made", sa.Text, nullable=False),
        sa.UniqueConstraint("space", "name", name="uq_directions_space_name"),
    )


def downgrade() -> None:
    """Forget all directions."""
    op.drop_table("directions")
