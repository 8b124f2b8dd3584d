"""Index folder of `EmbeddedSearch`: label file with format and embedder, checks, and errors."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from ...errors import (
    BackendError,
    BatchError,
    ConfigurationError,
    PermanentBackendError,
    TransientBackendError,
)

FORMAT = 2
"""The format of new folders; in those of format 1, which are used as they are, the ids of points are UUIDs."""
_FORMATS = (1, FORMAT)
_RESERVE = 32 * 2**20
"""Bytes that must stay free on the disk: the engine allocates its files in pieces of 32 MB."""


def write_label(folder: Path, embedder: str) -> None:
    """Create a folder that only its owner may read, and write the label with the name of its embedder."""
    make_private(folder)
    label = {"format": FORMAT, "embedder": embedder}
    flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC
    with os.fdopen(os.open(label_path(folder), flags, 0o600), "w", encoding="utf-8") as file:
        file.write(json.dumps(label))


def make_private(folder: Path) -> None:
    """Create a folder, and those above it, for their owner only (mode 0700); a folder that exists keeps its mode."""
    if not folder.is_dir():
        make_private(folder.parent)
        with suppress(FileExistsError):  # another process
            folder.mkdir(mode=0o700)


def tighten(folder: Path) -> None:
    """
    Let only the owner read the files in a private folder, for when they are copied out of it.

    The engine makes them for everyone. As long as they are in the folder, its mode protects them. A folder that others
    may read, because a user has made it so, is left as it is.
    """
    with suppress(OSError):
        if folder.stat().st_mode & 0o077:
            return
    for root, _, names in os.walk(folder):
        for path, mode in ((root, 0o700), *((f"{root}/{name}", 0o600) for name in names)):
            with suppress(OSError):  # the engine deletes what it has merged
                Path(path).chmod(mode)


def label_path(folder: Path) -> Path:
    """Return the path of the label file."""
    return folder / "restaurant_llm_batch.json"


def check_folder(folder: Path, embedder: str) -> int:
    """
    Check that a folder does not exist, is empty, or is an index of this embedder; return its format.

    Args:
        folder: The folder.
        embedder: Name of the embedder to use with it.

    Raises:
        ConfigurationError: If it holds other files, or an index of another embedder or format.
        PermanentBackendError: If it or its label cannot be read.
    """
    try:
        if not folder.exists():
            return FORMAT
        if not folder.is_dir():
            raise ConfigurationError(f"path {str(folder)!r} is a file: name a folder")
        if not label_path(folder).exists():
            if any(folder.iterdir()):
                raise ConfigurationError(
                    f"path {str(folder)!r} holds other files: name a new or empty folder"
                )
            return FORMAT
        label = json.loads(label_path(folder).read_text(encoding="utf-8"))
        index_format, name = label["format"], label["embedder"]
    except ConfigurationError:
        raise
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise folder_error(folder, error) from error
    if index_format not in _FORMATS:
        raise ConfigurationError(
            f"path {str(folder)!r} has the index format {index_format!r}, not {FORMAT}: "
            "index the reviews again into a new folder"
        )
    if name != embedder:
        raise ConfigurationError(
            f"path {str(folder)!r} was indexed with the embedder {name!r}, not {embedder!r}: "
            "pass that embedder, or index the reviews again into a new folder"
        )
    return int(index_format)


def require_folder(folder: Path) -> None:
    """
    Check that an index folder exists, before reading from it.

    Raises:
        ConfigurationError: If it does not; the message says how to create it.
        PermanentBackendError: If that cannot be seen.
    """
    try:
        exists = folder.exists()
    except OSError as error:
        raise folder_error(folder, error) from error
    if not exists:
        raise ConfigurationError(
            f"there is no index at path {str(folder)!r}: index reviews into it first, with "
            f"EmbeddedSearch({str(folder)!r}).index_reviews(...) or "
            f"`restaurant-llm-batch index FILE --into {shlex.quote(str(folder))}`"
        )


def temporary_folder() -> Path:
    """
    Create a temporary folder.

    Raises:
        PermanentBackendError: If the folder of temporary files cannot be written.
    """
    try:
        return Path(tempfile.mkdtemp(prefix="restaurant-llm-batch-"))
    except OSError as error:
        raise shortage_error("the temporary folder of the index", error) or PermanentBackendError(
            f"the index needs a temporary folder: set TMPDIR to one that can be written, or pass path= ({error})",
            backend="embedded",
        ) from error


def check_space(folder: Path, needed: int) -> None:
    """
    Check that the disk of a folder has room, before the engine writes to it.

    The engine maps its files into memory: on a full disk it would not fail but end the process (SIGBUS).

    Args:
        folder: The folder; it or one above it exists.
        needed: Bytes that are to be written, roughly.

    Raises:
        PermanentBackendError: If less than these and a reserve are free.
    """
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        total, _, free = shutil.disk_usage(folder)
    except OSError:
        return
    if total and free < needed + _RESERVE:
        raise PermanentBackendError(
            f"the disk of the index in {str(folder)!r} is full: {free >> 20} MB are free, and "
            f"{(needed + _RESERVE) >> 20} MB are needed. Free some space, or name a folder on another disk",
            backend="embedded",
        )


def folder_error(folder: Path, error: Exception) -> BatchError:
    """Return the error for a folder that the engine cannot open."""
    if isinstance(error, BatchError):
        return error
    shortage = shortage_error(f"the index in {str(folder)!r}", error)
    if shortage is not None:
        return shortage
    if "WouldBlock" in str(error):
        return in_use_error(folder)
    text = f"cannot be opened; it was left as it is. Restore it, or index into a new folder ({error})"
    return PermanentBackendError(f"the index in {str(folder)!r} {text}", backend="embedded")


def in_use_error(folder: Path) -> BatchError:
    """Return the error for a folder that others write to, or read while this object wants to write."""
    return PermanentBackendError(
        f"the index in {str(folder)!r} is in use by another process or object: close() it there, open it everywhere "
        "with read_only=True if nobody writes, give each process a folder of its own, or use QdrantSearch(url=...), "
        "whose server all processes share",
        backend="embedded",
    )


def shortage_error(what: str, error: Exception) -> BackendError | None:
    """
    Return the error for a shortage of this machine, such as a full disk; None if the error is another one.

    Args:
        what: What was used, at the start of the message.
        error: An `OSError`, or the engine's error, which holds the system's code in its text.
    """
    found = re.search(r"\bcode: ([0-9]+)|\(os error ([0-9]+)\)", str(error))
    code = error.errno if isinstance(error, OSError) else int(found[1] or found[2]) if found else None
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        text = "cannot be written, since the disk is full: free some space, or name a folder on another disk"
    elif code in (errno.EACCES, errno.EPERM, errno.EROFS):
        text = "cannot be written or read: give this user access to it, or name another folder"
    elif code in (errno.ENOENT, errno.ENOTDIR):
        text = "cannot be created there: name a folder in one that exists"
    elif code in (errno.EMFILE, errno.ENFILE):
        message = f"{what} cannot be opened now, since too many files are open: raise the limit (ulimit -n)"
        return TransientBackendError(f"{message} ({error})", backend="embedded")
    else:
        return None
    return PermanentBackendError(f"{what} {text} ({error})", backend="embedded")
