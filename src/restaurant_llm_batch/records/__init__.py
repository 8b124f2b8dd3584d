"""What a run reads and leaves: tables in, as items and as reviews."""

from .._rows.reviews import ReviewTable
from .._rows.table import ItemTable, SkippedRow
from ._reading import read_items, read_reviews

__all__ = ["ItemTable", "ReviewTable", "SkippedRow", "read_items", "read_reviews"]
