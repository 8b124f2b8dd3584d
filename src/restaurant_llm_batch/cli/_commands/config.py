"""Command `config`: print every setting with its value, where the value comes from, and what it means."""

from __future__ import annotations

import codecs
import json
import sys
from pathlib import Path
from typing import Any

import click
from pydantic import SecretStr
from rich import box
from rich.table import Table
from rich.text import Text

from ..._settings import BatchSettings, translation
from ..._settings.sources import former_variables
from ..._text import terminal_text
from ...errors import ConfigurationError
from .. import _report as report
from .. import _settings as settings

_HELP = """
Print every setting: its value, where the value comes from, and what it means.

A setting is an environment variable, a line of the file .env, or of the TOML file restaurant-llm-batch.toml (or of the
one that BATCH_CONFIG names; names in lower case there); in that order the first that has a value wins. An option of a
command goes before all of them, and an argument in Python before options. Keys are never shown.

With --from-env it prints the settings that a .env file of the source service comes to, as a file to save:

\b
    restaurant-llm-batch config --from-env old.env > .env
"""


def command() -> click.Command:
    """Build the command."""
    flags = [
        click.Option(["--set", "only_set"], is_flag=True, help="Only what is not the default."),
        click.Option(["--json", "as_json"], is_flag=True, help="As JSON, for scripts."),
        click.Option(
            ["--from-env"],
            type=click.Path(path_type=Path, allow_dash=True),
            metavar="FILE",
            help="Translate a .env file of the source service, each line explained; - for standard input.",
        ),
        click.Option(["--toml", "as_toml"], is_flag=True, help="With --from-env: as a TOML file."),
    ]
    return click.Command("config", params=[*flags], callback=_main, help=_HELP)


def _main(only_set: bool, as_json: bool, from_env: Path | None, as_toml: bool) -> None:
    if from_env is not None:
        _translate(from_env, as_toml)
        return
    if as_toml:
        raise click.UsageError("--toml is the form of what --from-env FILE prints; name the file")
    found = BatchSettings()
    origins = found.origins()
    names = [name for name in BatchSettings.model_fields if not only_set or origins[name] != "default"]
    if as_json:
        values = {name.upper(): {"value": _value(found, name), "from": origins[name]} for name in names}
        click.echo(json.dumps(values, ensure_ascii=False, indent=2, default=str))
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
    for name, former in former_variables(BatchSettings).items():
        out.print(Text(f"{name} is not read: {former.note}.", style="yellow"))


def _translate(path: Path, as_toml: bool) -> None:
    """Print the settings that a file of former variables comes to."""
    try:
        raw = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read {str(path)!r}: {error.strerror}") from error
    write = translation.as_toml if as_toml else translation.as_env
    text = write(translation.translate(decoded(raw)), str(path))
    click.echo(text.encode("utf-8", "replace"), nl=False)  # as bytes: a file is UTF-8, whatever the terminal


def decoded(raw: bytes) -> str:
    """Return a file's text: UTF-8 or UTF-16, otherwise CP949, in which Korean Windows writes."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return raw.decode("utf-16", "replace")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("cp949", "replace")


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
