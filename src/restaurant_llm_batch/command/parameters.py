"""Parameters of the command line: how some are read, and those that several commands have."""

from __future__ import annotations

from pathlib import Path

import click


def names(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Split what was given at its commas."""
    if value is None:
        return None
    found = tuple(part.strip() for part in value.split(",") if part.strip())
    if not found:
        raise click.BadParameter("name at least one, with commas between several.", ctx, param)
    return found


def number_or_all(ctx: click.Context, param: click.Parameter, value: str) -> int | None:
    """Read a number, or "all", which becomes None."""
    text = value.strip().lower()
    if text != "all" and not text.isdecimal():
        raise click.BadParameter(f"{value!r} is neither a number nor 'all'.", ctx, param)
    return None if text == "all" else int(text)


def source() -> click.Argument:
    """Return the parameter that names a file or a folder."""
    return click.Argument(["source"], required=False, type=click.Path(path_type=Path))


def limit() -> click.Option:
    """Return the option that bounds the number of reviews."""
    return click.Option(
        ["--limit"], type=click.IntRange(1, 1000), default=10, show_default=True, help="Most reviews found."
    )


def min_score() -> click.Option:
    """Return the option that bounds the similarity."""
    return click.Option(
        ["--min-score"],
        type=click.FloatRange(-1, 1),
        default=0.0,
        show_default=True,
        help="Least similarity of a review to what is searched for; 0 for no bound.",
    )
