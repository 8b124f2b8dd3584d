"""Drawing of a run: tables for a terminal, and one line for everything else."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..._config.strategy import Strategy
from ..._text import terminal_text
from ...integrations._tally import calls, duration, load_text
from ...records._live import CallFigures, Picture, SlowItem
from ...records._recorded import RecordedLimit, RecordedLimiter
from .._tables import counted

_CELL = 60
"""Most characters of a text of a stranger in a cell."""
_LEAST = 10
"""Columns of a terminal that a text has in a table in any case."""
_SILENT_SECONDS = 5.0
"""Seconds without an event after which the display says so."""
_REASONS = {
    "slow_start": "all is well: doubling",
    "probe": "all is well: trying more",
    "rate_limited": "the service refused",
    "latency": "calls took too long",
    "latency_probe": "measuring calls without a queue",
    "server": "by the server's own load",
    "prompt_too_long": "a prompt was too long",
    "out_of_memory": "the server's memory was full",
    "manual": "set by a person",
    "share": "another share of a shared limit",
    "no_broker": "its broker does not answer",
}
_STRATEGIES = {str(Strategy.stage(number)): f"stage {number}" for number in (1, 2, 3, 4)} | {
    str(Strategy.threaded()): "threads"
}
_PER_MINUTE = {"requests_per_minute": "calls a minute", "tokens_per_minute": "tokens a minute"}


def draw(picture: Picture) -> RenderableType:
    """Return the run as tables."""
    return Group(*_parts(picture))


def _parts(picture: Picture) -> Iterator[RenderableType]:
    head = Text(heading(picture), style="bold", overflow="ellipsis", no_wrap=True)
    if picture.stopped:  # which stands nowhere else
        head.overflow, head.no_wrap = "fold", False
    yield head
    yield _progress(picture)
    yield Text(_figures(picture))
    if used := [one for one in picture.limiters if _is_used(one)]:
        yield _limiters(used)
    if picture.calls:
        yield _calls(picture.calls)
    if picture.slow_open or picture.slow_ended:
        yield _slow(picture)
    if picture.causes:
        yield _causes(picture)
    if picture.limits:
        yield _limits(picture.limits)


def heading(picture: Picture) -> str:
    """Return what runs, and since when or how it ended."""
    what = "simulated run" if picture.simulated else "run"
    strategy = _STRATEGIES.get(picture.strategy, picture.strategy)
    words = [f"{what} {picture.run}", picture.task, picture.model, strategy, _state(picture)]
    if picture.others:
        words.append(f"without an end too: {', '.join(map(str, picture.others))} (--run N shows another)")
    return " · ".join(_clean(word, 200) for word in words if word)


def _state(picture: Picture) -> str:
    passed = duration(picture.seconds)
    if picture.ended:
        return f"stopped after {passed}: {picture.stopped}" if picture.stopped else f"done in {passed}"
    if picture.simulated:
        return f"no end; {passed} of virtual time"
    if picture.silent < _SILENT_SECONDS:
        return f"running for {passed}"
    silent = f"nothing has happened for {duration(picture.silent)}"
    if is_here(picture.process):
        return f"running for {passed}; {silent}"
    return f"no end; began {passed} ago; {silent}, and process {picture.process} is not on this machine"


def is_here(process: int) -> bool:
    """Return whether there is a process of this id on this machine, or in this container."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError, ValueError):
        return True
    return True


def line(picture: Picture) -> str:
    """Return the run in one line."""
    share, left = _share(picture), _left(picture)
    parts = [f"run {picture.run}: {share} items", _counts(picture), _waits(picture.limiters)]
    parts += [
        f"{one.limiter} {one.in_use:,} of {one.most:,} in use"
        for one in picture.limiters
        if _is_used(one) and one.in_use is not None and one.most is not None and not picture.ended
    ]
    parts += [_figures(picture).replace(" · ", "; "), left, _state(picture)]
    return _clean("; ".join(part for part in parts if part), 2000)


