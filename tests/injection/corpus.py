"""Reviews that are no reviews."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st


@dataclass(frozen=True)
class Entry:
    """A hostile review: the language it is written in, what it is after, and its text."""

    language: str
    aim: str
    content: str


def _read() -> list[Entry]:
    lines = Path(__file__).with_name("reviews.jsonl").read_text("utf-8").splitlines()
    return [Entry(**json.loads(line)) for line in lines]


ENTRIES = _read()
NAMES = [f"{number}-{entry.aim}" for number, entry in enumerate(ENTRIES)]
CONTENTS = [entry.content for entry in ENTRIES]

contents = st.sampled_from(CONTENTS)
glued = st.lists(contents, min_size=2, max_size=4).map("".join)
"""Several of them in one review."""
embedded = st.tuples(st.text(max_size=20), contents, st.text(max_size=20)).map("".join)
"""One of them in the middle of any other text."""
hostile = contents | glued | embedded
