"""The kept state of a lender: one whose numbers cannot be is lost, and the limit is lent anew after a loan's time."""

from __future__ import annotations

import json
from typing import Any

import pytest

from restaurant_llm_batch.sharing._broker import restored
from restaurant_llm_batch.sharing._lender import Lender
from restaurant_llm_batch.sharing._messages import Ask, Terms

NAN, INF = float("nan"), float("inf")
NONSENSE: dict[str, list[Any]] = {
    "seen": ["x", [], {}, NAN, INF],
    "limit": [0, -1, 1e308, INF, "8", True],
    "time": ["x", NAN, INF],
    "quiet_until": [1e308, NAN, 100.0],
    "member_expires_at": [1e308, NAN, "x", 100.0],
    "terms": [None, [INF, None, None], ["x", None, None], [8]],
}


def kept_with(**changes: Any) -> str:
    """Return the state of a lender with other values in it or, by "member_", in its one member."""
    lender = Lender(Terms(8))
    lender.ask(Ask("a", 1, Terms(8), held=0, in_use=0, waiting=8, need=1, active=False), 0.0)
    state = json.loads(lender.to_json())
    for name, value in changes.items():
        where = state["members"]["a"] if name.startswith("member_") else state
        assert name.removeprefix("member_") in where
        where[name.removeprefix("member_")] = value
    return json.dumps(state)


def test_what_was_kept_is_restored() -> None:
    lender = restored(kept_with())
    assert lender is not None
    assert (lender.limit, lender.lent) == (8, 8)


@pytest.mark.parametrize("name", NONSENSE)
def test_what_cannot_be_makes_a_state_none(name: str) -> None:
    for value in NONSENSE[name]:
        assert restored(kept_with(**{name: value})) is None, value
