"""What the tests share: the two loops, and a guard against blocking either."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from blockbuster import BlockBuster, blockbuster_ctx


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Every async test runs on both loops."""
    return str(request.param)


@pytest.fixture
def nothing_blocks() -> Iterator[BlockBuster]:
    """Fail whatever blocks an event loop."""
    with blockbuster_ctx() as guard:
        yield guard
