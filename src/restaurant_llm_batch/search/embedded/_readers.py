"""
Readers of an index folder: the lock that keeps writers out meanwhile, and the private view that each reader opens.

Theory of operation. A folder is used by one writer, or by any number of readers. Each holds a lock (`flock`) on the
folder's label file while its engine is open: an exclusive one to write, a shared one to read.

The engine writes to some files of an index as soon as it opens it. So a reader opens a folder of its own, its *view*:

| file of the index | in a view |
|---|---|
| vectors and texts (`LINKED`), which change only if reviews are written | a hard link: all readers share its memory |
| trackers, flags, payload indexes | a copy |
| the configuration | a copy, without a write-ahead log |
| the write-ahead log, which the engine locks | left out |

Views are in ``readers`` in the folder of the index. If there can be no links, a view is a temporary folder of copies.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

from ._folder import label_path, make_private, temporary_folder

log = logging.getLogger("restaurant_llm_batch.search")

LINKED = ("page_*.dat", "chunk_*.mmap")
"""Names of the files that hold vectors and texts."""
_VIEWS = "readers"
_LOG = "wal"
_CONFIG = "edge_config.json"


class FolderLock:
    """
    The lock of an index folder, on its label file. Locks of two objects exclude each other, also in one process.

    Without `flock` (Windows, some network disks) it excludes nobody; the engine's own lock still keeps a second writer
    out.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self._label = label_path(folder)
        self._descriptor: int | None = None

    def acquire(self, *, shared: bool) -> bool:
        """
        Take the lock, or change the one that is held; return whether that was possible at once.

        If it was not, nothing is held afterwards.

        Args:
            shared: Whether others may have a shared lock at the same time.

        Raises:
            OSError: The label file cannot be opened.
        """
        try:
            import fcntl
        except ImportError:  # Windows
            return True
        if self._descriptor is None:
            self._descriptor = _opened(self._label)
        try:
            fcntl.flock(self._descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            return False
        except OSError as error:
            log.debug("the index folder of %s cannot be locked: %s", self._label, error)
        return True

    def release(self) -> None:
        """Release the lock, if it is held."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        import fcntl

        with suppress(OSError):  # explicitly, since a forked child may have a copy of the descriptor
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)  # NFS locks exclusively only what is open for writing
    except PermissionError:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        log.debug("%s is opened for reading only: %s", path, error)
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def make_view(folder: Path, shard: Path) -> Path:
    """
    Return a new view of an index. The caller holds the folder's lock, and deletes the view.

    Args:
        folder: Folder of the index.
        shard: Folder in it with the engine's files.

    Raises:
        OSError: The view cannot be written, not even as a temporary folder.
    """
    try:
        make_private(folder / _VIEWS)
        view = Path(tempfile.mkdtemp(prefix="view-", dir=folder / _VIEWS))
        try:
            _fill(view, shard, link=True)
        except BaseException:
            shutil.rmtree(view, ignore_errors=True)
            raise
    except OSError as error:
        log.debug("the index in %s is copied to be read: %s", folder, error)
        view = temporary_folder()
        try:
            _fill(view, shard, link=False)
        except BaseException:
            shutil.rmtree(view, ignore_errors=True)
            raise
    return view


def drop_views(folder: Path) -> None:
    """Delete the views that killed readers have left. The caller holds the folder's lock alone."""
    shutil.rmtree(folder / _VIEWS, ignore_errors=True)


def _fill(view: Path, shard: Path, *, link: bool) -> None:
    for root, folders, names in os.walk(shard):
        here = Path(root)
        if here == shard and _LOG in folders:
            folders.remove(_LOG)
        target = view / here.relative_to(shard)
        target.mkdir(exist_ok=True)
        for name in names:
            if name == _CONFIG:
                config = json.loads((here / name).read_text(encoding="utf-8"))
                (target / name).write_text(json.dumps({**config, "wal_enabled": False}), encoding="utf-8")
            elif link and any(fnmatch(name, pattern) for pattern in LINKED):
                os.link(here / name, target / name)
            else:
                shutil.copyfile(here / name, target / name)
