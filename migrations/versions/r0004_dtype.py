"""Vectors that are kept as float16 or int8."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column: what is there is float32."""
    op.add_column("spaces", sa.Column("dtype", sa.Text, nullable=False, server_default="float32"))


def downgrade() -> None:
    """Drop it; segments of another dtype can't be read then."""
    with op.batch_alter_table("spaces") as table:
        table.drop_column("dtype")
