"""The steps of the guide for users of the source service, as it tells them: its .env, and its three requests."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fastapi import FastAPI
from fastapi.testclient import TestClient

from restaurant_llm_batch import BatchRunner, BatchSettings, Strategy
from restaurant_llm_batch.backends import OfflineLLM
from restaurant_llm_batch.cli._app import build
from restaurant_llm_batch.integrations.fastapi import batch_router
from restaurant_llm_batch.search import EmbeddedSearch

GUIDE = (Path(__file__).parent.parent / "docs/how-to/migrate.md").read_text("utf-8")
OLD_ENV = GUIDE.partition("```ini\n")[2].partition("```")[0]
CURLS = re.findall(r"```sh\n(curl .*?)```", GUIDE, re.DOTALL)
REVIEWS = [
    {"restaurant_id": "1", "review_id": "r1", "content": "직원분이 친절하고 응대가 빨라요."},
    {"restaurant_id": "1", "review_id": "r2", "content": "가격 대비 양이 많아서 만족해요."},
    {"restaurant_id": "2", "review_id": "r3", "content": "음식이 짜고 직원이 불친절해요."},
]


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """A service as the guide starts it."""
    search = EmbeddedSearch()
    search.index_reviews(REVIEWS)
    app = FastAPI()
    app.include_router(
        batch_router(BatchRunner(llm=OfflineLLM(), search=search, strategy=Strategy.stage(4)), uploads=True)
    )
    with TestClient(app) as client:
        yield client


def sent(client: TestClient, command: str) -> Any:
    """Send what a curl command sends."""
    words = shlex.split(command)
    name, _, value = words[words.index("-H") + 1].partition(": ")
    path = words[1].removeprefix("localhost:8000")
    answer = client.post(path, content=words[words.index("-d") + 1].encode(), headers={name: value})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_three_requests_are_answered_as_there(client: TestClient) -> None:
    summaries, sentiments, strengths = (sent(client, command) for command in CURLS)

    assert [one["restaurant_id"] for one in summaries["results"]] == [1, 2]
    first = summaries["results"][0]
    assert {"restaurant_id", "overall_summary", "categories"} == set(first)
    assert set(first["categories"]) == {"service", "price", "food"}
    assert first["categories"]["service"]["evidence"][0] == {
        "review_id": "r1",
        "snippet": "직원분이 친절하고 응대가 빨라요.",
        "rank": 0,
    }
    counts = {"positive_count": 2, "negative_count": 0, "neutral_count": 0, "total_count": 2}
    ratios = {"positive_ratio": 100, "negative_ratio": 0, "neutral_ratio": 0}
    assert {"restaurant_id": 1, **counts, **ratios}.items() <= sentiments["results"][0].items()
    (strength,) = strengths["results"]
    assert (strength["restaurant_id"], strength["target_count"], strength["comparison_count"]) == (1, 1, 1)
    assert strength["target_reviews"] == [
        {"content": "음식이 맛있고 서비스가 좋아요!", "is_recommended": True}
    ]
    assert "warnings" not in summaries | sentiments | strengths


@pytest.mark.parametrize("path", re.findall(r"`(/(?:llm|sentiment|vector)/[a-z/]+)`", GUIDE))
def test_every_path_of_the_table_is_there(client: TestClient, path: str) -> None:
    assert client.post(f"/api/v1{path}", json={}).status_code == 422


def test_the_example_file_becomes_what_the_guide_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("old.env").write_text(OLD_ENV)
    translated = CliRunner().invoke(build(), ["config", "--from-env", "old.env"])
    assert translated.exit_code == 0, translated.output
    Path(".env").write_text(translated.stdout)

    lines = [line for line in translated.stdout.splitlines() if line and not line.startswith("#")]
    promised = re.findall(r"`([A-Z_]+=[^`]+)`", GUIDE.partition("it makes ")[2].partition("\n\n")[0])
    assert set(promised) <= set(lines)
    settings = BatchSettings()
    assert (settings.batch_llm_model, settings.qdrant_collection) == ("gpt-5-mini", "reviews_collection")
    assert settings.batch_llm_concurrency == 8
    assert json.dumps(lines).count("SCORE_THRESHOLD") == 0
