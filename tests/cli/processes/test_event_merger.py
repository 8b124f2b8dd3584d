"""Events of several processes in one order."""

from __future__ import annotations

from restaurant_llm_batch.cli._processes.merging import PATIENCE, Merger


def test_events_come_in_the_order_of_their_times_whoever_tells_first() -> None:
    merger: Merger[str] = Merger()
    merger.told_until(1, 0.0)
    merger.told_until(2, 0.0)
    merger.add(3.0, "late")
    merger.told_until(1, 3.1)
    assert merger.due(3.1) == []  # the other may tell of something earlier
    merger.add(2.9, "early")
    merger.told_until(2, 3.2)
    assert merger.due(3.3) == ["early", "late"]


def test_events_of_one_time_keep_their_order() -> None:
    merger: Merger[int] = Merger()
    for number in range(20):
        merger.add(1.0, number)
    assert merger.due(1.0) == [*range(20)]


def test_a_process_that_has_gone_or_tells_nothing_is_not_waited_for_for_long() -> None:
    merger: Merger[str] = Merger()
    merger.told_until(1, 5.0)
    merger.told_until(2, 1.0)
    merger.add(2.0, "told")
    assert merger.due(2.0 + PATIENCE / 2) == []
    merger.remove(2)
    assert merger.due(5.0) == ["told"]
    merger.told_until(3, 1.0)
    merger.add(6.0, "more")
    assert merger.due(6.5 + PATIENCE) == ["more"]


def test_the_rest_comes_at_the_end() -> None:
    merger: Merger[str] = Merger()
    merger.told_until(1, 0.0)
    merger.add(2.0, "b")
    merger.add(1.0, "a")
    assert merger.due(0.5) == []
    assert merger.rest() == ["a", "b"]
    assert merger.rest() == []
