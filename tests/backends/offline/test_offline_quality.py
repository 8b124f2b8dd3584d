"""The figures of the gold set that the documentation promises; `nox -s quality` prints all of them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def _benchmark() -> ModuleType:
    path = Path(__file__).parents[3] / "benchmarks" / "quality.py"
    spec = importlib.util.spec_from_file_location("offline_quality", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


quality = _benchmark()


@pytest.fixture(scope="module")
def judged() -> dict[str, list[tuple[Any, Any]]]:
    judge = quality.Judge()
    return {
        language: [(remark, judge.judge(remark)) for remark in quality.read_remarks(language)]
        for language in quality.LANGUAGES
    }


def _share(rows: Sequence[tuple[Any, Any]], figure: str) -> float:
    return float(quality.share(getattr(verdict, figure) for _, verdict in rows))


@pytest.mark.slow
@pytest.mark.parametrize(("language", "remarks"), [("ko", 300), ("en", 200)])
def test_a_third_of_the_gold_set_is_held_out(judged: Any, language: str, remarks: int) -> None:
    held_out = [remark for remark, _ in judged[language] if remark.held_out]
    assert len(judged[language]) == remarks
    assert 0.25 < len(held_out) / remarks < 0.4


@pytest.mark.parametrize("language", ["ko", "en"])
def test_aspects_are_right(judged: Any, language: str) -> None:
    assert _share(judged[language], "aspect") >= 0.92
    assert _share([row for row in judged[language] if row[0].held_out], "aspect") >= 0.84


@pytest.mark.parametrize(("language", "plain", "all_"), [("ko", 0.96, 0.93), ("en", 0.95, 0.9)])
@pytest.mark.parametrize("figure", ["label", "opinion"])
def test_polarity_is_right(judged: Any, figure: str, language: str, plain: float, all_: float) -> None:
    assert _share([row for row in judged[language] if row[0].pattern == "plain"], figure) >= plain
    assert _share(judged[language], figure) >= all_
    held_out = [row for row in judged[language] if row[0].held_out and row[0].pattern == "plain"]
    assert _share(held_out, figure) >= 0.9


@pytest.mark.parametrize("language", ["ko", "en"])
def test_no_half_of_a_sentence_is_quoted_that_the_other_half_turns(judged: Any, language: str) -> None:
    assert [verdict.halves for _, verdict in judged[language] if verdict.halves] == []


@pytest.mark.parametrize("language", ["ko", "en"])
def test_no_complaint_is_named_as_a_strength(judged: Any, language: str) -> None:
    assert [remark.text for remark, verdict in judged[language] if verdict.praised] == []


def test_a_cut_beside_the_marks_is_noticed() -> None:
    remark = quality.Remark("en", "turn", (quality.Part("I hoped it was good, but no.", {"food": -1}),))
    assert not quality.is_whole("I hoped it was good", remark)
    assert quality.is_whole("I hoped it was good, but no", remark)
