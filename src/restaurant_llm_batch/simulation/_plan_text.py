"""A plan as text, and as HTML for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from textwrap import shorten

from .._text import terminal_text
from .plan import Plan, Range
from .result import duration

_MAX_WARNINGS, _MAX_KINDS, _WIDTH = 8, 6, 200


def as_text(plan: Plan, assumed: str) -> str:
    """Return a plan as text of at most 25 lines; `assumed` says what its times rest on."""
    lines = [f"Plan of {terminal_text(title(plan))}"]
    lines += [f"  {name:<17} {terminal_text(value)}" for name, value in facts(plan, assumed)]
    if plan.warnings:
        lines.append("Warnings:")
        lines += [
            f"  - {terminal_text(shorten(text, _WIDTH, placeholder=' ...'))}" for text in first(plan.warnings)
        ]
    return "\n".join(lines)


def as_html(plan: Plan, assumed: str) -> str:
    """Return a plan as HTML: its facts, its calls as a table, and its warnings."""
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{_cell(text)}</td></tr>" for name, text in facts(plan, assumed)
    )
    calls = "".join(
        "<tr>"
        + "".join(
            f"<td>{_cell(cell)}</td>"
            for cell in (
                one.kind,
                span(one.calls_range),
                f"{one.prompt_tokens:,}",
                span(one.completion_tokens),
                f"{one.completion_tokens_at_most:,}",
                one.reason,
            )
        )
        + "</tr>"
        for one in plan.kinds
    )
    heads = ("calls of kind", "calls", "prompt tokens", "answer tokens", "at most", "why a range")
    header = "".join(f"<th>{head}</th>" for head in heads)
    warnings = "".join(f"<li>{_cell(text)}</li>" for text in first(plan.warnings))
    return (
        f"<div><p><b>Plan of {_cell(title(plan))}</b></p><table>{rows}</table>"
        f"<table><tr>{header}</tr>{calls}</table>" + (f"<ul>{warnings}</ul>" if warnings else "") + "</div>"
    )


def title(plan: Plan) -> str:
    """Return what is planned, in words."""
    sample = f", of which {plan.sampled:,} were looked at" if plan.sampled < plan.items else ""
    model = f", model {plan.model}" if plan.model else ""
    return f"{plan.task}: {plan.items:,} item{'s' * (plan.items != 1)}{sample}{model}"


def facts(plan: Plan, assumed: str) -> list[tuple[str, str]]:
    """Return the figures of a plan by name, in words."""
    kinds = [f"{one.kind} {span(one.calls_range)}" for one in plan.kinds[:_MAX_KINDS]]
    more = len(plan.kinds) - _MAX_KINDS
    listed = ", ".join(kinds) + (f" and {more} more kinds" if more > 0 else "")
    found = [("calls", f"{sum(plan.calls.values()):,}" + (f": {listed}" if listed else ""))]
    if plan.repairs_at_most:
        found.append(
            ("asked again", f"0 to {plan.repairs_at_most:,} calls, by how many answers cannot be read")
        )
    if plan.searches:
        found.append(("searches", f"{plan.searches:,}"))
    if plan.stored:
        found.append(("in the store", f"{sum(plan.stored.values()):,} replies, which are not paid for"))
    prompt = f"{plan.prompt_tokens:,}"
    if plan.prompt_tokens_range.low != plan.prompt_tokens_range.high:
        prompt += f" ({span(plan.prompt_tokens_range)}, by the answers that stand in them)"
    if plan.cached_share >= 0.01:
        prompt += f"; {plan.cached_share:.0%} may come from a service's prompt cache"
    found.append(("prompt tokens", prompt))
    found.append(
        (
            "answer tokens",
            f"{span(plan.completion_tokens)} likely, {plan.completion_tokens_at_most:,} at most",
        )
    )
    if plan.cost is None or plan.cost_at_most is None:
        found.append(("cost", "unknown"))
    else:
        found.append(("cost", f"{money(plan.cost)} likely, {plan.cost_at_most:.4g} at most"))
    half, double = (duration(plan.seconds_by_limits[name]) for name in ("half", "double"))
    times = f"{duration(plan.seconds)}; with half the calls in flight {half}, with double {double}"
    found.append(("time", f"{times} ({assumed})"))
    in_flight = f"{plan.tokens_in_flight.low:,.0f} likely, {plan.tokens_in_flight.high:,.0f} at most"
    if plan.kv_tokens is not None:
        in_flight += f"; the cache holds {plan.kv_tokens:,}"
    found.append(("tokens in flight", in_flight))
    return found


def first(warnings: Sequence[str]) -> list[str]:
    """Return the first warnings, and how many more there are."""
    more = len(warnings) - _MAX_WARNINGS
    return [*warnings[:_MAX_WARNINGS], *([f"and {more} more"] if more > 0 else [])]


def span(numbers: Range) -> str:
    """Return a range of whole numbers in words."""
    low, high = round(numbers.low), round(numbers.high)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def money(cost: Range) -> str:
    """Return a range of costs in words."""
    return f"{cost.low:.4g} to {cost.high:.4g}"


def _cell(text: str) -> str:
    return escape(terminal_text(text))
