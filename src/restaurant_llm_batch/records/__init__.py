"""What a run reads, and what it leaves: tables as items and as reviews, and the record of runs in a file."""

from __future__ import annotations

from .._rows.review_rows import ReviewTable
from .._rows.table import ItemTable, SkippedRow
from ._compare import Comparison
from ._explain import ExplainedCall, ExplainedSentence, Explanation, ShownReview
from ._reading import read_items, read_reviews
from ._record import Record, open_record
from ._recorded import (
    RecordedCall,
    RecordedItem,
    RecordedLimit,
    RecordedLimiter,
    RecordedRun,
    RecordedServerLoad,
)
from ._recording import Recording

__all__ = [
    "Comparison",
    "ExplainedCall",
    "ExplainedSentence",
    "Explanation",
    "ItemTable",
    "Record",
    "RecordedCall",
    "RecordedItem",
    "RecordedLimit",
    "RecordedLimiter",
    "RecordedRun",
    "RecordedServerLoad",
    "Recording",
    "ReviewTable",
    "ShownReview",
    "SkippedRow",
    "open_record",
    "read_items",
    "read_reviews",
]
