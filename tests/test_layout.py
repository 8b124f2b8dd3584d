"""The layout of the source: a file's name says where it is found."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import restaurant_llm_batch

ROOT = Path(restaurant_llm_batch.__file__).parent
ONE_PER_SERVICE = {"llm.py", "_codec.py"}


def test_no_file_name_occurs_more_than_twice() -> None:
    names = Counter(path.name for path in ROOT.rglob("*.py") if path.name != "__init__.py")

    assert {name for name, number in names.items() if number > 2} <= ONE_PER_SERVICE


def test_no_room_has_more_than_a_sixth_of_the_lines() -> None:
    lines: Counter[str] = Counter()
    for path in ROOT.rglob("*.py"):
        lines[path.relative_to(ROOT).parts[0]] += len(path.read_text(encoding="utf-8").splitlines())

    assert max(lines.values()) <= 0.16 * lines.total()
