"""
Tables and views of a record, and the statements that write them.

Every row has an integer id, so that Datasette and other tools can link it. The id of a run is 1, 2, 3 and so on; that
of a row of a run is ``run * 2**32`` plus a number, so the rows of a run stand together, and two processes that write
into one file need not agree on ids. Times are seconds since the run began; the views add them as ISO texts in UTC.

These names are a promise. A new column needs a new table, or a migration as in `_store/rows.py`.
"""

from __future__ import annotations

from .._store.database import FileKind

ID_BITS = 32
"""Bits of the number of a row within its run."""

TABLES = {
    "runs": """CREATE TABLE runs (
  id INTEGER PRIMARY KEY,
  task TEXT NOT NULL,
  model TEXT NOT NULL,
  strategy TEXT NOT NULL,
  settings TEXT NOT NULL,
  version TEXT NOT NULL,
  total INTEGER,
  simulated INTEGER NOT NULL,
  texts INTEGER NOT NULL,
  began TEXT NOT NULL,
  began_unix REAL NOT NULL,
  process INTEGER NOT NULL,
  latest REAL NOT NULL,
  missing INTEGER NOT NULL,
  ended TEXT,
  seconds REAL,
  stopped TEXT,
  succeeded INTEGER,
  failed INTEGER,
  calls INTEGER,
  retries INTEGER,
  rate_limited INTEGER,
  cache_hits INTEGER,
  prompt_tokens INTEGER,
  completion_tokens INTEGER,
  cached_tokens INTEGER,
  cost REAL,
  estimated_cost REAL
)""",
    "items": """CREATE TABLE items (
  id INTEGER PRIMARY KEY,
  run INTEGER NOT NULL REFERENCES runs (id),
  place INTEGER NOT NULL,
  item_id TEXT,
  item_json TEXT NOT NULL,
  started REAL,
  ended REAL,
  outcome TEXT,
  stage TEXT,
  attempts INTEGER,
  error_type TEXT,
  error TEXT
)""",
    "calls": """CREATE TABLE calls (
  id INTEGER PRIMARY KEY,
  run INTEGER NOT NULL REFERENCES runs (id),
  item INTEGER REFERENCES items (id),
  prompt INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  stage TEXT NOT NULL,
  label TEXT NOT NULL,
  model TEXT,
  queued REAL NOT NULL,
  started REAL NOT NULL,
  ended REAL,
  slot_seconds REAL NOT NULL,
  rate_seconds REAL NOT NULL,
  retry_seconds REAL NOT NULL,
  slots INTEGER NOT NULL,
  outcome TEXT,
  prompt_tokens INTEGER,
  completion_tokens INTEGER,
  cached_tokens INTEGER,
  cost REAL,
  finish_reason TEXT,
  error_type TEXT,
  status INTEGER,
  error TEXT,
  store_key BLOB
)""",
    "limits": """CREATE TABLE limits (
  id INTEGER PRIMARY KEY,
  run INTEGER NOT NULL REFERENCES runs (id),
  limiter TEXT NOT NULL,
  seconds REAL NOT NULL,
  calls_in_flight INTEGER NOT NULL,
  reason TEXT NOT NULL
)""",
    "limiters": """CREATE TABLE limiters (
  id INTEGER PRIMARY KEY,
  run INTEGER NOT NULL REFERENCES runs (id),
  limiter TEXT NOT NULL,
  seconds REAL NOT NULL,
  most INTEGER,
  in_use INTEGER,
  waiting INTEGER NOT NULL,
  retrying INTEGER NOT NULL,
  peak INTEGER
)""",
    "server_loads": """CREATE TABLE server_loads (
  id INTEGER PRIMARY KEY,
  run INTEGER NOT NULL REFERENCES runs (id),
  server TEXT NOT NULL,
  seconds REAL NOT NULL,
  running INTEGER,
  waiting INTEGER,
  kv_usage REAL,
  kv_tokens INTEGER,
  preemptions INTEGER,
  rejections INTEGER,
  error TEXT
)""",
    "run_memory": """CREATE TABLE run_memory (
  id INTEGER PRIMARY KEY,
  run INTEGER NOT NULL REFERENCES runs (id),
  peak_memory_mib REAL,
  out_of_memory INTEGER NOT NULL,
  out_of_memory_by_kind TEXT NOT NULL
)""",
    "wishes": """CREATE TABLE wishes (
  id INTEGER PRIMARY KEY,
  run INTEGER NOT NULL REFERENCES runs (id),
  name TEXT NOT NULL,
  value TEXT NOT NULL,
  made TEXT NOT NULL,
  answered TEXT,
  done INTEGER,
  answer TEXT
)""",
    "prompts": """CREATE TABLE prompts (
  id INTEGER PRIMARY KEY,
  run INTEGER NOT NULL REFERENCES runs (id),
  messages TEXT NOT NULL,
  max_tokens INTEGER,
  temperature REAL,
  form TEXT
)""",
    "answers": """CREATE TABLE answers (
  id INTEGER PRIMARY KEY REFERENCES calls (id),
  run INTEGER NOT NULL REFERENCES runs (id),
  text TEXT NOT NULL
)""",
    "reviews": """CREATE TABLE reviews (
  id INTEGER PRIMARY KEY,
  run INTEGER NOT NULL REFERENCES runs (id),
  prompt INTEGER NOT NULL REFERENCES prompts (id),
  part TEXT NOT NULL,
  place INTEGER NOT NULL,
  shown_as TEXT,
  review_id TEXT,
  review_json TEXT,
  content TEXT NOT NULL
)""",
    "results": """CREATE TABLE results (
  id INTEGER PRIMARY KEY REFERENCES items (id),
  run INTEGER NOT NULL REFERENCES runs (id),
  result TEXT NOT NULL
)""",
    "call_endpoints": """CREATE TABLE call_endpoints (
  id INTEGER PRIMARY KEY REFERENCES calls (id),
  run INTEGER NOT NULL REFERENCES runs (id),
  endpoint TEXT NOT NULL
)""",
    "batched_calls": """CREATE TABLE batched_calls (
  id INTEGER PRIMARY KEY REFERENCES calls (id),
  run INTEGER NOT NULL REFERENCES runs (id)
)""",
}
"""The SQL of each table, as SQLite keeps it in the file."""

