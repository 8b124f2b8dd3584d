"""What stands in a store: its tables, its statements, and how a reply is written down."""

from __future__ import annotations

import json
from dataclasses import fields
from operator import index
from typing import Any

from .._llm_response import LLMReply

APPLICATION_ID = 0x524C4C42
"""Says in an SQLite file's header that it is a store of ours ("RLLB")."""

FORMAT = 1
"""The file's `user_version`. Fields that a reply gains need no other: they are found by name."""

# Rows go to the end of `replies`, and only a small index is written to in many places. `at` stands before the
# reply, so that looking for old rows does not read long answers. `jobs` are few.
TABLES = (
    "CREATE TABLE replies (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, at REAL NOT NULL, reply BLOB NOT NULL)",
    "CREATE TABLE jobs (key BLOB PRIMARY KEY, at REAL NOT NULL, backend TEXT NOT NULL, job_id TEXT NOT NULL)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {FORMAT}",
)

_PUT = "INSERT OR REPLACE INTO replies (key, at, reply) VALUES "
PUT_SIZES = (64, 32, 16, 8, 4, 2, 1)
PUT = {size: _PUT + ", ".join(["(?, ?, ?)"] * size) for size in PUT_SIZES}
"""
Statements for so many replies each.

Not `executemany`: every row would give the interpreter's lock away and wait for it again, for up to 5 ms while
the event loop is busy.
"""

DISCARD = "DELETE FROM replies WHERE key = ?"
NOTE_JOB = "INSERT OR REPLACE INTO jobs (key, at, backend, job_id) VALUES (?, ?, ?, ?)"
FORGET_JOB = "DELETE FROM jobs WHERE key = ? AND job_id = ?"
PURGE = "DELETE FROM replies WHERE id IN (SELECT id FROM replies WHERE at <= ? LIMIT 5000)"
JOBS_LIVE = 8 * 24 * 3600
"""Seconds after which no job is alive: RunPod keeps none for more than a week, and its answer for half an hour."""
_IS_STALE = (
    f"(at <= strftime('%s', 'now') - {JOBS_LIVE} OR EXISTS (SELECT 1 FROM replies WHERE key = jobs.key))"
)
"""Nobody will go on with such a job: it is too old, or its question has an answer."""
PURGE_JOBS = f"DELETE FROM jobs WHERE at <= ? OR {_IS_STALE}"
GET = "SELECT reply FROM replies WHERE key = ?"
JOB = "SELECT job_id FROM jobs WHERE key = ?"
STATS = f"""
SELECT (SELECT count(*) FROM replies),
    (SELECT count(*) FROM jobs WHERE NOT {_IS_STALE}), (SELECT count(*) FROM jobs WHERE {_IS_STALE}),
    (SELECT at FROM replies ORDER BY id LIMIT 1), (SELECT at FROM replies ORDER BY id DESC LIMIT 1)
"""

# What replies are not compared by, such as what was left of a limit at that moment, is no part of an answer.
_FIELDS = tuple(field.name for field in fields(LLMReply) if field.compare)
_write_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=index).encode


def encode_reply(reply: LLMReply) -> bytes:
    """Write a reply down; raise an error of any kind when it is no reply of texts and whole numbers."""
    # A model may answer half a surrogate pair, which SQLite takes for no text.
    return _write_json({name: getattr(reply, name) for name in _FIELDS}).encode("utf-8", "surrogatepass")


def decode_reply(written: bytes) -> LLMReply:
    """Read what `encode_reply` wrote, also in a version with other fields; raise any error if none."""
    read: dict[str, Any] = json.loads(written.decode("utf-8", "surrogatepass"))
    return LLMReply(**{name: read[name] for name in _FIELDS if name in read})
