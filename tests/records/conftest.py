"""Fixtures of the tests of the record."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a new record."""
    return tmp_path / "night.db"
