"""Fixtures and settings that all tests share: the two event loops, the SIGINT handler and hypothesis profiles."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator

import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from hypothesis import HealthCheck, settings

# No deadline and no check of how fast examples are drawn: both measure the machine.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("default", UNHURRIED, max_examples=25)
settings.register_profile("slow", UNHURRIED, max_examples=100)


def wants_slow(config: pytest.Config) -> bool:
    """Return whether slow tests are selected, by ``-m slow`` or without any ``-m``."""
    return "not slow" not in str(config.getoption("markexpr"))


def pytest_configure(config: pytest.Config) -> None:
    """Load the hypothesis profile: more examples if slow tests are selected."""
    settings.load_profile("slow" if wants_slow(config) else "default")


@pytest.hookimpl(tryfirst=True)  # before tests are deselected by their marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Count hypothesis tests among the slow ones where these are selected, for their further examples."""
    if wants_slow(config):
        for item in items:
            if hasattr(getattr(item, "obj", None), "hypothesis"):
                item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """Leave everything that collection made out of later garbage collections, which some tests ask for."""
    gc.collect()
    gc.freeze()


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run every async test on both event loops."""
    return str(request.param)


@pytest.fixture
def nothing_blocks() -> Iterator[BlockBuster]:
    """Fail the test if anything blocks an event loop."""
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
