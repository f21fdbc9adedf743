"""Sources of items: folders of pictures, IDX, NPZ/NPY, CSV/JSONL/Parquet, and Python iterables.

``open.open_reader`` finds the reader for whatever a user names. Picture files are decoded in worker processes
(``workers`` starts them, ``worker`` is what they run, ``decode`` what they do); what is no file is at hand
as arrays (``pieces``).
"""
