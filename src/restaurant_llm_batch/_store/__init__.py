"""Stored replies, in-flight calls and job ids: one SQLite file that outlives a run."""
