"""Engine of an index folder: opened to write, by one object at a time, or to read, by many; and closed again."""

from __future__ import annotations

import os
import shutil
import weakref
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

from ... import _fork
from ...errors import BatchError, ConfigurationError, PermanentBackendError
from ...protocols import Embedder
from ._folder import (
    check_folder,
    check_space,
    folder_error,
    in_use_error,
    make_private,
    shortage_error,
    tighten,
    write_label,
)
from ._point_ids import NUMBERS, UUIDS, PointIds
from ._readers import FolderLock, drop_views, make_view

if TYPE_CHECKING:
    from qdrant_edge import EdgeConfig, EdgeShard

READER_SECONDS = 10.0
"""Seconds that a reader waits for a writer, or for the reader that came first, before it gives up."""
_SHARD = "shard"
_POLL_SECONDS = 0.05


class EngineFolder:
    """
    The engine's files in the folder of an index.

    Args:
        folder: Folder of the index.
        embedder: Embedder whose name and vector size the index has.
        temporary: Whether the folder is used by this object alone; it then has no write-ahead log.
        read_only: Whether the engine is opened to read. Others may read at the same time, and nobody writes.

    Attributes:
        ids: The ids of its points, as it was opened last.
    """

    def __init__(self, folder: Path, embedder: Embedder, *, temporary: bool, read_only: bool) -> None:
        self.read_only = read_only
        self.ids: PointIds = NUMBERS
        self._folder = folder
        self._shard = folder / _SHARD
        self._embedder = embedder
        self._temporary = temporary
        self._lock = FolderLock(folder)
        self._drop_view: weakref.finalize[..., EngineFolder] | None = None

    def open(self) -> EdgeShard:
        """
        Open the engine.

        Raises:
            ConfigurationError: If Qdrant Edge is not installed, or the folder holds something else.
            BackendError: If the folder is in use, or cannot be opened.
        """
        try:
            import qdrant_edge  # noqa: F401
        except ImportError as error:
            raise ConfigurationError(
                "EmbeddedSearch needs Qdrant Edge; install it with: pip install qdrant-edge-py"
            ) from error
        # Check again: another process may have created the folder since the constructor's check.
        folder_format = check_folder(self._folder, self._embedder.name)
        self.ids = UUIDS if folder_format == 1 else NUMBERS
        try:
            return self._open_to_read() if self.read_only else self._open_to_write()
        except Exception as error:
            self._release()
            raise folder_error(self._folder, error) from error

    def close(self, engine: EdgeShard) -> None:
        """Flush what was written, close the engine, and let others use the folder."""
        try:
            if not self.read_only:
                engine.flush()
            engine.close()
        except Exception as error:
            raise engine_error(error) from error
        finally:
            self._release()
        self.tighten()

    def tighten(self) -> None:
        """Let only the owner read the engine's files."""
        if not self.read_only:
            tighten(self._shard)

    def _release(self) -> None:
        drop_view, self._drop_view = self._drop_view, None
        if drop_view is not None:
            drop_view()
        self._lock.release()

    def _open_to_write(self) -> EdgeShard:
        if not self._shard.exists():
            check_space(self._folder, 0)
            write_label(self._folder, self._embedder.name)
        if not self._temporary:
            if not self._lock.acquire(shared=False):
                raise in_use_error(self._folder)
            drop_views(self._folder)
        engine = self._load(self._shard) if self._shard.exists() else self._create()
        _index_fields(engine)
        self.tighten()
        return engine

    def _open_to_read(self) -> EdgeShard:
        late = monotonic() + READER_SECONDS
        while not self._lock_to_read():
            if monotonic() > late:
                raise in_use_error(self._folder)
            sleep(_POLL_SECONDS)
        view = make_view(self._folder, self._shard)
        self._drop_view = weakref.finalize(self, _delete, view, _fork.count)
        return self._load(view)

    def _lock_to_read(self) -> bool:
        # What a killed writer has left in the write-ahead log is applied by the reader that comes first.
        if self._lock.acquire(shared=False) and os.access(self._shard, os.W_OK):
            drop_views(self._folder)
            engine = self._load(self._shard, logged=True)
            _index_fields(engine)
            engine.flush()
            engine.close()
        return self._lock.acquire(shared=True)

    def _load(self, folder: Path, *, logged: bool | None = None) -> EdgeShard:
        from qdrant_edge import EdgeShard

        return EdgeShard.load(str(folder), self._config(logged))

    def _create(self) -> EdgeShard:
        from qdrant_edge import EdgeShard

        make_private(self._shard)
        try:
            return EdgeShard.create(str(self._shard), self._config())
        except Exception:
            # A half-made shard could never be opened again.
            shutil.rmtree(self._shard, ignore_errors=True)
            raise

    def _config(self, logged: bool | None = None) -> EdgeConfig:
        from qdrant_edge import Distance, EdgeConfig, EdgeSparseVectorParams, EdgeVectorParams, Modifier

        return EdgeConfig(
            vectors={"dense": EdgeVectorParams(self._embedder.size, Distance.Cosine)},
            sparse_vectors={"sparse": EdgeSparseVectorParams(modifier=Modifier.Idf)},
            # In the calling thread: a search takes less time than handing it to threads of the engine.
            max_search_threads=1,
            # The write-ahead log also locks the folder, so only one that nobody else uses can do without it.
            wal_enabled=not (self._temporary or self.read_only) if logged is None else logged,
        )


def _delete(view: Path, forks: int) -> None:
    if forks == _fork.count:  # not in a forked child, whose parent reads on
        shutil.rmtree(view, ignore_errors=True)


def _index_fields(engine: EdgeShard) -> None:
    """Create the payload indexes that are missing, also in a folder of an older version or after a crash."""
    from qdrant_edge import IntegerIndexParams, KeywordIndexParams, UpdateOperation

    existing = engine.info().payload_schema
    if "restaurant" not in existing:
        tenant = KeywordIndexParams(is_tenant=True)
        engine.update(UpdateOperation.create_field_index("restaurant", tenant))
    if "restaurant_id" not in existing:
        number = IntegerIndexParams(lookup=True, range=False)
        engine.update(UpdateOperation.create_field_index("restaurant_id", number))
    if "category" not in existing:
        engine.update(UpdateOperation.create_field_index("category", KeywordIndexParams()))


def engine_error(error: Exception) -> BatchError:
    """Return this library's error for one of the engine."""
    shortage = shortage_error("the index", error)
    if shortage is not None:
        return shortage
    return PermanentBackendError(f"the search engine failed: {error}", backend="embedded")
