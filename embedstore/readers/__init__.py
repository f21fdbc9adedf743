"""Sources of items: folders of pictures, IDX, NPZ/NPY, CSV/JSONL/Parquet, and Python iterables."""
