"""Writing of a document to a file, which appears under its name when it is whole."""

from __future__ import annotations

import os

from .._tables.files import OutputFileError, cannot_write, open_output
from .document import Document


def write_document(made: Document, path: str | os.PathLike[str]) -> None:
    """
    Write a document.

    Raises:
        ConfigurationError: The file cannot be opened, or is a folder or a database.
        OutputFileError: It cannot be written to its end: the disk is full, for example.
    """
    name = repr(os.fspath(path))
    try:
        with open_output(path, name) as file:
            file.write(made.html)
    except OSError as error:
        raise OutputFileError(cannot_write(name, error)) from error
