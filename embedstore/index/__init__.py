"""NumPy in, FAISS out: exact scans, building a tier, tuning it to a recall target."""
