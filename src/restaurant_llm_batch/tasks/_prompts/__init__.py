"""Prompt texts and JSON schemas of the built-in tasks. Stores are keyed by them: a changed text is a cache miss."""
