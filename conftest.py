"""Sybil: runs the Python examples of README.md and docs/ as tests."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser


def _enter_folder(namespace: dict[str, Any]) -> None:
    """Run a page in a temporary folder, so that the files it makes are removed with it."""
    namespace["__folder__"] = folder = TemporaryDirectory(ignore_cleanup_errors=True)
    namespace["__previous_folder__"] = Path.cwd()
    os.chdir(folder.name)


def _leave_folder(namespace: dict[str, Any]) -> None:
    os.chdir(namespace["__previous_folder__"])
    namespace["__folder__"].cleanup()


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["README.md", "docs/**/*.md", "docs/*.md"],
    setup=_enter_folder,
    teardown=_leave_folder,
).pytest()


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None, None, None]:
    """Run all examples of a page in one process and in their order: each goes on from the one before."""
    for item in items:
        if item.path.suffix == ".md":
            item.add_marker(
                pytest.mark.xdist_group(str(item.path))
            )  # pytest-xdist reads it in this very hook
    examples = [item for item in items if item.path.suffix == ".md"]
    yield
    places = [place for place, item in enumerate(items) if item.path.suffix == ".md"]
    order = {id(item): number for number, item in enumerate(examples)}
    # A plugin that shuffles tests may have moved the examples: put them back, in order, where examples are now.
    for place, item in zip(
        places, sorted((items[p] for p in places), key=lambda item: order[id(item)]), strict=True
    ):
        items[place] = item
