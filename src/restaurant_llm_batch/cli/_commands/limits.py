"""Command `limits`: who holds the slots of shared limits, and what waits; sets a limit for all processes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.table import Table
from rich.text import Text

from ..._limits.aimd import AdaptiveLimit
from ..._text import terminal_text
from ...errors import ConfigurationError
from ...sharing import Broker, BrokerUnavailable, FileBroker, LimitView, RayBroker, RedisBroker
from .. import _report as report

_HELP = """
Show the limits that processes share at a broker: who holds slots, and how many calls wait for some.

BROKER is the file of a FileBroker, the URL of a RedisBroker, or ray://NAME for a RayBroker. A process that neither
holds slots nor waits for some is not shown.

\b
    restaurant-llm-batch limits limits.db
    restaurant-llm-batch limits redis://localhost:6379/0
    restaurant-llm-batch limits ray://limits

With "set", change limits for all processes, in a second or two, while they run:

\b
    restaurant-llm-batch limits limits.db set gpu=16
"""


def command() -> click.Command:
    """Build the command."""
    return click.Command(
        "limits",
        params=[
            click.Argument(["broker"]),
            click.Argument(["changes"], nargs=-1, metavar="[set NAME=LIMIT...]"),
            click.Option(["--json", "as_json"], is_flag=True, help="As JSON, for scripts."),
        ],
        callback=_main,
        help=_HELP,
    )


def _main(broker: str, changes: tuple[str, ...], as_json: bool) -> None:
    wanted = _changes(changes)
    opened = _broker(broker)
    try:
        for name, limit in wanted.items():
            opened.set_limit(name, limit)
        found = opened.limits()
    except BrokerUnavailable as error:
        raise ConfigurationError(f"the broker {opened.place} does not answer: {error}") from error
    finally:
        opened.close()
    if as_json:
        click.echo(json.dumps(_plain(found), ensure_ascii=False, indent=2))
    elif not found:
        click.echo("no limit has been declared there yet")
    else:
        report.console().print(_table(found))


def _changes(words: tuple[str, ...]) -> dict[str, int]:
    if not words:
        return {}
    verb, *pairs = words
    if verb != "set" or not pairs:
        raise click.UsageError(
            f"expected set NAME=LIMIT after the broker, got {terminal_text(' '.join(words))!r}"
        )
    changes: dict[str, int] = {}
    for pair in pairs:
        name, _, number = pair.rpartition("=")
        if not name or not number.isascii() or not number.isdecimal() or not int(number):
            raise click.UsageError(
                f"expected NAME=LIMIT with a limit of at least 1, got {terminal_text(pair)!r}; for example gpu=16"
            )
        changes[name] = int(number)
    return changes


def _broker(text: str) -> Broker:
    scheme, separator, rest = text.partition("://")
    if not separator:
        if not Path(text).exists():
            raise ConfigurationError(
                f"there is no file {terminal_text(text)!r}; name the file of a FileBroker, redis://HOST or ray://NAME"
            )
        return FileBroker(text)
    if scheme == "ray":
        return _ray_broker(rest)
    return RedisBroker(text)


def _ray_broker(name: str) -> Broker:
    broker = RayBroker(name or "limits")
    import ray

    if not ray.is_initialized():
        try:
            ray.init(address="auto", log_to_driver=False)
        except ConnectionError as error:
            raise ConfigurationError(
                "no Ray cluster runs on this machine; start one, or run this on its nodes"
            ) from error
    return broker


def _plain(found: Mapping[str, LimitView]) -> dict[str, Any]:
    return {
        name: {
            "limit": limit.limit,
            "declared": str(limit.declared),
            "lent": sum(member.lent for member in limit.members),
            "waiting": sum(member.waiting for member in limit.members),
            "members": [member._asdict() for member in limit.members],
        }
        for name, limit in found.items()
    }


def _table(found: Mapping[str, LimitView]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for heading in ("Limit", "Process"):
        table.add_column(heading, overflow="fold")
    for heading in ("Lent", "In use", "Waiting", "Loan ends in"):
        table.add_column(heading, justify="right")
    for name, limit in found.items():
        lent, in_use, waiting = (
            sum(getattr(member, field) for member in limit.members) for field in ("lent", "in_use", "waiting")
        )
        kind = "adaptive, " if isinstance(limit.declared.limit, AdaptiveLimit) else ""
        table.add_row(
            Text(terminal_text(name), style="bold"),
            Text(f"{kind}{len(limit.members)} in all", style="bold"),
            *(
                Text(text, style="bold")
                for text in (f"{lent} of {limit.limit}", str(in_use), str(waiting), "")
            ),
        )
        for member in limit.members:
            numbers = (str(number) for number in member[1:4])
            table.add_row("", Text(terminal_text(member.label)), *numbers, f"{member.seconds_left:.1f} s")
    return table
