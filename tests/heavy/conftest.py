"""What the heavy tests share: they are collected only when `run` asks for them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import pytest

from .servers import Server, start_vllm

HERE = Path(__file__).parent
HOME = os.environ.get("HEAVY_HOME", "")

collect_ignore_glob = [] if HOME else ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder."""
    for item in items:
        if item.path.parent == HERE:
            item.add_marker(pytest.mark.heavy)


class StartVLLM(Protocol):
    """Starts a vLLM server with further flags, and stops it at the end."""

    def __call__(self, *flags: str) -> AbstractContextManager[Server]: ...


@pytest.fixture(scope="session")
def model() -> str:
    """Return the tiny model's folder."""
    return str(Path(HOME) / "model")


@pytest.fixture(scope="session")
def vllm_server(model: str, tmp_path_factory: pytest.TempPathFactory) -> StartVLLM:
    """Return what starts vLLM servers."""
    logs = tmp_path_factory.mktemp("vllm")
    return lambda *flags: start_vllm(model, logs, *flags)


@pytest.fixture(scope="session")
def server(vllm_server: StartVLLM) -> Iterator[Server]:
    """Run a vLLM server that has room for 16 requests at once, for the whole session."""
    with vllm_server() as running:
        yield running
