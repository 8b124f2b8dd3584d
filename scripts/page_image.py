"""
Draw the picture of the page: `python scripts/page_image.py` records a run and writes docs/images/view.png.

It needs Chromium and playwright, as the tests marked `browser` do. With a folder as argument it writes a picture of
every view there, in both colours.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from playwright.sync_api import sync_playwright

from restaurant_llm_batch import (
    AdaptiveLimit,
    BatchRunner,
    Limits,
    LLMRequest,
    Price,
    Strategy,
    SummarizeAspects,
    errors,
)
from restaurant_llm_batch.backends import OfflineLLM
from restaurant_llm_batch.records import Recording, open_record
from restaurant_llm_batch.testing import FakeSearch

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "view.png"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
VIEWS = (
    "overview",
    "timeline",
    "items",
    "calls",
    "failures",
    "distributions",
    "limits",
    "compare",
    "item/4",
    "item/17",
)
REVIEWS = {
    "food": [
        "국물이 진하고 고기가 부드러워요.",
        "냉면 육수가 시원하고 면이 쫄깃합니다.",
        "반찬이 짜고 밥이 식어 있었어요.",
        "The broth is rich and the meat is tender.",
    ],
    "service": [
        "직원분들이 친절하고 자리를 빨리 안내해 주셨어요.",
        "주문이 늦고 불러도 오지 않았어요.",
        "The staff is friendly and quick.",
    ],
    "price": [
        "양이 많아서 가격이 아깝지 않아요.",
        "가격에 비해 양이 적어요.",
        "A bit expensive for what you get.",
    ],
    "other": ["창가 자리에서 보는 풍경이 좋아요.", "주차가 어려워요.", "아이들과 가기 좋은 곳이에요."],
}


class UnevenLLM(OfflineLLM):
    """The offline model with the latency and the faults of a busy service."""

    model = "gemma-3-12b"

    def __init__(self, seats: int) -> None:
        super().__init__()
        self._drawn = Random(7)
        self._seats = seats
        self._busy = 0

    async def acomplete(self, request: LLMRequest, /) -> Any:
        """Complete a request, after a while, or fail."""
        from anyio import sleep

        if self._busy >= self._seats:
            raise errors.RateLimited(f"{self._busy} requests are running", retry_after=0.05)
        self._busy += 1
        try:
            await sleep(self._drawn.lognormvariate(-2.4, 0.5))
            if request.inputs.get("restaurant_id") in (17, 60, 101):
                raise errors.PromptTooLong(
                    "This model's maximum context length is 8192 tokens, and the prompt has 9034"
                )
            if self._drawn.random() < 0.02:
                raise errors.TransientBackendError("502 Bad Gateway")
            reply = super().complete(request)
            read = sum(len(message["content"]) for message in request.messages) // 2
            return replace(
                reply, model=self.model, prompt_tokens=read, completion_tokens=len(reply.text) // 2
            )
        finally:
            self._busy -= 1


def record(path: Path) -> None:
    """Record two runs."""
    drawn = Random(3)
    shops = {shop: [drawn.choice(kind) for kind in REVIEWS.values() for _ in range(3)] for shop in range(120)}
    night = Recording(path, texts=True)
    for start, seats in ((4, 12), (8, 24)):
        llm = UnevenLLM(seats)
        limits = Limits(llm=AdaptiveLimit(start=start, max=32), requests_per_minute=3600)
        with BatchRunner(
            llm=llm,
            search=FakeSearch(shops, seconds=0.01),
            strategy=Strategy.stage(4),
            limits=limits,
            record=night,
            prices={"": Price(0.25, 2.0)},
        ) as runner:
            runner.run(SummarizeAspects(mode="split"), list(shops))


def draw(page: Any, address: str, view: str, picture: Path) -> None:
    """Write a picture of a view."""
    page.goto(f"{address}#/run/2/{view}")
    page.wait_for_selector(f"main.view-{view.partition('/')[0]}:not(:has([aria-busy]))")
    page.wait_for_timeout(300)
    page.screenshot(path=picture, full_page=picture != PICTURE)


def main(folder: Path | None) -> None:
    """Draw the picture, or all of them into a folder."""
    with TemporaryDirectory() as kept, sync_playwright() as play:
        path = Path(kept) / "night.db"
        record(path)
        made = Path(kept) / "night.html"
        open_record(path).to_html(made)
        program = next(filter(None, map(shutil.which, PROGRAMS)))
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for scheme in ("light", "dark") if folder else ("light",):
            page = browser.new_page(viewport={"width": 1280, "height": 860}, color_scheme=scheme)
            if folder is None:
                draw(page, made.as_uri(), "overview", PICTURE)
                continue
            for view in VIEWS:
                if view != "compare":
                    draw(page, made.as_uri(), view, folder / f"{view.replace('/', '-')}-{scheme}.png")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
