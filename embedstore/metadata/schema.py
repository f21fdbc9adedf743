"""The tables of ``store.db``. What a row says is the truth; files are named by rows.

Rows of ``items`` are never changed after their commit, but for deletion: an update inserts a new row and deletes the
old one, so that a reader in another process never pairs the metadata of one version with the latent of another.
"""

from __future__ import annotations

from sqlalchemy import BLOB, Column, Float, ForeignKey, Index, Integer, MetaData, Table, Text, UniqueConstraint

tables = MetaData()

#: Settings of the store, JSON values: 'uuid', 'created', 'config'.
settings = Table("settings", tables, Column("key", Text, primary_key=True), Column("value", Text, nullable=False))

#: One row: the sequence number of the last commit; the layout number, which changes when positions move (compact);
#: the next item row and the next file number. Counters of their own, so that neither is ever given twice, whatever
#: is deleted.
state = Table(
    "state",
    tables,
    Column("one", Integer, primary_key=True),
    Column("seq", Integer, nullable=False),
    Column("layout", Integer, nullable=False),
    Column("next_row", Integer, nullable=False),
    Column("next_file", Integer, nullable=False),
)

spaces = Table(
    "spaces",
    tables,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("encoder", Text, nullable=False),  # registry name, "" for precomputed vectors
    Column("fingerprint", Text, nullable=False),
    Column("dimension", Integer, nullable=False),
    Column("metric", Text, nullable=False),
    Column("is_default", Integer, nullable=False),
    Column("dtype", Text, nullable=False, server_default="float32"),  # of the vectors in its segments
)

segments = Table(
    "segments",
    tables,
    Column("id", Integer, primary_key=True),
    Column("kind", Text, nullable=False),  # 'vec' or 'thumb'
    Column("space", Integer, ForeignKey("spaces.id")),  # NULL for thumbnails
    Column("name", Text, nullable=False, unique=True),
    Column("length", Integer, nullable=False),  # committed: rows of vectors, bytes of thumbnails
)

#: One append. Row numbers of its vectors are first_row, first_row + 1, ... or, where deletions left holes (after
#: compact), the int64 array in ``rows``.
batches = Table(
    "batches",
    tables,
    Column("id", Integer, primary_key=True),
    Column("segment", Integer, ForeignKey("segments.id"), nullable=False, index=True),
    Column("start", Integer, nullable=False),
    Column("count", Integer, nullable=False),
    Column("first_row", Integer, nullable=False),
    Column("rows", BLOB),
    Column("checksum", BLOB, nullable=False),  # BLAKE2b, 16 bytes, of the bytes of the append
    Column("seq", Integer, nullable=False),
)

#: Where items came from, so that a second run can tell which of them are gone.
origins = Table(
    "origins", tables, Column("id", Integer, primary_key=True), Column("scope", Text, nullable=False, unique=True)
)

items = Table(
    "items",
    tables,
    Column("row", Integer, primary_key=True),
    Column("id", Text, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("source", Text),
    Column("origin", Integer, ForeignKey("origins.id")),
    Column("hash", BLOB),
    Column("width", Integer),
    Column("height", Integer),
    Column("thumb_segment", Integer, ForeignKey("segments.id")),
    Column("thumb_start", Integer),
    Column("thumb_length", Integer),
    Column("thumb_format", Text),  # 'raw:HxWxC', or the name of a picture format
    UniqueConstraint("id", name="uq_items_id"),
)
Index("ix_items_origin", items.c.origin)

#: Rows deleted while their vectors still lie in a segment; compact forgets both.
tombstones = Table(
    "tombstones",
    tables,
    Column("row", Integer, primary_key=True),
    Column("seq", Integer, nullable=False, index=True),
)

tiers = Table(
    "tiers",
    tables,
    Column("id", Integer, primary_key=True),
    Column("space", Integer, ForeignKey("spaces.id"), nullable=False),
    Column("name", Text, nullable=False, unique=True),
    Column("first", Integer, nullable=False),  # position of its first vector
    Column("count", Integer, nullable=False),
    Column("factory", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("signature", Text, nullable=False),  # says that this machine's user built it
    Column("tuned", Text, nullable=False),  # JSON: parameters, measured recall with interval, curve
)

directions = Table(
    "directions",
    tables,
    Column("id", Integer, primary_key=True),
    Column("space", Integer, ForeignKey("spaces.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("vector", BLOB, nullable=False),  # float32, little-endian, (d,)
    Column("made", Text, nullable=False),  # JSON: how, of how many items, how well it separates
    UniqueConstraint("space", "name", name="uq_directions_space_name"),
)


def _runs(name: str) -> Table:
    """A table of named, stored runs over a space."""
    return Table(
        name,
        tables,
        Column("id", Integer, primary_key=True),
        Column("space", Integer, ForeignKey("spaces.id"), nullable=False),
        Column("name", Text, nullable=False, unique=True),
        Column("seq", Integer, nullable=False),  # the commit that it was made from
        Column("next_row", Integer, nullable=False),  # items of this row and after were placed into it later
        Column("model", Text, nullable=False),  # fingerprint of the networks that place new items
        Column("is_default", Integer, nullable=False),  # what filters mean by ``cluster``, and drawing by the map
        Column("made", Text, nullable=False),  # JSON: how, its levels and their names
    )


clusterings, maps = _runs("clusterings"), _runs("maps")

#: What a clustering says of an item: its cluster at the finest level, from which the coarser ones follow; -1 is noise.
labels = Table(
    "labels",
    tables,
    Column("row", Integer, ForeignKey("items.row", ondelete="CASCADE"), primary_key=True),
    Column("clustering", Integer, ForeignKey("clusterings.id", ondelete="CASCADE"), primary_key=True),
    Column("leaf", Integer, nullable=False),
    Column("strength", Float, nullable=False),
    sqlite_with_rowid=False,
)
Index("ix_labels_leaf", labels.c.clustering, labels.c.leaf)

#: Where a map puts an item.
places = Table(
    "places",
    tables,
    Column("row", Integer, ForeignKey("items.row", ondelete="CASCADE"), primary_key=True),
    Column("map", Integer, ForeignKey("maps.id", ondelete="CASCADE"), primary_key=True),
    Column("x", Float, nullable=False),
    Column("y", Float, nullable=False),
    sqlite_with_rowid=False,
)
Index("ix_places_map", places.c.map)
