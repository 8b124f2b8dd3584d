"""Tests of `Simulation.timeline` and of how a notebook shows a simulation."""

from __future__ import annotations

import builtins
import runpy
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restaurant_llm_batch import BatchRunner, Limits, LLMResponse, Strategy, TimeLimits, errors
from restaurant_llm_batch.events import CallEnded, CallStarted, Event, RetryScheduled, RunEnded, RunStarted
from restaurant_llm_batch.models import LLMRequest
from restaurant_llm_batch.outcomes import RunStats
from restaurant_llm_batch.simulation import LogNormal, SimulatedServer, Simulation, _drawing
from restaurant_llm_batch.simulation._timeline import STEPS, lay_out, level
from restaurant_llm_batch.steps import complete, gather
from restaurant_llm_batch.testing import FakeLLM

ROOT = Path(__file__).parents[2]
SPANS = st.lists(st.tuples(st.floats(0, 90), st.floats(0, 10)).map(lambda span: (span[0], span[0] + span[1])))


def dish(item: int) -> Any:
    message = {"role": "user", "content": f"Name dish {item}."}
    return (yield from complete(LLMRequest("dish", (message,), max_tokens=50))).text


def menu(item: int) -> Any:
    """Make three calls of one name."""
    return len((yield from gather(dish(item), dish(item + 1000), dish(item + 2000))))


def simulate(task: Any = dish, items: Any = range(40), limit: int = 8, **server: Any) -> Simulation[Any]:
    runner = BatchRunner(llm=FakeLLM(), strategy=Strategy.stage(4), limits=Limits(llm=limit))
    return runner.simulate(task, items, SimulatedServer(**{"latency": LogNormal(0.5, 0.5), **server}))


def texts(svg: str) -> list[str]:
    return ["".join(found.itertext()) for found in ET.fromstring(svg).iter() if found.tag.endswith("}text")]


def ended(start: float, end: float, error: Exception | None = None, item: int = 1) -> list[Event]:
    reply = LLMResponse("") if error is None else None
    return [
        CallStarted(1, start, item, "llm", "dish", 1, 0.0, 1),
        CallEnded(1, end, item, "llm", "dish", 1, end - start, 1, reply, error),
    ]


@pytest.mark.parametrize("limit", [1, 5, 8])
def test_each_slot_of_the_model_has_a_row_and_its_calls_do_not_overlap(limit: int) -> None:
    simulation = simulate(menu, range(20), limit)
    layout = lay_out(simulation.events)

    assert layout.rows == simulation.server.peak == limit
    assert len(layout.bars) == simulation.server.calls == 60
    assert layout.seconds == simulation.seconds
    for row in range(layout.rows):
        bars = [bar for bar in layout.bars if bar.row == row]
        assert all(one.end <= other.start + 1e-9 for one, other in pairwise(bars))


def test_every_fate_of_a_call_is_told_apart() -> None:
    busy, down = errors.RateLimited("busy"), errors.TransientBackendError("down")
    events: Sequence[Event] = [
        RunStarted(1, 100.0, 4, "dish"),
        *ended(100.0, 101.0),
        *ended(100.0, 100.1, busy),
        RetryScheduled(1, 100.1, 1, "llm", "dish", 1, 2.0, True, busy),
        *ended(101.0, 103.0, down),
        RetryScheduled(1, 103.0, 1, "llm", "dish", 1, 99.0, False, down),
        *ended(103.0, 104.0, errors.PermanentBackendError("no")),
        CallStarted(1, 104.0, 7, "llm", "dish", 2, 3.0, 1),
        CallStarted(1, 104.0, 7, "search", "food", 1, 3.0, 1),
        RunEnded(1, 105.0, RunStats()),
    ]
    layout = lay_out(events)

    assert [(bar.start, bar.end, bar.fate) for bar in layout.bars] == [
        (0.0, pytest.approx(0.1), "refused"),
        (0.0, 1.0, "answered"),
        (1.0, 3.0, "retried"),
        (3.0, 4.0, "failed"),
        (4.0, 5.0, "cancelled"),
    ]
    assert layout.waiting == [(1.0, 4.0)]
    assert layout.backing_off == [(pytest.approx(0.1), pytest.approx(2.1)), (3.0, 5.0)]


@pytest.mark.parametrize(
    "server",
    [
        {"slots": 8, "overload": "refuse"},
        {"faults": {"bad_request": 0.1, "server_error": 0.2}},
        {"requests_per_minute": 30, "retry_after": 1.0},
    ],
)
def test_the_fates_of_calls_are_those_that_the_server_saw(server: Any) -> None:
    simulation = simulate(items=range(60), limit=12, **server)
    fates = [bar.fate for bar in lay_out(simulation.events).bars]

    assert fates.count("answered") == simulation.server.answered
    assert fates.count("refused") == simulation.server.refused
    assert fates.count("failed") >= simulation.server.faults["bad_request"]
    assert fates.count("failed") + fates.count("retried") == sum(simulation.server.faults.values())
    assert simulation.server.refused > 0 or len(set(fates)) == 3


