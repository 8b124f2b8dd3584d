"""
Rows of the store: SQL schema, statements, serialization of replies, and the proof in each row.

Every row carries a proof, a BLAKE2b hash of what the row says and of the key that it is found by. So a bit that
flipped on the disk, an index entry that leads to another row, and a row that another program wrote are noticed: the row
does not verify. A proof is no signature: it is keyed by nothing secret.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from hashlib import blake2b
from operator import index
from typing import Any

from .._llm_response import LLMResponse

APPLICATION_ID = 0x524C4C42
"""Marks an SQLite file as a store in its header ("RLLB")."""

FORMAT = 2
"""The file's `user_version`. A new field of a reply does not need a new format: fields are read by name."""

# Rows are appended to `replies`; only a small index is written to in random places. `at` comes before the reply, so
# that a search for old rows does not read long replies. There are few `jobs`.
_OLD_TABLES = {
    "replies": "CREATE TABLE replies (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, at REAL NOT NULL, "
    "reply BLOB NOT NULL)",
    "jobs": "CREATE TABLE jobs (key BLOB PRIMARY KEY, at REAL NOT NULL, backend TEXT NOT NULL, job_id TEXT NOT NULL)",
}
_NEW_TABLES = {name: f"{table[:-1]}, proof BLOB)" for name, table in _OLD_TABLES.items()}
SCHEMAS = {1: _OLD_TABLES, FORMAT: _NEW_TABLES}
"""The SQL of both tables by format, as SQLite keeps it in the file. A table of format 2 also is what 1 is made to."""

CREATE = (
    *_NEW_TABLES.values(),
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {FORMAT}",
)

MIGRATE = (
    *(f"ALTER TABLE {name} ADD COLUMN proof BLOB" for name in _OLD_TABLES),
    "UPDATE replies SET proof = proof_of_reply(CAST(key AS BLOB), CAST(reply AS BLOB))",
    "UPDATE jobs SET proof = proof_of_job(CAST(key AS BLOB), CAST(backend AS BLOB), CAST(job_id AS BLOB))",
    f"PRAGMA user_version = {FORMAT}",
)
"""Give every row of format 1 its proof, with the functions of `MIGRATION_FUNCTIONS`, in one transaction."""

REPLY_COLUMNS = 4
_PUT = "INSERT OR REPLACE INTO replies (key, at, reply, proof) VALUES "
PUT_SIZES = (64, 32, 16, 8, 4, 2, 1)
PUT = {size: _PUT + ", ".join(["(?, ?, ?, ?)"] * size) for size in PUT_SIZES}
"""
Statements by the number of replies that each inserts.

Not `executemany`: it releases the GIL for every row and waits for it again, for up to 5 ms while the event loop is
busy.
"""

DISCARD = "DELETE FROM replies WHERE key = ?"
DISCARD_DAMAGED = "DELETE FROM replies WHERE key = ?1 AND (proof IS ?2 OR CAST(proof AS BLOB) IS ?2)"
"""Only the row with the proof that was read: a repair may have put a whole one in its place."""
RECORD_JOB = "INSERT OR REPLACE INTO jobs (key, at, backend, job_id, proof) VALUES (?, ?, ?, ?, ?)"
CLAIM_JOB = "INSERT OR IGNORE INTO jobs (key, at, backend, job_id, proof) VALUES (?, ?, ?, ?, ?)"
DELETE_JOB = "DELETE FROM jobs WHERE key = ? AND job_id = ?"
DELETE_JOBS = "DELETE FROM jobs WHERE key = ?"
PURGE = "DELETE FROM replies WHERE id IN (SELECT id FROM replies WHERE at <= ? LIMIT 5000)"
MAX_JOB_AGE = 8 * 24 * 3600
"""Seconds after which no job is running: RunPod keeps a job for at most a week, and its reply for half an hour."""
_IS_STALE = (
    "(at <= strftime('%s', 'now') - "
    f"{MAX_JOB_AGE} OR EXISTS (SELECT 1 FROM replies WHERE key = jobs.key))"  # nosec B608 (a constant)
)
"""No run will resume such a job: it is too old, or its request has a reply."""
PURGE_JOBS = f"DELETE FROM jobs WHERE at <= ? OR {_IS_STALE}"  # nosec B608 (constants)
GET = "SELECT reply, proof, id FROM replies WHERE key = ?"
PRESENT_SIZES = (4, 16, 64)
PRESENT = {
    size: f"SELECT key FROM replies WHERE key IN ({', '.join('?' * size)})"  # nosec B608 (constants)
    for size in PRESENT_SIZES
}
"""Statements by the number of keys that each looks for; it reads the index only."""
GET_BEHIND = "SELECT id, key, reply, proof FROM replies WHERE id > ? ORDER BY id LIMIT ?"
JOB = "SELECT backend, job_id, proof FROM jobs WHERE key = ?"
STATS = f"""
SELECT (SELECT count(*) FROM replies),
    (SELECT count(*) FROM jobs WHERE NOT {_IS_STALE}), (SELECT count(*) FROM jobs WHERE {_IS_STALE}),
    (SELECT at FROM replies ORDER BY id LIMIT 1), (SELECT at FROM replies ORDER BY id DESC LIMIT 1)
"""  # nosec B608 (constants)

