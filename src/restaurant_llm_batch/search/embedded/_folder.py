"""The folder of an embedded index, and the label in it that says what made its vectors."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from ...errors import BatchError, ConfigurationError, PermanentBackendError

FORMAT = 1


def write_label(folder: Path, embedder: str) -> None:
    """Make a folder and label it with the name of its embedder."""
    folder.mkdir(parents=True, exist_ok=True)
    label = {"format": FORMAT, "embedder": embedder}
    _label(folder).write_text(json.dumps(label), encoding="utf-8")


def _label(folder: Path) -> Path:
    return folder / "restaurant_llm_batch.json"


def check_folder(folder: Path, embedder: str) -> None:
    """
    Check that a folder is new, empty, or an index of this embedder.

    Args:
        folder: The folder; it need not exist.
        embedder: Name of the embedder that will be used with it.

    Raises:
        ConfigurationError: It is something else, or was made with another embedder.
        PermanentBackendError: Its label cannot be read.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigurationError(f"path {str(folder)!r} is a file: name a folder")
    if not _label(folder).exists():
        if any(folder.iterdir()):
            raise ConfigurationError(f"path {str(folder)!r} holds other files: name a new or empty folder")
        return
    try:
        label = json.loads(_label(folder).read_text(encoding="utf-8"))
        form, name = label["format"], label["embedder"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise unusable(folder, error) from error
    if form != FORMAT:
        raise ConfigurationError(
            f"path {str(folder)!r} has the index format {form!r}, not {FORMAT}: "
            "index the reviews again into a new folder"
        )
    if name != embedder:
        raise ConfigurationError(
            f"path {str(folder)!r} was indexed with the embedder {name!r}, not {embedder!r}: "
            "pass that embedder, or index the reviews again into a new folder"
        )


def require_folder(folder: Path) -> None:
    """
    Check that there is a folder to read from.

    Raises:
        ConfigurationError: There is none; says how to make it.
    """
    if not folder.exists():
        raise ConfigurationError(
            f"there is no index at path {str(folder)!r}: index reviews into it first, with "
            f"EmbeddedSearch({str(folder)!r}).index_reviews(...) or "
            f"`restaurant-llm-batch index FILE --into {shlex.quote(str(folder))}`"
        )


def unusable(folder: Path, error: Exception) -> BatchError:
    """Return the error to raise for a folder that the engine does not open."""
    if isinstance(error, BatchError):
        return error
    if "WouldBlock" in str(error):
        text = "is in use by another process or object: close it there, or name another folder"
    else:
        text = "cannot be opened; it was left as it is: restore it, or index into a new folder"
    message = f"the index in {str(folder)!r} {text} ({error})"
    return PermanentBackendError(message, backend="embedded")
