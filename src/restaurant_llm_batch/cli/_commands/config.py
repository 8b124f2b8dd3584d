"""Command `config`: print every setting with its value, where the value comes from, and what it means."""

from __future__ import annotations

import json
from typing import Any

import click
from pydantic import SecretStr
from rich import box
from rich.table import Table
from rich.text import Text

from ..._settings import BatchSettings
from ..._text import escaped_json, terminal_text
from .. import _report as report
from .. import _settings as settings

_HELP = """
Print every setting: its value, where the value comes from, and what it means.

A setting is an environment variable, a line of the file .env, or of the TOML file restaurant-llm-batch.toml (or of the
one that BATCH_CONFIG names; names in lower case there); in that order the first that has a value wins. An option of a
command goes before all of them, and an argument in Python before options. Keys are never shown.
"""


def command() -> click.Command:
    """Build the command."""
    flags = [
        click.Option(["--set", "only_set"], is_flag=True, help="Only what is not the default."),
        click.Option(["--json", "as_json"], is_flag=True, help="As JSON, for scripts."),
    ]
    return click.Command("config", params=[*flags], callback=_main, help=_HELP)


def _main(only_set: bool, as_json: bool) -> None:
    found = BatchSettings()
    origins = found.origins()
    names = [name for name in BatchSettings.model_fields if not only_set or origins[name] != "default"]
    if as_json:
        values = {name.upper(): {"value": _value(found, name), "from": origins[name]} for name in names}
        click.echo(escaped_json(json.dumps(values, ensure_ascii=False, indent=2, default=str)))
        return
    out = report.console()
    for section in dict.fromkeys(map(settings.section_of, names)):
        table = Table(box=box.SIMPLE_HEAD, expand=True, header_style="bold", pad_edge=True)
        for heading, ratio in ((section, 3), ("Value", 2), ("Meaning", 4)):
            table.add_column(heading, ratio=ratio, overflow="fold")
        for name in names:
            if settings.section_of(name) == section:
                table.add_row(*_row(found, name, origins[name]))
        out.print(table)
    if not names:
        out.print("nothing is set: all settings have their defaults")


def _row(found: BatchSettings, name: str, origin: str) -> tuple[Text, Text, Text]:
    field = BatchSettings.model_fields[name]
    label = Text(name.upper(), style="" if origin == "default" else "bold")
    if "Secret" not in str(field.annotation):
        label.append(f"\n{settings.option_of(name)}", style="not bold dim")
    value = _value(found, name)
    shown = (
        ""
        if value is None
        else terminal_text(value if isinstance(value, str) else json.dumps(value, default=str))
    )
    cell = Text(shown, style="" if origin == "default" else "bold")
    cell.append(f"\n{origin}" if shown else origin, style="not bold dim")
    return label, cell, Text(f"{field.description}")


def _value(found: BatchSettings, name: str) -> Any:
    value = getattr(found, name)
    if isinstance(value, SecretStr):
        return "(set)"
    if name == "batch_prices" and value is not None:
        return {model: [price.prompt, price.completion, price.cached] for model, price in value.items()}
    if name == "batch_proxy" and value is not None:
        return _without_password(value)
    return value


def _without_password(url: str) -> str:
    scheme, separator, rest = url.rpartition("//")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
