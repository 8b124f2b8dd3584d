"""The reference pages name every public name, and every path that they name exists."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import fields, is_dataclass
from importlib import import_module
from logging import Logger
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "reference"
PACKAGE = "restaurant_llm_batch"
PUBLIC_MODULES = [
    PACKAGE,
    *(
        f"{PACKAGE}.{name}"
        for name in (
            "backends",
            "cancellation",
            "errors",
            "events",
            "integrations.fastapi",
            "integrations.metrics",
            "integrations.opentelemetry",
            "integrations.progress",
            "integrations.ray",
            "models",
            "outcomes",
            "protocols",
            "records",
            "results",
            "search",
            "search.embedders",
            "sharing",
            "steps",
            "testing",
            "testing.server",
            "tokens",
        )
    ),
]
IN_PROSE = {f"{PACKAGE}.__version__", f"{PACKAGE}.errors"}
"""Names without a block of their own: a string, and a module whose names have blocks."""

ENTRY = re.compile(r"^::: (\S+)\n((?:[ \t]+\S.*\n)*)", re.MULTILINE)


def entries() -> dict[str, str]:
    """Return the documented paths, each with the options of its block."""
    text = "".join(page.read_text(encoding="utf-8") + "\n" for page in sorted(PAGES.glob("*.md")))
    return {found[1]: found[2] for found in ENTRY.finditer(text)}


def resolve(path: str) -> Any:
    """Return what a dotted path names: an attribute of the longest prefix that is a module."""
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        try:
            value: Any = import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            value = getattr(value, name)
        return value
    raise ModuleNotFoundError(path)


def public_names(module: ModuleType) -> list[str]:
    """Return ``__all__``, or the public classes, functions and annotated names that the module's text defines."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    names = []
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.append(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.append(node.target.id)
    return [
        name for name in names if not name.startswith("_") and not isinstance(getattr(module, name), Logger)
    ]


def is_documented(path: str, documented: dict[str, Any]) -> bool:
    """Tell whether a path, or another path to the same object, has a block."""
    if path in documented:
        return True
    name, value = path.rsplit(".", 1)[1], resolve(path)
    if inspect.isclass(value) or inspect.isroutine(value):
        return any(value is other for other in documented.values())
    return any(other.rsplit(".", 1)[1] == name and value == documented[other] for other in documented)


@pytest.fixture(scope="module")
def documented() -> dict[str, Any]:
    return {path: resolve(path) for path in entries()}


def test_the_reference_has_pages() -> None:
    assert len(entries()) > 100


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_every_public_name_is_in_the_reference(name: str, documented: dict[str, Any]) -> None:
    paths = [f"{name}.{public}" for public in public_names(import_module(name))]
    missing = [path for path in paths if path not in IN_PROSE and not is_documented(path, documented)]
    assert not missing, f"add to a page of docs/reference: {missing}"


def test_names_without_a_block_are_in_the_prose_of_the_reference() -> None:
    prose = "".join(page.read_text(encoding="utf-8") for page in PAGES.glob("*.md"))
    assert not [name for name in IN_PROSE if f"`{name}`" not in prose]


def test_every_documented_class_and_function_has_a_docstring(documented: dict[str, Any]) -> None:
    objects = {
        path: value
        for path, value in documented.items()
        if inspect.isclass(value) or inspect.isfunction(value)
    }
    assert not [path for path, value in objects.items() if not (value.__doc__ or "").strip()]


def test_every_field_of_a_documented_class_is_explained_or_shown(documented: dict[str, Any]) -> None:
    options = entries()
    missing = []
    for path, value in documented.items():
        if not inspect.isclass(value) or "show_if_no_docstring: true" in options[path]:
            continue
        names = [field.name for field in fields(value)] if is_dataclass(value) else []
        names += getattr(value, "_fields", ())
        shown = inspect.getdoc(value) or ""
        missing += [
            f"{path}.{name}"
            for name in names
            if not name.startswith("_") and not re.search(rf"\b{name}\b", shown)
        ]
    assert not missing, f"explain in the docstring, or set show_if_no_docstring: true: {missing}"


def test_the_links_from_the_readme_to_the_docs_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\((docs/[^)#\s]+)", text)
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]
