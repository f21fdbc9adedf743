"""Segment files: immutable, append-only vectors and thumbnails that the database names."""
