"""Parameters that are marked slow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def quick_of(values: Iterable[Any], *quick: Any) -> list[Any]:
    """Return parameters of one value each, all but the quick ones marked slow."""
    return [pytest.param(value, marks=() if value in quick else pytest.mark.slow) for value in values]
