"""
Store folder: replies and jobs that many processes keep, each in a log of its own, and that all of them find.

For processes on several machines that share a folder, where an SQLite file would be damaged
(https://sqlite.org/useovernet.html). A process appends to its own log only, and reads those of the others: at the start
all of them, and later what is new, at most once a second. So what a process has paid for is found by the others, also
after its `kill -9`, and by later runs.

An order between entries of different logs does not exist. So a discarded reply is named by its hash, and a job that has
ended by its id, whichever of the two entries is read first.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import socket
import threading
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic, time
from types import TracebackType
from typing import Any, Self, TypeAlias

from .. import _fork
from .._llm_response import LLMResponse
from .._shortage import is_thread_shortage
from .._threads import SignalSafeThread
from ..errors import ConfigurationError, StoreError
from .disks import file_system_of, is_network, is_object_store
from .inflight import InFlightCalls
from .reply_log import LogReader, LogWriter, pack, proof_of
from .rows import MAX_JOB_AGE, decode_reply, encode_reply
from .writer import OnCommit

log = logging.getLogger("restaurant_llm_batch")

SUFFIX = ".replies"
LOOK_SECONDS = 1.0
"""How often the logs of others are looked at, in seconds, while replies are asked for that are not known."""
_REPLY, _DISCARDED, _JOB, _JOB_ENDED = 1, 2, 3, 4
_UNSAFE = re.compile(r"[^A-Za-z0-9.-]+")
_Change: TypeAlias = tuple[int, bytes, OnCommit]


@dataclass(slots=True)
class _Known:
    """What the logs say: where replies are, which were discarded, and the jobs by key."""

    replies: dict[bytes, tuple[LogReader, int, bytes]] = field(default_factory=dict)
    discarded: set[bytes] = field(default_factory=set)
    jobs: dict[bytes, tuple[float, str]] = field(default_factory=dict)
    ended_jobs: set[tuple[bytes, str]] = field(default_factory=set)

    def add(self, reader: LogReader, kind: int, body: bytes, proof: bytes, offset: int) -> None:
        """Take in an entry."""
        size = body[0]
        key, rest = body[1 : 1 + size], body[1 + size :]
        if kind == _REPLY:
            if key + proof not in self.discarded:
                self.replies[key] = reader, offset, proof
        elif kind == _DISCARDED:
            self.discarded.add(key + rest)
            if key in self.replies and self.replies[key][2] == rest:
                del self.replies[key]
        elif kind == _JOB:
            at, job_id = json.loads(rest)
            if (key, job_id) not in self.ended_jobs and at >= self.jobs.get(key, (0.0, ""))[0]:
                self.jobs[key] = at, job_id
        elif kind == _JOB_ENDED:
            job_id = rest.decode("utf-8", "surrogatepass")
            self.ended_jobs.add((key, job_id))
            if self.jobs.get(key, (0.0, ""))[1] == job_id:
                del self.jobs[key]


class StoreFolder:
    """
    A folder of replies, in which many processes of one or several machines keep what they have paid for.

        runner = BatchRunner(llm=..., store=StoreFolder("/mnt/shared/night"))

    Use it in place of a `Store` where processes on different machines share a folder, as on NFS: an SQLite file is
    damaged there. Each process writes a file of its own, and finds the replies of all others within a second or two.
    Threads and runners may share an object; a forked child and a pickled copy write files of their own. Delete the
    folder to delete the replies.

    Args:
        path: The folder. It is created if it does not exist; the folder above it is not.

    Raises:
        ConfigurationError: If `path` is not a path.
    """

    claim_seconds: float = 3 * LOOK_SECONDS
    """Seconds after its commit until a claim is certain: others have read it, and what they have claimed is read."""
    vain: int = 0
    """None are counted: a lookup takes no query."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        given: object = path
        if not isinstance(given, (str, os.PathLike)) or not os.fspath(given) or "\0" in str(given):
            raise ConfigurationError(
                f'a store folder must be the path of a folder, got {path!r}; for example StoreFolder("night")'
            )
        self.path: Path = Path(given).absolute()  # the process may change its working directory
        self.in_flight: InFlightCalls = InFlightCalls()
        self._begin()

    def _begin(self) -> None:
        """Start with nothing open and nothing known."""
        self._forks = _fork.count
        self._lock = threading.RLock()
        self._known = _Known()
        self._readers: dict[str, LogReader] = {}
        self._own: set[str] = set()
        self._looked_at = -LOOK_SECONDS
        self._writer: _Writer | None = None
        self._checked = False

    def open(self) -> None:
        """
        Read what is in the folder, and find any problem with it early.

        Raises:
            ConfigurationError: If it is not a folder, or cannot be written to, or is on a file system in which files
                cannot be appended to.
        """
        with self._lock:
            self._for_process()
            if self._checked:
                return
            self._check()
            self._checked = True
            self._look()

    def _check(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise ConfigurationError(f"store folder {self.path} is a file; name a folder")
        if not self.path.parent.is_dir():
            raise ConfigurationError(
                f"the folder of store folder {self.path} does not exist; create it first"
            )
        with suppress(FileExistsError):
            self.path.mkdir(mode=0o700)
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise ConfigurationError(
                f"store folder {self.path} cannot be written to; let this user write to it"
            )
        system = file_system_of(self.path)
        if is_object_store(system):
            raise ConfigurationError(
                f"store folder {self.path} is on {system}, an object store, in which files cannot be appended to; "
                "use a folder on a disk or on a network file system such as NFS"
            )
        if is_network(system):
            log.info(
                "store folder %s is on %s: each group of replies is written through to it", self.path, system
            )

    def get(self, key: bytes) -> LLMResponse | None:
        """
        Return the reply stored under a key, by any process; None if there is none.

        Raises:
            StoreError: If the folder cannot be read.
        """
        with self._lock:
            self._for_process()
            found = self._known.replies.get(key)
            if found is None:
                self._look()
                found = self._known.replies.get(key)
            if found is None:
                return None
            reader, offset, _ = found
            entry = self._reading(reader.read, offset)
            with suppress(Exception):  # of a damaged entry
                if entry is not None and entry.body[1 : 1 + entry.body[0]] == key:
                    return decode_reply(entry.body[1 + len(key) :])
            log.warning("a reply in %s is damaged, and its call is made again", reader.path)
            del self._known.replies[key]
            return None

    def absent(self, keys: Sequence[bytes]) -> AbstractSet[bytes]:
        """Return nothing: a lookup takes no query, so `get` may be asked for each key."""
        return frozenset()

    def put(self, key: bytes, reply: LLMResponse, on_commit: OnCommit) -> None:
        """Store a reply. Returns at once."""
        try:
            encoded = encode_reply(reply)
        except Exception as error:  # a backend of the user's own may return anything
            on_commit(error)
            return
        self._write(_REPLY, key, encoded, on_commit)

    def discard(self, key: bytes, on_commit: OnCommit) -> None:
        """Forget a reply, for example one that turned out to be unusable. Returns at once."""
        with self._lock:
            found = self._known.replies.pop(key, None)
        if found is None:
            on_commit(None)
            return
        self._write(_DISCARDED, key, found[2], on_commit)

    def record_job(self, key: bytes, backend: str, job_id: str, on_commit: OnCommit) -> None:
        """Record that a job was submitted for a key. Returns at once."""
        self._write(_JOB, key, json.dumps([time(), job_id]).encode(), on_commit)

    def claim_job(self, key: bytes, backend: str, job_id: str, on_commit: OnCommit) -> None:
        """
        Record a job for a key, unless one is recorded. Returns at once.

        Two processes may claim a key before either sees the other's log; `job` says which has it when both have been
        read, after `claim_seconds`.
        """
        if self.job(key) is None:
            self.record_job(key, backend, job_id, on_commit)
        else:
            on_commit(None)

    def delete_job(self, key: bytes, job_id: str, on_commit: OnCommit) -> None:
        """Record that a job of a key has ended. Returns at once."""
        self._write(_JOB_ENDED, key, job_id.encode("utf-8", "surrogatepass"), on_commit)

    def job(self, key: bytes) -> str | None:
        """Return the id of the job that may be running for a key, of any process, or None. Raises as `get` does."""
        with self._lock:
            self._for_process()
            self._look()
            at, job_id = self._known.jobs.get(key, (0.0, ""))
            return job_id if job_id and time() - at < MAX_JOB_AGE else None

    def close(self) -> None:
        """Write what is queued, and close the file. A later use begins another."""
        with self._lock:
            writer, self._writer = self._writer, None
        if writer is not None and self._forks == _fork.count:
            writer.close()

    def _for_process(self) -> None:
        if self._forks != _fork.count:
            self.in_flight = InFlightCalls()
            self._begin()

    def _look(self) -> None:
        """Read what is new in the logs, unless that was done a moment ago."""
        now = monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        for name in self._reading(os.listdir, self.path):
            if not name.endswith(SUFFIX) or name in self._own:
                continue
            reader = self._readers.get(name)
            if reader is None:
                reader = self._readers[name] = LogReader(self.path / name)
            self._reading(self._read, reader)

    def _read(self, reader: LogReader) -> None:
        for entry in reader.new_entries():
            with suppress(Exception):  # of another version, for example
                self._known.add(reader, entry.kind, entry.body, entry.proof, entry.offset)

    def _reading(self, read: Callable[[Any], Any], argument: Any) -> Any:
        try:
            return read(argument)
        except OSError as error:
            raise StoreError(
                f"store folder {self.path} cannot be read: {error.strerror or error}; make it readable and run again"
            ) from error

    def _write(self, kind: int, key: bytes, rest: bytes, on_commit: OnCommit) -> None:
        body = bytes((len(key),)) + key + rest
        with self._lock:
            self._for_process()
            if self._writer is None:
                self._writer = _Writer(self)
            writer = self._writer
        writer.submit((kind, body, on_commit))

    def new_log(self) -> LogWriter:
        """
        Begin a log of this process.

        Raises:
            OSError: It cannot be made.
        """
        host = _UNSAFE.sub("-", socket.gethostname())[:60]
        name = f"{host}-{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
        return LogWriter(self.path / name, syncs=is_network(file_system_of(self.path)))

    def written(self, path: Path, kind: int, body: bytes, offset: int) -> None:
        """Take in an entry that this process has written."""
        with self._lock:
            self._own.add(path.name)
            reader = self._readers.setdefault(path.name, LogReader(path))
            self._known.add(reader, kind, body, proof_of(kind, body), offset)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return StoreFolder, (str(self.path),)

    def __repr__(self) -> str:
        return f"<StoreFolder {str(self.path)!r}>"


class _Writer:
    """A thread that appends what is queued to a log, as much as has gathered at once."""

    def __init__(self, folder: StoreFolder) -> None:
        self._queue: SimpleQueue[_Change | None] = SimpleQueue()
        self._folder = folder
        self._log: LogWriter | None = None
        # A daemon: a change that it has not written was not reported as durable to any caller.
        self._thread = SignalSafeThread(self._run, "restaurant-llm-batch-replies")
        self._started = True
        try:
            self._thread.start()
        except RuntimeError as error:
            if not is_thread_shortage(error):
                raise
            self._started = False

    def submit(self, change: _Change) -> None:
        """Queue a change; if the system starts no more threads, write it in this one."""
        self._queue.put(change)
        if not self._started:
            self._write_group()

    def close(self) -> None:
        """Write what is queued, and end."""
        self._queue.put(None)
        if not self._started:
            self._write_group()
        elif self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while self._write_group():
            pass

    def _write_group(self) -> bool:
        """Write what is queued, waiting for it; return whether more may come."""
        group = [self._queue.get()]
        with suppress(Empty):
            while True:
                group.append(self._queue.get_nowait())
        self._write([change for change in group if change is not None])
        if None not in group:
            return True
        if self._log is not None:
            self._log.close()
            self._log = None
        return False

    def _write(self, changes: list[_Change]) -> None:
        if not changes:
            return
        error: Exception | None = None
        try:
            if self._log is None:
                self._log = self._folder.new_log()
            offsets = self._log.append([pack(kind, body) for kind, body, _ in changes])
            for (kind, body, _), offset in zip(changes, offsets, strict=True):
                self._folder.written(self._log.path, kind, body, offset)
        except OSError as failure:
            reason = failure.strerror or failure
            error = StoreError(
                f"store folder {self._folder.path} cannot be written: {reason}; make room for it and run again"
            )
            error.__cause__ = failure
        for _, _, on_commit in changes:
            try:
                on_commit(error)
            except Exception:
                log.exception("a callback after a commit failed")
