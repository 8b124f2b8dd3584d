"""Records: what happened in runs, kept in a file and read from it."""

from __future__ import annotations

from ._compare import Comparison
from ._explain import ExplainedCall, ExplainedSentence, Explanation, ShownReview
from ._record import Record, open_record
from ._recorded import RecordedCall, RecordedItem, RecordedLimit, RecordedRun
from ._recording import Recording

__all__ = [
    "Comparison",
    "ExplainedCall",
    "ExplainedSentence",
    "Explanation",
    "Record",
    "RecordedCall",
    "RecordedItem",
    "RecordedLimit",
    "RecordedRun",
    "Recording",
    "ShownReview",
    "open_record",
]
