"""Index folder of `EmbeddedSearch`: label file with format and embedder, checks, and errors."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from ...errors import BatchError, ConfigurationError, PermanentBackendError

FORMAT = 1


def write_label(folder: Path, embedder: str) -> None:
    """Create a folder, and write the label with the name of its embedder."""
    folder.mkdir(parents=True, exist_ok=True)
    label = {"format": FORMAT, "embedder": embedder}
    _label_path(folder).write_text(json.dumps(label), encoding="utf-8")


def _label_path(folder: Path) -> Path:
    return folder / "restaurant_llm_batch.json"


def check_folder(folder: Path, embedder: str) -> None:
    """
    Check that a folder does not exist, is empty, or is an index of this embedder.

    Args:
        folder: The folder.
        embedder: Name of the embedder to use with it.

    Raises:
        ConfigurationError: If it holds other files, or an index of another embedder or format.
        PermanentBackendError: If its label cannot be read.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigurationError(f"path {str(folder)!r} is a file: name a folder")
    if not _label_path(folder).exists():
        if any(folder.iterdir()):
            raise ConfigurationError(f"path {str(folder)!r} holds other files: name a new or empty folder")
        return
    try:
        label = json.loads(_label_path(folder).read_text(encoding="utf-8"))
        index_format, name = label["format"], label["embedder"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise folder_error(folder, error) from error
    if index_format != FORMAT:
        raise ConfigurationError(
            f"path {str(folder)!r} has the index format {index_format!r}, not {FORMAT}: "
            "index the reviews again into a new folder"
        )
    if name != embedder:
        raise ConfigurationError(
            f"path {str(folder)!r} was indexed with the embedder {name!r}, not {embedder!r}: "
            "pass that embedder, or index the reviews again into a new folder"
        )


def require_folder(folder: Path) -> None:
    """
    Check that an index folder exists, before reading from it.

    Raises:
        ConfigurationError: If it does not; the message says how to create it.
    """
    if not folder.exists():
        raise ConfigurationError(
            f"there is no index at path {str(folder)!r}: index reviews into it first, with "
            f"EmbeddedSearch({str(folder)!r}).index_reviews(...) or "
            f"`restaurant-llm-batch index FILE --into {shlex.quote(str(folder))}`"
        )


def folder_error(folder: Path, error: Exception) -> BatchError:
    """Return the error for a folder that the engine cannot open."""
    if isinstance(error, BatchError):
        return error
    if "WouldBlock" in str(error):
        text = "is in use by another process or object: close it there, or name another folder"
    else:
        text = "cannot be opened; it was left as it is. Restore it, or index into a new folder"
    message = f"the index in {str(folder)!r} {text} ({error})"
    return PermanentBackendError(message, backend="embedded")