def describe(change: RecordedLimit) -> str:
    """Return a change of a limit in words."""
    unit = _PER_MINUTE.get(change.limiter, "")
    of = f" {unit}" if unit else ""
    name = change.limiter.partition("_per_")[0] if unit else change.limiter
    reason = _REASONS.get(change.reason, change.reason)
    return _clean(f"{name} {change.calls_in_flight:,}{of} ({reason})", 200)


def _progress(picture: Picture) -> Table:
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(ratio=1)
    grid.add_column(no_wrap=True)
    done = picture.succeeded + picture.failed
    total = max(picture.total or done, 1) if picture.ended or picture.total is not None else None
    text = " · ".join(part for part in (_share(picture), _counts(picture), _left(picture)) if part)
    bar = ProgressBar(total=total, completed=done, pulse=total is None, animation_time=picture.seconds)
    grid.add_row(bar, Text(text))
    return grid


def _share(picture: Picture) -> str:
    done = picture.succeeded + picture.failed
    return f"{done:,}" if picture.total is None else f"{done:,}/{picture.total:,}"


def _counts(picture: Picture) -> str:
    counts = {
        "open": picture.open,
        "failed": picture.failed,
        "stopped": picture.unfinished,
        "not started": _not_started(picture),
    }
    return " · ".join(f"{number:,} {what}" for what, number in counts.items() if number)


def _not_started(picture: Picture) -> int:
    if not picture.ended or picture.total is None:
        return 0
    return max(0, picture.total - picture.succeeded - picture.failed - picture.unfinished)


def _left(picture: Picture) -> str:
    left = picture.seconds_left
    return "" if left is None else f"about {duration(left)} left"


def _figures(picture: Picture) -> str:
    now, overall = picture.calls_per_second[0], picture.calls_per_second[1]
    tokens_now, tokens = picture.tokens_per_second
    parts: list[str] = []
    if picture.ended:
        parts = [f"{overall:,.1f} calls/s", f"{tokens:,.0f} tokens/s"]
    else:
        parts = [
            f"{now:,.1f} calls/s (overall {overall:,.1f})",
            f"{tokens_now:,.0f} tokens/s (overall {tokens:,.0f})",
        ]
    parts.append(f"{picture.prompt_tokens:,} tokens in and {picture.completion_tokens:,} out")
    read = [one for one in picture.servers if one.running is not None]
    if not picture.ended and (load := load_text(read, picture.preemptions)):
        parts.append(load)
    if picture.cost is not None:
        end = "" if picture.cost_at_end is None else f" of about {picture.cost_at_end:,.4g}"
        parts.append(f"cost {picture.cost:,.4g}{end}")
    return " · ".join(parts)


def _waits(limiters: Iterable[RecordedLimiter]) -> str:
    slot = sum(one.waiting for one in limiters if one.limiter not in _PER_MINUTE)
    minute = sum(one.waiting for one in limiters if one.limiter in _PER_MINUTE)
    again = sum(one.retrying for one in limiters)
    waits = {"a slot": slot, "their minute": minute, "a retry": again}
    return ", ".join(f"{calls(number)} wait for {what}" for what, number in waits.items() if number)


def _is_used(one: RecordedLimiter) -> bool:
    return bool(one.peak or one.waiting or one.retrying or (one.limiter in _PER_MINUTE and one.most))


def _limiters(limiters: Sequence[RecordedLimiter]) -> Table:
    rows = _Rows("Limiter", "Limit", "In use", "Waits for a slot", "for its minute", "for a retry")
    for one in limiters:
        per_minute = one.limiter in _PER_MINUTE
        slot, minute = (0, one.waiting) if per_minute else (one.waiting, 0)
        limit = "as reported" if one.most is None else f"{one.most:,}"
        used = "" if one.in_use is None else f"{one.in_use:,}"
        over = one.most is not None and one.in_use is not None and one.in_use > one.most
        cells = (_number(slot), _number(minute), _number(one.retrying))
        rows.add_row(_cut(one.limiter), limit, Text(used, style="yellow" if over else ""), *cells)
    return rows


