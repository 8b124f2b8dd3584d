"""A program imports what it uses: the parts that few programs need are loaded when they are first used."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import restaurant_llm_batch

PACKAGE = "restaurant_llm_batch"
OTHER_TASKS = [
    f"{PACKAGE}.tasks.{name}" for name in ("comparison", "reviews", "sentiment", "strengths", "vocabulary")
]
STORES = [
    f"{PACKAGE}._store.{name}"
    for name in ("connections", "database", "folder", "identity", "store", "writer")
]
BATCHES = [
    f"{PACKAGE}._engine.{name}"
    for name in ("wave_calls", "wave_file", "wave_flow", "wave_frames", "wave_sending", "waves")
]
DRIVERS = [f"{PACKAGE}._engine.{name}" for name in ("bridge", "concurrent", "sequential", "threaded")]
LOOPS = [
    *(
        f"{PACKAGE}._engine.{name}"
        for name in ("async_streams", "awaited_items", "loop_lease", "loop_mailbox", "loop_thread")
    ),
    "anyio",
    "asyncio",
]
FEW_NEED = [
    *(
        f"{PACKAGE}.{name}"
        for name in ("records", "sharing", "simulation", "_http", "_page", "_rows", "_settings")
    ),
    *(f"{PACKAGE}._engine.{name}" for name in ("cached_calls", "server_watch", "token_budget")),
    *(
        f"{PACKAGE}._limits.{name}"
        for name in ("breaker", "endpoints", "latency_signal", "pool", "pool_state")
    ),
    *OTHER_TASKS,
    *STORES,
    *BATCHES,
    *(
        "csv",
        "decimal",
        "email",
        "pandas",
        "pathlib",
        "socket",
        "sqlite3",
        "ssl",
        "statistics",
        "subprocess",
        "tempfile",
    ),
]
RUN = """
from restaurant_llm_batch import BatchRunner, Hit, LLMResponse, Strategy, SummarizeAspects

class Search:
    def search(self, query):
        return [Hit(1, "good", 0.9, query.restaurant_id)]

class LLM:
    def complete(self, request):
        return LLMResponse('{"overall_summary": "good"}')

report = BatchRunner(llm=LLM(), search=Search(), strategy=STRATEGY).run(SummarizeAspects(), [1, 2])
assert len(report.outcomes) == 2
"""


def loaded(code: str) -> set[str]:
    """Return the names of the modules that code loads in a fresh interpreter, and of their packages."""
    # What the interpreter's own start has loaded, such as a hook of a coverage tool, is not of the code.
    code = f"import sys; before = {{*sys.modules}}\n{code}\nprint(*sorted({{*sys.modules}} - before))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(said.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        f"import {PACKAGE}",
        f"from {PACKAGE} import BatchRunner, Limits, Strategy, SummarizeAspects",
        f"from {PACKAGE} import AdaptiveLimit, BatchReport, ConcurrencyLimiter, Failure, RetryPolicy, Success, errors",
    ],
)
def test_an_import_loads_nothing_that_few_programs_need(code: str) -> None:
    assert loaded(code) & {*FEW_NEED, *DRIVERS, *LOOPS} == set()


def test_a_task_loads_no_other_task() -> None:
    modules = loaded(f"from {PACKAGE} import AnalyzeSentiment")

    assert modules & {*FEW_NEED, f"{PACKAGE}.tasks.summary"} == {f"{PACKAGE}.tasks.sentiment"}


@pytest.mark.parametrize(
    ("strategy", "driver", "loads_loops"),
    [
        ("Strategy.stage(1)", ["sequential"], False),
        ("Strategy.threaded()", ["bridge", "threaded"], False),
        ("Strategy.stage(2)", ["bridge", "concurrent", "threaded"], True),
    ],
)
def test_a_run_loads_the_driver_of_its_strategy_and_nothing_else(
    strategy: str, driver: list[str], loads_loops: bool
) -> None:
    modules = loaded(RUN.replace("STRATEGY", strategy))

    assert modules & {*DRIVERS} == {f"{PACKAGE}._engine.{name}" for name in driver}
    assert ("asyncio" in modules) is loads_loops
    of_loops = loaded("import asyncio, anyio") if loads_loops else set()  # older versions of anyio load more
    assert modules & {*FEW_NEED} - of_loops == set()


def test_each_name_that_is_imported_late_is_declared_for_type_checkers() -> None:
    tree = ast.parse(Path(restaurant_llm_batch.__file__).read_text(encoding="utf-8"))
    blocks = [
        node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    declared = {
        name.name: f"{PACKAGE}.{line.module}"
        for block in blocks
        for line in block.body
        if isinstance(line, ast.ImportFrom)
        for name in line.names
    }
    late = {name: f"{PACKAGE}.{module}" for name, module in restaurant_llm_batch._MODULES.items()}

    assert late == declared
    for name, module in late.items():
        assert getattr(restaurant_llm_batch, name) is getattr(import_module(module), name)
    assert {*late} <= {*restaurant_llm_batch.__all__} == {*dir(restaurant_llm_batch)}