INDEXES = {
    "reviews_by_prompt": "CREATE INDEX reviews_by_prompt ON reviews (prompt)",
    "open_wishes": "CREATE INDEX open_wishes ON wishes (id) WHERE answered IS NULL",
}
"""The SQL of each index: for texts, and for the few wishes that are not answered yet."""
LATER = {
    "limiters",
    "wishes",
    "open_wishes",
    "call_endpoints",
    "server_loads",
    "run_memory",
    "batched_calls",
}
"""What the first records do not have. They can be read all the same; writing into one adds it."""


def _at(column: str) -> str:
    return f"strftime('%Y-%m-%dT%H:%M:%fZ', runs.began_unix + {column}, 'unixepoch')"


VIEWS = {
    "run_overview": """CREATE VIEW run_overview AS SELECT runs.id AS run, task, model, began, ended,
  CASE WHEN ended IS NULL THEN 'no end' WHEN stopped IS NULL THEN 'done' ELSE 'stopped' END AS state, stopped,
  coalesce(seconds, latest) AS seconds, total,
  coalesce(succeeded, (SELECT count(*) FROM items WHERE items.run = runs.id
    AND items.id BETWEEN runs.id << 32 AND (runs.id + 1) << 32 AND outcome = 'succeeded')) AS succeeded,
  coalesce(failed, (SELECT count(*) FROM items WHERE items.run = runs.id
    AND items.id BETWEEN runs.id << 32 AND (runs.id + 1) << 32 AND outcome = 'failed')) AS failed,
  cost, missing, simulated
  FROM runs""",
    "item_overview": f"""CREATE VIEW item_overview AS SELECT items.id, items.run, runs.task, place, item_id,
  {_at("items.started")} AS started_at, {_at("items.ended")} AS ended_at,
  items.ended - items.started AS seconds, outcome, stage, attempts, error_type, error
  FROM items JOIN runs ON runs.id = items.run""",  # nosec B608 (constants)
    "call_overview": f"""CREATE VIEW call_overview AS SELECT calls.id, calls.run, items.item_id, calls.stage, label,
  attempt, calls.model, {_at("calls.queued")} AS queued_at, {_at("calls.started")} AS started_at,
  {_at("calls.ended")} AS ended_at, calls.ended - calls.started AS seconds, slot_seconds, rate_seconds, retry_seconds,
  calls.outcome, calls.prompt_tokens, calls.completion_tokens, calls.cached_tokens, calls.cost, finish_reason,
  calls.error_type, status, calls.error, endpoint, batched_calls.id IS NOT NULL AS batched
  FROM calls JOIN runs ON runs.id = calls.run LEFT JOIN items ON items.id = calls.item
  LEFT JOIN call_endpoints ON call_endpoints.id = calls.id
  LEFT JOIN batched_calls ON batched_calls.id = calls.id""",  # nosec B608 (constants)
    "limit_overview": f"""CREATE VIEW limit_overview AS SELECT limits.id, limits.run, limiter,
  {_at("limits.seconds")} AS changed_at, limits.seconds, calls_in_flight, reason
  FROM limits JOIN runs ON runs.id = limits.run""",  # nosec B608 (constants)
    "server_overview": """CREATE VIEW server_overview AS SELECT run, server, count(running) AS readings,
  sum(running IS NULL) AS failed_readings, max(running) AS peak_running, max(waiting) AS peak_waiting,
  max(kv_usage) AS peak_kv_usage, max(kv_tokens) AS kv_tokens, coalesce(sum(preemptions), 0) AS preemptions,
  coalesce(sum(rejections), 0) AS rejections
  FROM server_loads GROUP BY run, server""",
    "text_overview": """CREATE VIEW text_overview AS SELECT calls.id, calls.run, items.item_id, label, attempt,
  messages, answers.text AS answer
  FROM calls JOIN prompts ON prompts.id = calls.prompt LEFT JOIN answers ON answers.id = calls.id
  LEFT JOIN items ON items.id = calls.item""",
}
"""The SQL of each view."""

RECORD = FileKind("record", "night.db", "the record", {**TABLES, **INDEXES}, VIEWS)

COLUMNS: dict[str, tuple[str, ...]] = {
    name: tuple(line.split()[0] for line in statement.splitlines()[1:-1])
    for name, statement in TABLES.items()
}
"""The columns of each table, in order."""
