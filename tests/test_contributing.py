"""CONTRIBUTING.md names files, rooms, sessions and words that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "restaurant_llm_batch"
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """Return the text below a heading of the second level."""
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_every_place_that_a_question_leads_to_exists() -> None:
    rows = [line for line in section("Where things are").splitlines() if line.startswith("| ")]
    places = re.findall(r"`([\w/]+(?:\.py|/))`", "\n".join(rows))

    assert len(places) > 30
    assert [place for place in places if not (PACKAGE / place).exists()] == []


def test_the_tree_has_a_line_for_each_room_and_no_other() -> None:
    listed = set(re.findall(r"^[├└]── (\w+(?:\.py)?)", section("The tree"), re.MULTILINE))
    plumbing = {"__init__.py", "__main__.py", "__pycache__", "py.typed"}
    rooms = {path.name for path in PACKAGE.iterdir()} - plumbing

    assert listed == rooms


def test_every_identifier_of_the_glossary_is_in_the_source() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    words = set(re.findall(r"`([A-Za-z]\w+)", section("Glossary")))

    assert {"RunState", "Ticket", "CancelToken"} & words
    assert [word for word in sorted(words) if not re.search(rf"\b{word}\b", source)] == []


def test_every_session_in_the_table_is_a_session_of_nox() -> None:
    noxfile = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    sessions = re.findall(r"^@nox\.session.*\ndef (\w+)", noxfile, re.MULTILINE)

    assert set(re.findall(r"^\| `nox (?:--no-venv )?-s (\w+)", TEXT, re.MULTILINE)) == set(sessions)


def test_the_distribution_carries_every_document() -> None:
    included = (
        (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[tool.hatch.build.targets.sdist]")[1]
    )

    assert [path.name for path in ROOT.glob("*.md") if f'"{path.name}"' not in included] == []
