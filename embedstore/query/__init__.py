"""Searching: what a reader sees, which plan answers, and the hits."""
