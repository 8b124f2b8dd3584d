"""Fixtures and settings that all tests share: the two event loops, the SIGINT handler and hypothesis profiles."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from hypothesis import settings

settings.register_profile("default", max_examples=25, deadline=None)
settings.register_profile("slow", max_examples=200, deadline=None)


def pytest_configure(config: pytest.Config) -> None:
    """Try more examples if slow tests are selected."""
    chosen = config.getoption("markexpr")
    settings.load_profile("slow" if "slow" in chosen and "not slow" not in chosen else "default")


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