def test_calls_that_the_end_of_a_run_cuts_off_are_drawn_to_there() -> None:
    runner = BatchRunner(
        llm=FakeLLM(), strategy=Strategy.stage(4), limits=Limits(llm=4), time_limits=TimeLimits(run=5.0)
    )
    simulation = runner.simulate(dish, range(8), SimulatedServer(latency=3.0))
    bars = lay_out(simulation.events).bars

    assert len(bars) == simulation.server.calls
    assert max(bar.end for bar in bars) <= simulation.seconds


@given(SPANS)
def test_a_level_has_the_area_of_its_spans(spans: list[tuple[float, float]]) -> None:
    moments, numbers = level(spans * 20, 100.0)
    area = sum(
        number * (end - start) for number, start, end in zip(numbers, moments, moments[1:], strict=False)
    )

    assert len(moments) == len(numbers) <= STEPS + 1
    assert moments[0] == 0.0
    assert moments[-1] == pytest.approx(100.0)
    assert area == pytest.approx(20 * sum(end - start for start, end in spans), abs=1e-6)


def test_a_timeline_is_svg_with_a_title_axes_and_a_legend_of_what_occurs() -> None:
    simulation = simulate(slots=4, overload="refuse")
    found = texts(simulation.timeline())

    assert {"slot of the model", "waiting", "seconds", "answered", "refused"} <= set(found)
    assert "failed for good" not in found
    assert any(text.startswith("dish: ") for text in found)


@pytest.mark.slow
def test_equal_runs_have_equal_timelines() -> None:
    first, again, other = simulate(), simulate(), simulate(limit=7)

    assert first.timeline() == again.timeline() == first.timeline()
    assert first.timeline() != other.timeline()


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "title",
    [
        "친절한 식당 요약",
        "<script>alert(1)</script> & \"'",
        "$x_2$ 50% \\frac",
        "a\x00b\x1b[0m\ud800c",
        "",
        "🍜" * 300,
    ],
)
def test_any_title_is_shown_as_it_is(title: str) -> None:
    svg = simulate(items=range(3)).timeline(title)
    expected = "".join(character if character.isprintable() else " " for character in title).strip()

    assert "<script" not in svg
    assert expected in [text.strip() for text in [*texts(svg), ""]]


@pytest.mark.slow
def test_the_number_in_flight_is_drawn_of_very_many_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_drawing, "MOST_BARS", 100)
    few, many = simulate(items=range(100)).timeline(), simulate(items=range(101)).timeline()
    wide = simulate(items=range(90), limit=_drawing.MOST_ROWS + 1).timeline()

    assert "slot of the model" in texts(few)
    assert "calls in flight" in texts(many)
    assert "calls in flight" in texts(wide)


@pytest.mark.parametrize("items", [[], [1]])
def test_nothing_and_one_call_that_takes_no_time_can_be_drawn(items: list[int]) -> None:
    assert "seconds" in texts(simulate(items=items, latency=0.0).timeline())


def test_a_notebook_shows_a_table_and_the_timeline() -> None:
    html = simulate(items=range(5))._repr_html_()

    assert html.startswith("<table>")
    assert ">5 succeeded, 0 failed</td>" in html
    assert html.rstrip().endswith("</svg>")


def test_the_name_of_a_task_is_escaped() -> None:
    def task(item: int) -> Any:
        return (yield from dish(item))

    task.__name__ = "<b>bold</b>"
    html = simulate(task, range(2))._repr_html_()

    assert "<b>" not in html
    assert "&lt;b&gt;bold" in html


def test_outcomes_that_were_handed_over_leave_no_timeline() -> None:
    simulation = BatchRunner(llm=FakeLLM()).simulate(dish, range(3), on_outcome=lambda outcome: None)

    assert simulation._repr_html_().endswith("</table>")
    with pytest.raises(errors.ConfigurationError, match="leave on_outcome out"):
        simulation.timeline()


def test_without_matplotlib_there_is_the_table_and_an_error_that_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    simulation = simulate(items=range(3))
    real = builtins.__import__

    def without(name: str, *arguments: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "restaurant_llm_batch.simulation._drawing", raising=False)

    assert simulation._repr_html_().endswith("</table>")
    with pytest.raises(ImportError, match=r"restaurant-llm-batch\[plots\]"):
        simulation.timeline()


@pytest.fixture(scope="module")
def images() -> dict[str, Any]:
    """Run the script that draws the pictures of the README, and return its names."""
    return runpy.run_path(str(ROOT / "scripts" / "readme_images.py"))


def test_the_timeline_in_the_readme_is_the_run_that_it_tells_of(images: dict[str, Any]) -> None:
    simulation = images["simulate"]()
    svg = (ROOT / "docs" / "images" / "timeline.svg").read_text(encoding="utf-8")

    assert f"\n{simulation}\n" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "60 restaurants, a server of 24 slots, AdaptiveLimit(start=4)" in texts(svg)
    assert svg.count("<path") > simulation.server.calls


def test_the_plan_in_the_readme_is_what_its_command_prints(
    images: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    svg = (ROOT / "docs" / "images" / "plan.svg").read_text(encoding="utf-8")

    assert f"$ {images['PLAN']}\n" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert images["draw_plan"]() == svg
