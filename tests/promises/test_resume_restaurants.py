"""
`kill -9` in the middle of the real task: nothing is paid for twice, and nothing is lost.

`benchmarks/resume.py` does the same with 500 restaurants, and tells more.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize(
    ("stage", "share"),
    [
        pytest.param("1", 0.75, marks=pytest.mark.slow),
        ("4", 0.25),
        pytest.param("threaded", 0.5, marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_restaurants_of_a_killed_run_are_not_paid_for_again(
    stage: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import resume

    (row,) = resume.rows(resume.Plan(stage, 60, seed=7), [share])

    assert row.equal
    assert 0 < row.first < row.undisturbed  # it was killed in the middle
    assert row.first + row.second <= row.undisturbed + row.in_flight
    assert row.in_flight <= 2 * resume.MODES[stage]
