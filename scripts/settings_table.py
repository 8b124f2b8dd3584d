"""
Settings table: writes the tables of docs/reference/environment.md from the fields of `BatchSettings` and `FORMER`.

    python scripts/settings_table.py            # rewrites the page; a test fails if it was forgotten
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from pydantic_core import to_jsonable_python

from restaurant_llm_batch import BatchSettings
from restaurant_llm_batch._settings.former import FORMER, PREFIXES
from restaurant_llm_batch.cli._settings import option_of, section_of

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "environment.md"
BEGIN, END = "<!-- settings: begin -->\n", "<!-- settings: end -->\n"
FORMER_BEGIN, FORMER_END = "<!-- former: begin -->\n", "<!-- former: end -->\n"


def tables() -> str:
    """Return a table for each section."""
    sections: defaultdict[str, list[str]] = defaultdict(list)
    for name, field in BatchSettings.model_fields.items():
        is_secret = "Secret" in str(field.annotation)
        option = "" if is_secret else f"`{option_of(name)}`"
        default = "" if field.default in (None, "") else f"`{to_jsonable_python(field.default)}`"
        meaning = str(field.description).replace("|", "\\|")
        sections[section_of(name)].append(f"| `{name.upper()}` | {option} | {default} | {meaning} |")
    head = "| variable | option | default | meaning |\n|---|---|---|---|\n"
    return "\n".join(f"## {title}\n\n{head}{chr(10).join(rows)}\n" for title, rows in sections.items())


def former_table() -> str:
    """Return a table of the variables that settings of other names replace, or nothing."""
    rows = []
    for name, former in {**FORMER, **{f"{prefix}*": one for prefix, one in PREFIXES.items()}}.items():
        successors = ", ".join(f"`{one}`" for one in former.successors)
        rows.append(f"| `{name}` | {successors} | {former.note[0].upper()}{former.note[1:]}. |")
    return "\n".join(["| variable | sets | how, or why nothing does |", "|---|---|---|", *rows, ""])


def page(text: str) -> str:
    """Return the page with the tables of today."""
    return _between(_between(text, BEGIN, END, tables()), FORMER_BEGIN, FORMER_END, former_table())


def _between(text: str, begin: str, end: str, table: str) -> str:
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{table}\n{end}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
