"""Kinds of tables: what a file is by its ending and by its first bytes, and what to write if these differ."""

from __future__ import annotations

import codecs
import io
import json
import re
from contextlib import suppress
from typing import Literal, TypeAlias

from .._rows.columns import Advice
from .._rows.table import FileError
from ._opening import Input

Kind: TypeAlias = Literal["jsonl", "json", "csv", "tsv", "txt", "parquet", "excel"]

ENDINGS: dict[str, Kind] = {
    **dict.fromkeys((".jsonl", ".ndjson", ".jsonlines", ".ldjson"), "jsonl"),
    ".json": "json",
    ".csv": "csv",
    **dict.fromkeys((".tsv", ".tab"), "tsv"),
    ".txt": "txt",
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    **dict.fromkeys((".xlsx", ".xlsm"), "excel"),
}
_NAMES: dict[Kind, str] = {
    "jsonl": "JSON Lines",
    "json": "a JSON document",
    "csv": "a CSV table",
    "tsv": "a TSV table",
    "txt": "text",
    "parquet": "a Parquet file",
    "excel": "an Excel workbook",
}
_ENDING: dict[Kind, str] = {kind: ending for ending, kind in reversed(ENDINGS.items())}
_OTHERS = (
    (b"\xd0\xcf\x11\xe0", "a workbook of old Excel, or one with a password; save it as .xlsx or .csv"),
    (b"SQLite format 3\0", "a database; export a table of it as .csv or .parquet"),
    (b"BZh", "packed with bzip2; unpack it: bunzip2"),
    (b"\xfd7zXZ", "packed with xz; unpack it: unxz"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd; unpack it: unzstd"),
    (b"ARROW1", "an Arrow file; save it as .parquet"),
    (b"%PDF", "a PDF document; save its table as .csv"),
    (b"{\\rtf", "a text document; save its table as .csv"),
)
_UNREADABLE = {
    ".xls": "a workbook of old Excel; save it as .xlsx or .csv",
    ".xlsb": "a binary workbook; save it as .xlsx or .csv",
    ".ods": "a workbook of LibreOffice; save it as .xlsx or .csv",
    ".zip": "a zip archive; unpack it",
    ".feather": "an Arrow file; save it as .parquet",
    ".arrow": "an Arrow file; save it as .parquet",
    ".pkl": "a pickle, which may run code; save it as .parquet",
    ".pickle": "a pickle, which may run code; save it as .parquet",
    ".db": "a database; export a table of it as .csv or .parquet",
}
_JSON_BEGINS = re.compile(r"\{|\[\s*([\[{\]\"\d-]|true|false|null|$)")
DELIMITERS = ",\t;|"


def kind_of(source: Input, advice: Advice) -> Kind:
    """
    Return what an input is: what its ending says, or what its first bytes are if that says nothing.

    Raises:
        FileError: It is something else than its ending says, or nothing that can be read.
    """
    named = ENDINGS.get(_ending(source.name))
    found = _kind_of_bytes(source)
    if source.was_packed and not source.names_gzip and (source.name or source.size is not None):
        ending = "" if named else _ENDING.get(found or "jsonl", "")
        raise FileError(
            f"{source.label} is packed with gzip, and its name does not say so; "
            f"rename it to {source.name + ending + '.gz'!r}"
        )
    if source.names_gzip and not source.was_packed and source.peek(1):
        raise FileError(f"{source.label} is not packed with gzip; rename it to {source.name!r}")
    if named is None:
        if _ending(source.name) in _UNREADABLE and found in (None, "txt"):
            raise FileError(f"{source.label} is {_UNREADABLE[_ending(source.name)]}")
        return found or "jsonl"
    if found is None or found == named or found in _TOLERATED[named]:
        return named
    right = f"{source.name[: -len(_ending(source.name))]}{_ENDING[found]}{'.gz' if source.names_gzip else ''}"
    raise FileError(f"{source.label} is {_NAMES[found]}, and not {_NAMES[named]}; rename it to {right!r}")


_TOLERATED: dict[Kind, tuple[Kind, ...]] = {
    "jsonl": ("txt", "json"),
    "json": ("txt", "jsonl", "csv", "tsv"),
    "csv": ("txt", "tsv"),
    "tsv": ("txt", "csv"),
    "txt": ("csv", "tsv", "json", "jsonl"),
    "parquet": (),
    "excel": (),
}
"""What a file of an ending may look like: with other signs between cells, or broken, which its reader reports."""


def _ending(name: str) -> str:
    return f".{name.rpartition('.')[2].lower()}" if "." in name else ""


def _kind_of_bytes(source: Input) -> Kind | None:
    """Return what the first bytes of an input are; None for nothing, or nothing known."""
    head = source.peek()
    if not head:
        return None
    for mark, what in _OTHERS:
        if head.startswith(mark):
            raise FileError(f"{source.label} is {what}")
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"PK\x03\x04"):
        if b"[Content_Types].xml" in head or b"xl/" in head or _is_workbook(source):
            return "excel"
        raise FileError(f"{source.label} is a zip archive; unpack it")
    return _kind_of_text(_decoded(head))


def _is_workbook(source: Input) -> bool:
    return source.name.lower().endswith((".xlsx", ".xlsm"))


def _decoded(head: bytes) -> str:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return head.decode("utf-16", "replace")
    return head.decode("utf-8-sig", "replace")


def _kind_of_text(head: str) -> Kind | None:
    lines = [line for line in io.StringIO(head) if line.strip()][:3]
    if not lines:
        return None
    first = lines[0].strip()
    if _JSON_BEGINS.match(first):
        is_line = first[0] == "{" and (len(lines) == 1 or _is_json(first))
        return "jsonl" if is_line else "json"
    delimiter = delimiter_of(first)
    if delimiter is None or _is_json(first):
        return "txt"
    others = [line for line in lines[1:] if delimiter in line]
    if len(others) < len(lines) - 1 and '"' not in head:
        return "txt"
    return "tsv" if delimiter == "\t" else "csv"


def _is_json(text: str) -> bool:
    with suppress(ValueError, RecursionError):
        json.loads(text)
        return True
    return False


def delimiter_of(line: str) -> str | None:
    """Return what stands between the cells of a line: the most frequent of the usual signs; None if it has none."""
    best = max(DELIMITERS, key=line.count)
    return best if best in line else None
