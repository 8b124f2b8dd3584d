"""Records whose values cannot be: said in one sentence by all that read them."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.support.records import ask, runner

from restaurant_llm_batch import BatchRunner, errors
from restaurant_llm_batch.records import open_record
from restaurant_llm_batch.records._live import LiveView
from restaurant_llm_batch.simulation import SimulatedServer
from restaurant_llm_batch.testing import FakeLLM

VALUES: list[tuple[str, Any]] = [
    ("task", b"\xff"),
    ("settings", "5"),
    ("settings", "{"),
    ("total", "x"),
    ("began_unix", 1e308),
    ("began_unix", 2**62),
    ("began_unix", "x"),
    ("latest", b"x"),
    ("seconds", float("inf")),
    ("seconds", "x"),
]
USES: dict[str, Callable[[Path], object]] = {
    "runs": lambda path: open_record(path).runs(),
    "explain": lambda path: open_record(path).explain(1),
    "compare": lambda path: open_record(path).compare(1, 1),
    "page": lambda path: open_record(path).to_html(path.with_suffix(".html")),
    "simulated server": SimulatedServer.from_record,
    "plan": lambda path: BatchRunner(llm=FakeLLM()).plan(ask, [1], record=path),
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kept") / "kept.db"
    with runner(path) as used:
        used.run(ask, [1, 2])
    return path


def changed(kept: Path, path: Path, column: str, value: Any) -> Path:
    shutil.copy(kept, path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"UPDATE runs SET {column} = ?", (value,))
        connection.commit()
    return path


@pytest.mark.parametrize(("column", "value"), VALUES)
def test_a_run_with_a_value_that_cannot_be_is_said_to_be_damaged(
    kept: Path, tmp_path: Path, column: str, value: Any
) -> None:
    path = changed(kept, tmp_path / "night.db", column, value)
    for use in USES.values():
        with pytest.raises(errors.BatchError, match=r"night\.db is damaged \(a value cannot be: "):
            use(path)


@pytest.mark.parametrize(
    ("column", "value"), [one for one in VALUES if one[0] not in ("settings", "began_unix")]
)
def test_top_says_so_too(kept: Path, tmp_path: Path, column: str, value: Any) -> None:
    path = changed(kept, tmp_path / "night.db", column, value)
    with pytest.raises(errors.StoreError, match=r"night\.db is damaged"):
        LiveView(path, 1).look()
