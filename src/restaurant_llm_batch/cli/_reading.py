"""Options of commands that read a table: its columns, its encoding, its bad rows, its scale of ratings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import click

from .._rows.columns import Advice, TableForm
from .._rows.polarity import USUAL_SCALE, RatingScale, as_scale
from ..errors import ConfigurationError

_BETWEEN_PAIRS = re.compile(r",(?=\s*\w+\s*=)")
"""A comma that ends a name of a column; one in a name is not followed by FIELD=."""


def options(*, ratings: bool = False) -> list[click.Parameter]:
    """
    Return the options that say how to read a table.

    Args:
        ratings: Whether the command reads ratings.
    """
    found: list[click.Parameter] = [
        click.Option(
            ["--columns"],
            multiple=True,
            metavar="FIELD=COLUMN,...",
            help="Names of the table's columns, if they are others: restaurant_id=store,content=text. "
            "FIELD is restaurant_id, content, review_id, name, category, or what the command's help says.",
        ),
        click.Option(
            ["--encoding"],
            metavar="NAME",
            help="Encoding of a text file. Without it: UTF-8, UTF-16 with its mark, or CP949, whichever it is.",
        ),
        click.Option(
            ["--bad-rows"],
            type=click.Choice(["refuse", "skip"]),
            default="refuse",
            show_default=True,
            help="Refuse a file with rows that cannot be read, or leave them out and name them.",
        ),
    ]
    if ratings:
        found.append(
            click.Option(
                ["--rating-scale"],
                metavar="LOW-HIGH",
                default=f"{USUAL_SCALE[0]:g}-{USUAL_SCALE[1]:g}",
                show_default=True,
                callback=_scale,
                help="Lowest and highest rating: the upper quarter is positive, the lower one negative.",
            )
        )
    return found


def take_form(values: dict[str, Any]) -> TableForm:
    """
    Take the values of these options out of a command's values, and return the form of the table.

    Args:
        values: The values by parameter; those that say how to read a table are removed.

    Raises:
        BadParameter: A value is invalid.
    """
    columns = _columns(values.pop("columns", ()))
    return TableForm(
        columns=columns,
        encoding=values.pop("encoding", None),
        bad_rows=values.pop("bad_rows", "refuse"),
        advice=Advice(options=True),
        may_be_empty=False,
    )


def _columns(texts: Sequence[str]) -> dict[str, str] | None:
    found: dict[str, str] = {}
    for text in texts:
        for pair in _BETWEEN_PAIRS.split(text):
            field, sign, column = pair.partition("=")
            if not sign or not field.strip() or not column.strip():
                raise click.BadParameter(
                    f"{pair!r} is not FIELD=COLUMN; for example --columns restaurant_id=store,content=text",
                    param_hint="--columns",
                )
            found[field.strip()] = column.strip()
    return found or None


def _scale(ctx: click.Context, param: click.Parameter, value: str) -> RatingScale:
    try:
        return as_scale(value)
    except ConfigurationError:
        raise click.BadParameter(
            f"{value!r} is not the lowest and the highest rating; for example --rating-scale 1-10", ctx, param
        ) from None
