"""Fixtures of the tests of the store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from restaurant_llm_batch import Store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a new store."""
    return tmp_path / "run.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """Open a new store, and close it."""
    with Store(path, lock_timeout=5) as opened:
        yield opened
