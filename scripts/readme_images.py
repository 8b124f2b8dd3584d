"""
Draw the pictures of the README: `python scripts/readme_images.py` writes plan.svg and timeline.svg of docs/images.

The README's section "Before the night" says which command and which run they show, and a test that they are these.
"""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path

from click.testing import CliRunner
from rich.console import Console
from rich.text import Text

from restaurant_llm_batch import AdaptiveLimit, BatchRunner, Limits, Strategy, SummarizeAspects
from restaurant_llm_batch.backends import OfflineLLM
from restaurant_llm_batch.cli._app import build
from restaurant_llm_batch.results import RestaurantSummary
from restaurant_llm_batch.simulation import LogNormal, SimulatedServer, Simulation

IMAGES = Path(__file__).parents[1] / "docs" / "images"
PLAN = """\
restaurant-llm-batch summarize --mode split --llm openai --model gpt-5-mini \\
    --prices '{"gpt-5-mini": [0.25, 2.0]}' --plan"""
COLUMNS = 120


def plan() -> str:
    """Return what the command of the picture prints."""
    shown = CliRunner().invoke(
        build(), shlex.split(PLAN.replace("\\\n", " "))[1:], env={"OPENAI_API_KEY": "unused"}
    )
    assert shown.exit_code == 0, shown.output
    return shown.stdout


def draw_plan() -> str:
    """Return the command and what it prints as SVG, in whatever monospaced font there is."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(Text(f"$ {PLAN}", style="bold"))
    console.print(Text(plan().rstrip()))
    svg = console.export_svg(title="restaurant-llm-batch", unique_id="plan")
    return re.sub(
        r"@font-face \{.*?\}\n", "", svg, flags=re.DOTALL
    )  # which the viewer would fetch from a network


def simulate() -> Simulation[RestaurantSummary]:
    """Simulate the run of the picture."""
    runner = BatchRunner(
        llm=OfflineLLM(), strategy=Strategy.stage(4), limits=Limits(llm=AdaptiveLimit(start=4))
    )
    server = SimulatedServer(latency=LogNormal(median=0.8, sigma=0.5), slots=24, overload="refuse")
    return runner.simulate(SummarizeAspects(mode="split"), range(60), server)


def draw_timeline() -> str:
    """Return the timeline of the run as SVG."""
    return simulate().timeline("60 restaurants, a server of 24 slots, AdaptiveLimit(start=4)")


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    for name, draw in {"plan.svg": draw_plan, "timeline.svg": draw_timeline}.items():
        (IMAGES / name).write_text(draw(), encoding="utf-8")
        print(name)
