"""Hybrid search, whichever engine does the ranking."""