PROOF_SIZE = 8
"""Bytes of a proof: random damage passes for whole once in 10**19 times."""

_WITH_GIL = 2047
"""Bytes that hashlib hashes without releasing the GIL; see `keys.py`."""


def proof_of_reply(key: bytes, reply: bytes) -> bytes:
    """Return the proof of a serialized reply under a key, in about 2 microseconds."""
    # Serialized replies contain no zero byte, so no other reply and key make the same bytes.
    if len(reply) < _WITH_GIL - len(key):
        return blake2b(b"".join((reply, b"\0", key)), digest_size=PROOF_SIZE).digest()
    digest = blake2b(digest_size=PROOF_SIZE)
    for start in range(0, len(reply), _WITH_GIL):
        digest.update(reply[start : start + _WITH_GIL])
    digest.update(b"\0%b" % key)
    return digest.digest()


def proof_of_job(key: bytes, backend: bytes, job_id: bytes) -> bytes:
    """Return the proof of a job under a key."""
    framed = b"".join(b"%d %b" % (len(part), part) for part in (key, backend, job_id))
    return blake2b(framed, digest_size=PROOF_SIZE).digest()


# Fields that replies are not compared by, such as the rate-limit headers of the moment, are not stored.
_FIELDS = tuple(field.name for field in fields(LLMResponse) if field.compare)
_write_text = json.encoder.encode_basestring
_read_json: Callable[[str, int], tuple[Any, int]] = vars(json.JSONDecoder())["scan_once"]  # no blanks around


def encode_reply(reply: LLMResponse) -> bytes:
    """Serialize a reply to JSON; raise any exception if it is not a reply of texts and whole numbers."""
    # Not json.dumps, which takes several times as long. Bytes, since a reply may contain half a surrogate pair, which
    # SQLite does not accept as text.
    return (
        f'{{"text":{_write_text(reply.text)},"finish_reason":{_write_text(reply.finish_reason)},'
        f'"prompt_tokens":{index(reply.prompt_tokens)},"completion_tokens":{index(reply.completion_tokens)},'
        f'"model":{_write_text(reply.model)},"cached_tokens":{index(reply.cached_tokens)}}}'
    ).encode("utf-8", "surrogatepass")


def decode_reply(written: bytes) -> LLMResponse:
    """Parse the bytes of `encode_reply`, also of a version with other fields; raise any exception if invalid."""
    read: dict[str, Any] = _read_json(written.decode("utf-8", "surrogatepass"), 0)[0]
    try:
        # By position: a call with the names of a dict takes twice as long.
        return LLMResponse(
            read["text"],
            read["finish_reason"],
            read["prompt_tokens"],
            read["completion_tokens"],
            read["model"],
            read["cached_tokens"],
        )
    except (KeyError, TypeError):
        return LLMResponse(**{name: read[name] for name in _FIELDS if name in read})


def read_reply(key: bytes, reply: object, proof: object) -> LLMResponse | None:
    """Return the reply of a row that was found by `key`; None if the row does not verify or cannot be read."""
    if type(reply) is not bytes or proof != proof_of_reply(key, reply):
        return None
    try:
        return decode_reply(reply)
    except Exception:  # deep JSON, for example, in a row that was damaged before it got its proof
        return None


def read_job(key: bytes, backend: object, job_id: object, proof: object) -> str | None:
    """Return the job id of a row that was found by `key`, read as bytes; None if the row does not verify."""
    if type(backend) is not bytes or type(job_id) is not bytes or proof != proof_of_job(key, backend, job_id):
        return None
    return job_id.decode("utf-8", "replace")


def _proof_of_old_reply(key: bytes | None, reply: bytes | None) -> bytes | None:
    """Return the proof of a reply that has none yet; None, so that it never verifies, if it cannot be read."""
    if key is None or reply is None:
        return None
    try:
        read = decode_reply(reply)
        encode_reply(read)  # raises for a text or a number of another type
    except Exception:
        return None
    return proof_of_reply(key, reply)


def _proof_of_old_job(key: bytes | None, backend: bytes | None, job_id: bytes | None) -> bytes | None:
    return None if key is None or backend is None or job_id is None else proof_of_job(key, backend, job_id)


MIGRATION_FUNCTIONS: tuple[tuple[str, int, Callable[..., bytes | None]], ...] = (
    ("proof_of_reply", 2, _proof_of_old_reply),
    ("proof_of_job", 3, _proof_of_old_job),
)
