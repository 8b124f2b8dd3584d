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
    """Keep the examples of a page in their order, also if a plugin shuffles tests: each goes on from the one before."""
    order = {id(item): number for number, item in enumerate(items) if item.path.suffix == ".md"}
    yield
    places = [place for place, item in enumerate(items) if id(item) in order]
    examples = sorted((items[place] for place in places), key=lambda item: order[id(item)])
    for place, item in zip(places, examples, strict=True):
        items[place] = item