def _number(number: int | None) -> str:
    return f"{number:,}" if number else ""


def _calls(figures: dict[tuple[str, str], CallFigures]) -> Table:
    rows = _Rows("Call", "In flight", "Ended", "p50", "p95", "Refused", "Failed", "Stored")
    for (stage, label), one in figures.items():
        name = _cut(label if label == stage else f"{stage} {label}")
        ended = sum(number for outcome, number in one.ended.items() if outcome != "stored")
        failed = one.ended["failed"] + one.ended["late"]
        rows.add_row(
            *(name, _number(one.in_flight), _number(ended), _seconds(one.p50), _seconds(one.p95)),
            *(_number(one.ended["refused"]), _number(failed), _number(one.ended["stored"])),
        )
    return rows


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.2f} s" if seconds < 10 else duration(seconds)


def _slow(picture: Picture) -> Table:
    rows = _Rows("Slow items", "Time", "Waits for", numbers=(1,), texts=(0, 2))
    rows.columns[2].ratio = 1

    def add(items: Sequence[SlowItem]) -> None:
        for one in items:
            waits = one.waits_for or "done"
            rows.add_row(_cut(one.item_id, 30), _seconds(one.seconds), _cut(waits))

    add(picture.slow_open)
    add(picture.slow_ended)
    return rows


def _causes(picture: Picture) -> Table:
    rows = _Rows("Failed", "Stage", "Cause", "For example", numbers=(0,), texts=(2, 3))
    rows.columns[2].ratio = 1
    for cause in picture.causes[:5]:
        error = _cut(cause.error, 200, "red")
        rows.add_row(f"{cause.items:,}", _clean(cause.stage), error, _cut(cause.example, 30))
    hidden = picture.causes[5:]
    if hidden:
        items = sum(cause.items for cause in hidden)
        rows.add_row(f"{items:,}", "", f"of {counted(len(hidden), 'other cause', 'other causes')}", "")
    return rows


def _limits(changes: Sequence[RecordedLimit]) -> Text:
    latest = "; ".join(f"{duration(change.seconds)}: {describe(change)}" for change in reversed(changes))
    return Text(f"Limits changed at {latest}", style="dim", overflow="ellipsis", no_wrap=True)


class _Rows(Table):
    """
    A table without lines. On a narrow terminal its texts are cut first, then what stands to the right.

    Args:
        headers: Its headings.
        numbers: Columns that stand to the right; None for all but the first.
        texts: Columns of `_cut` texts.
    """

    def __init__(
        self, *headers: str, numbers: Sequence[int] | None = None, texts: Sequence[int] = (0,)
    ) -> None:
        super().__init__(*headers, box=None, header_style="dim", padding=(0, 2, 0, 0), pad_edge=False)
        self._texts = texts
        for place, column in enumerate(self.columns):
            column.no_wrap, column.overflow = place not in texts, "ellipsis"  # rich narrows what may wrap
            if place in (range(1, len(headers)) if numbers is None else numbers):
                column.justify = "right"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        least = sum(2 + self._least(place) for place in range(len(self.columns)))
        return super().__rich_console__(console, options.update(width=max(options.max_width, least)))

    def _least(self, place: int) -> int:
        column = self.columns[place]
        widest = max(cell_len(str(cell)) for cell in (column.header, *column.cells))
        return min(widest, _LEAST) if place in self._texts else widest


def _cut(text: str, limit: int = _CELL, style: str = "") -> Text:
    """Return a text of a stranger that never wraps, but is cut where its column ends."""
    return Text(_clean(text, limit), style=style, overflow="ellipsis", no_wrap=True)


def _clean(text: str, limit: int = _CELL) -> str:
    return terminal_text(text, limit)
