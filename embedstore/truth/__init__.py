"""The store's truth on disk: what a reader sees, the commit, and the tiers derived from it.

Here rows and files meet: ``metadata`` knows no file, ``vectors`` knows no row.
"""
