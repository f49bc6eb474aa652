"""Breaks a node on purpose, from a seed, and holds the books against what was drawn. Never touches a real node."""
