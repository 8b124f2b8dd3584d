"""Fixtures and settings that all tests share: the two event loops, the SIGINT handler and hypothesis profiles."""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from hypothesis import HealthCheck, settings

# No deadline and no check of how fast examples are drawn: both measure the machine.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The default tests are a gate: they try the same examples each time. Others look for new ones.
settings.register_profile("default", UNHURRIED, max_examples=10, derandomize=True)
settings.register_profile("slow", UNHURRIED, max_examples=100)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--hardening``, which runs the tests marked so at length: `nox -s hardening`."""
    parser.addoption("--hardening", action="store_true", help="run tests marked `hardening` at full length")


def wants_slow(config: pytest.Config) -> bool:
    """Return whether slow tests are selected, by ``-m slow`` or without any ``-m``."""
    return "not slow" not in str(config.getoption("markexpr"))


def unwanted(config: pytest.Config) -> frozenset[str]:
    """Return the marks that no selected test has, if ``-m`` only names such marks, as it does by default."""
    expression = str(config.getoption("markexpr"))
    found = re.fullmatch(r"not \w+(?: and not \w+)*", expression)
    return frozenset(expression.split()) - {"not", "and"} if found else frozenset()


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Collector, obj: object) -> list[pytest.Item] | None:
    """Make no item of a test that would be deselected: half of the time of a collection would go into these."""
    marks = {mark.name for mark in getattr(obj, "pytestmark", ()) if isinstance(mark, pytest.Mark)}
    return None if marks.isdisjoint(unwanted(collector.config)) else []


@pytest.hookimpl(trylast=True)  # after all parametrizations, those of fixtures too
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make no item of a case that `sample` would mark as slow, if slow tests would be deselected."""
    marker = metafunc.definition.get_closest_marker("sample")
    if marker is None or "slow" not in unwanted(metafunc.config):
        return
    fast = [call for call in metafunc._calls if all(mark.name != "slow" for mark in call.marks)]
    metafunc._calls[:] = [fast[index] for index in sorted(evenly(len(fast), marker.args[0]))]


def evenly(number: int, most: int) -> set[int]:
    """Return the places of at most `most` of a number of cases, evenly spread."""
    kept = min(number, most)
    return {index * number // kept for index in range(kept)}


def pytest_configure(config: pytest.Config) -> None:
    """Load the hypothesis profile: more examples if slow tests are selected."""
    settings.load_profile("slow" if wants_slow(config) else "default")


@pytest.hookimpl(tryfirst=True)  # before tests are deselected by their marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """
    Mark as slow all cases of a test but the ``n`` evenly spread ones that ``@pytest.mark.sample(n)`` keeps.

    If slow tests are selected, hypothesis tests count among them, for their further examples.
    """
    cases: defaultdict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("sample") is not None:
            cases[item.nodeid.partition("[")[0]].append(item)
        if wants_slow(config) and hasattr(getattr(item, "obj", None), "hypothesis"):
            item.add_marker(pytest.mark.slow)
    for of_test in cases.values():
        fast = [item for item in of_test if item.get_closest_marker("slow") is None]
        marker = of_test[0].get_closest_marker("sample")
        chosen = set() if marker is None else evenly(len(fast), marker.args[0])
        for index, item in enumerate(fast):
            if index not in chosen:
                item.add_marker(pytest.mark.slow)


def pytest_xdist_auto_num_workers() -> int:
    """Run three workers on two cores: many tests wait for a socket, a process or a clock half of their time."""
    return max(2, (os.cpu_count() or 2) * 3 // 2)


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """
    Import an equal share of the test files in each worker, before every worker collects all of them.

    pytest compiles a test file on its first import, for its assertions, and keeps the result. On a clean checkout
    each worker would compile all files by itself; so each file is compiled once.
    """
    worker = getattr(session.config, "workerinput", None)
    if worker is None:
        return
    number, workers = int(worker["workerid"].removeprefix("gw")), int(worker["workercount"])
    for path in sorted(Path(__file__).parent.rglob("test_*.py"))[number::workers]:
        top = path
        while (top.parent / "__init__.py").exists():
            top = top.parent
        name = ".".join(path.relative_to(top.parent).with_suffix("").parts)
        sys.path.insert(0, str(top.parent))
        with suppress(Exception, pytest.skip.Exception):  # the collection of this file reports it
            import_module(name)


def pytest_collection_finish() -> None:
    """Leave everything that collection made out of later garbage collections, which some tests ask for."""
    gc.collect()
    gc.freeze()


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run every async test on both event loops."""
    return str(request.param)


@pytest.fixture
def trials(request: pytest.FixtureRequest) -> int:
    """How many cases a test marked ``hardening(small, full)`` tries: `small`, or `full` with ``--hardening``."""
    marker = request.node.get_closest_marker("hardening")
    assert marker is not None, "mark the test with @pytest.mark.hardening(small=..., full=...)"
    return int(marker.kwargs["full" if request.config.getoption("hardening") else "small"])


@pytest.fixture
def nothing_blocks() -> Iterator[BlockBuster]:
    """Fail the test if anything blocks an event loop."""
    gc.collect()  # what earlier tests left open is closed now, and not on the event loop of this one
    with blockbuster_ctx() as guard:
        yield guard


@pytest.fixture(scope="session", autouse=True)
def sigint_raises_keyboard_interrupt() -> Iterator[None]:
    """
    Install Python's default SIGINT handler, also for child processes.

    A shell that starts the tests in the background has them ignore SIGINT, and children inherit that.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def kernel() -> Iterator[Any]:
    """A real Jupyter kernel, with the event loop of a notebook."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)
