"""Command `config`: print every setting with its value, where the value comes from, and what it means."""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from pydantic import SecretStr
from rich import box
from rich.table import Table
from rich.text import Text

from ..._settings import BatchSettings, translation
from ..._settings.keys import without_keys
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

What holds is what a command uses without options. Where nothing sets BATCH_STAGE or one of the three switches, that is
stage 4; in Python, `BatchSettings()` then has all three switches off.

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
    held = settings.in_force(found)
    shown = {
        name: (_plain(name, value), origin)
        for name, (value, origin) in held.items()
        if not only_set or origins[name] != "default"
    }
    if as_json:
        values = {name.upper(): {"value": value, "from": origin} for name, (value, origin) in shown.items()}
        click.echo(json.dumps(values, ensure_ascii=False, indent=2, default=str))
        return
    out = report.console()
    for section in dict.fromkeys(map(settings.section_of, shown)):
        rows = {name: row for name, row in shown.items() if settings.section_of(name) == section}
        if out.is_terminal:
            out.print(_table(section, rows))
        else:  # a line a setting, so that a name is found by grep
            click.echo("\n".join([section, *(_line(name, *row) for name, row in rows.items()), ""]))
    if not shown:
        out.print("nothing is set: all settings have their defaults", soft_wrap=True)
    for name, former in former_variables(BatchSettings).items():
        out.print(Text(f"{name} is not read: {former.note}.", style="yellow"), soft_wrap=not out.is_terminal)


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


def _table(section: str, rows: Mapping[str, tuple[Any, str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, expand=True, header_style="bold", pad_edge=True)
    for heading, ratio in ((section, 3), ("Value", 2), ("Meaning", 4)):
        table.add_column(heading, ratio=ratio, overflow="fold")
    for name, (value, origin) in rows.items():
        style = "" if origin == "default" else "bold"
        label = Text(name.upper(), style=style)
        if option := _option(name):
            label.append(f"\n{option}", style="not bold dim")
        shown = _shown(value)
        cell = Text(shown, style=style).append(f"\n{origin}" if shown else origin, style="not bold dim")
        table.add_row(label, cell, Text(f"{BatchSettings.model_fields[name].description}"))
    return table


def _line(name: str, value: Any, origin: str) -> str:
    option = f" [{_option(name)}]" if _option(name) else ""
    return (
        f"  {name.upper()}={_shown(value)} ({origin}){option} {BatchSettings.model_fields[name].description}"
    )


def _option(name: str) -> str:
    """Return the option of a setting; "" for a key, which has none."""
    return "" if "Secret" in str(BatchSettings.model_fields[name].annotation) else settings.option_of(name)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return terminal_text(value if isinstance(value, str) else json.dumps(value, default=str))


def _plain(name: str, value: Any) -> Any:
    """Return a value as JSON has it, without keys and passwords."""
    if isinstance(value, SecretStr):
        return "(set)"
    if name == "batch_prices" and value is not None:
        return {model: [price.prompt, price.completion, price.cached] for model, price in value.items()}
    if name == "batch_proxy" and value is not None:
        value = _without_password(value)
    return without_keys(value)


def _without_password(url: str) -> str:
    scheme, separator, rest = url.rpartition("//")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
