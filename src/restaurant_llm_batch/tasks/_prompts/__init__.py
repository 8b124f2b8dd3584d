"""Prompt texts and JSON schemas of the built-in tasks."""
